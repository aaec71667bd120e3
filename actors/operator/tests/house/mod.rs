//! A sandbox that exists only as answers, and a control socket in front of it.

#![allow(dead_code, reason = "each test binary uses its part")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panic")]

use std::{
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use operator::{
    Answer, Client, Code, Control, ExecControl, ExecEnds, ExecOutput, ExecSession, Fault, Owner, Peer,
    prepare,
    types::{
        AcceptIdentity, Accepted, AgentStatus, Approval, ApprovalAnswer, ApprovalState, BudgetStatus,
        ControlStatus, CredentialStatus, Event, ExecRequest, Exit, ForgetIdentity, Identity, LogQuery,
        PolicyChange, PolicyStatus, PolicyView, ProviderStatus, SandboxState, Status, Stop, TreeNode, Used,
    },
};
use tokio::sync::{broadcast, mpsc};

pub const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// What was asked for, in words.
pub type Done = Arc<Mutex<Vec<String>>>;

pub struct Fake {
    pub done: Done,
    pub events: broadcast::Sender<Event>,
}

fn answer<T: Send + 'static>(it: Result<T, Fault>) -> Answer<'static, T> {
    Box::pin(async move { it })
}

impl Fake {
    fn did(&self, what: String) {
        self.done.lock().unwrap().push(what);
    }
}

pub fn status() -> Status {
    Status {
        name: "assistant".into(),
        version: "0.1.0".into(),
        state: SandboxState::Running,
        audit_refuses: None,
        started_at: "2026-11-22T10:00:00Z".into(),
        uptime_ms: 1234,
        heart_pid: Some(10),
        supervisor_pid: 11,
        supervisor_restarts: 0,
        rooted: false,
        enforcement: "strict".into(),
        fault_injection: true,
        controls: vec![ControlStatus { name: "landlock".into(), enforced: true, detail: None }],
        policy: PolicyStatus { generation: 3, sha256: SHA.into(), loaded_at: "2026-11-22T10:00:00Z".into() },
        agents: vec![AgentStatus {
            name: "hermes".into(),
            state: "running".into(),
            pid: Some(7),
            restarts: 1,
            uptime_ms: Some(1000),
            health: Some("healthy".into()),
            last_exit: Some(Exit { code: None, signal: Some(9) }),
        }],
        providers: vec![ProviderStatus {
            name: "local".into(),
            kind: "openai".into(),
            endpoint: "127.0.0.1:8000".into(),
            trust: "self-hosted".into(),
            cost: "none".into(),
            credential: None,
            state: "unused".into(),
        }],
        budgets: vec![BudgetStatus {
            per: "day".into(),
            provider: None,
            model: Some("gpt-*".into()),
            state: "open".into(),
            tokens: Some(Used { used: Some(5), limit: 20 }),
            requests: None,
            ends_at: "2026-11-23T00:00:00Z".into(),
        }],
        credentials: vec![CredentialStatus {
            name: "github".into(),
            env: Some("GITHUB_TOKEN".into()),
            uses: vec!["api.github.com:443 /repos/** by /usr/bin/gh".into()],
        }],
    }
}

pub fn tree() -> TreeNode {
    let leaf = |name: &str| TreeNode {
        name: name.into(),
        kind: "actor".into(),
        state: "up".into(),
        uptime_ms: Some(5),
        restarts: 2,
        last_failure: Some("panicked: fault injected".into()),
        children: vec![],
    };
    TreeNode {
        kind: "supervisor".into(),
        children: vec![leaf("telemetry"), leaf("proxy")],
        ..leaf("sandbox")
    }
}

pub fn approval() -> Approval {
    Approval {
        id: "box-7".into(),
        state: ApprovalState::Held,
        scope: None,
        host: "api.example.com".into(),
        port: 443,
        method: "GET".into(),
        path: "/a".into(),
        binary: "/usr/bin/curl".into(),
        sha256: SHA.into(),
        generation: 1,
        asked: 3,
        held: 1,
        first_at: "2026-01-01T00:00:00Z".into(),
        last_at: "2026-01-01T00:00:01Z".into(),
        answered_by: None,
    }
}

pub fn identity() -> Identity {
    Identity { path: "/usr/bin/curl".into(), sha256: SHA.into(), pending: Some(SHA.into()) }
}

pub fn event(seq: u64) -> Event {
    Event {
        seq,
        at: "2026-11-22T10:00:00Z".into(),
        kind: "decision".into(),
        data: serde_json::json!({"verdict": "denied", "host": "evil.example", "line": "a\nb"}),
    }
}

impl Control for Fake {
    fn status(&self) -> Answer<'_, Status> {
        answer(Ok(status()))
    }
    fn tree(&self) -> Answer<'_, TreeNode> {
        answer(Ok(tree()))
    }
    fn metrics(&self) -> Answer<'_, String> {
        answer(Ok("# TYPE cofferdam_actor_up gauge\ncofferdam_actor_up{actor=\"proxy\"} 1\n".into()))
    }
    fn events(&self) -> BoxStream<'static, Event> {
        stream::unfold(self.events.subscribe(), |mut from| async { Some((from.recv().await.ok()?, from)) })
            .boxed()
    }
    fn logs(&self, query: LogQuery) -> Answer<'_, BoxStream<'static, Bytes>> {
        self.did(format!("{query:?}"));
        if query.agent.as_deref() == Some("nobody") {
            return answer(Err(Fault::new(Code::NotFound, "no agent is called \"nobody\"")));
        }
        let pieces = [Bytes::from_static(b"one\n\0two"), Bytes::from_static(b"\xff\n")];
        answer(Ok(stream::iter(pieces).boxed()))
    }
    fn policy(&self) -> Answer<'_, PolicyView> {
        answer(Ok(PolicyView {
            generation: 3,
            sha256: SHA.into(),
            loaded_at: "2026-11-22T10:00:00Z".into(),
            text: "version: 1\n".into(),
        }))
    }
    fn set_policy(&self, by: Peer, text: String, restart_agents: bool) -> Answer<'_, PolicyChange> {
        self.did(format!("set {} {restart_agents} by {}", text.len(), by.uid));
        if text == "slow" {
            let done = self.done.clone();
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                done.lock().unwrap().push("the slow one is set".into());
                Ok(PolicyChange { generation: 4, unchanged: false, warnings: vec![], restarted: vec![] })
            });
        }
        if text == "bad" {
            let fault = Fault::new(Code::InvalidPolicy, "the policy has 1 error");
            return answer(Err(fault.diagnostics(serde_json::json!([{"line": 1}]))));
        }
        answer(Ok(PolicyChange {
            generation: 4,
            unchanged: false,
            warnings: vec!["risky".into()],
            restarted: vec![],
        }))
    }
    fn identities(&self) -> Answer<'_, Vec<Identity>> {
        answer(Ok(vec![identity()]))
    }
    fn accept_identity(&self, by: Peer, asked: AcceptIdentity) -> Answer<'_, Identity> {
        self.did(format!("accept {} {} by {}", asked.path, asked.sha256, by.uid));
        answer(Ok(Identity { sha256: asked.sha256, pending: None, ..identity() }))
    }
    fn forget_identity(&self, by: Peer, asked: ForgetIdentity) -> Answer<'_, Identity> {
        self.did(format!("forget {} by {}", asked.path, by.uid));
        answer(Ok(identity()))
    }
    fn approvals(&self) -> Answer<'_, Vec<Approval>> {
        answer(Ok(vec![approval()]))
    }
    fn answer_approval(&self, by: Peer, id: String, asked: ApprovalAnswer) -> Answer<'_, Approval> {
        self.did(format!("{:?} {id} by {}", asked.verdict, by.uid));
        answer(Ok(Approval { id, scope: asked.scope, ..approval() }))
    }
    fn restart(&self, _: Peer, actor: String) -> Answer<'_, Accepted> {
        if actor == "nobody" {
            return answer(Err(Fault::no_such_actor(&actor)));
        }
        answer(Ok(Accepted { action: "restart".into(), target: actor }))
    }
    fn crash(&self, _: Peer, actor: String) -> Answer<'_, Accepted> {
        match actor.as_str() {
            "proxy" => Box::pin(async { std::future::pending().await }),
            // The handler itself panics: the connection dies, the server doesn't.
            "panic" => Box::pin(async { panic!("in the control") }),
            _ => answer(Err(Fault::fault_injection_is_off())),
        }
    }
    fn stop(&self, _: Peer, stop: Stop) -> Answer<'_, Accepted> {
        self.did(format!("{stop:?}"));
        answer(Ok(Accepted { action: "stop".into(), target: "assistant".into() }))
    }
    fn exec(&self, _: Peer, request: ExecRequest) -> Answer<'_, ExecSession> {
        self.did(format!("exec {request:?}"));
        if request.command[0] == "nothere" {
            return answer(Err(Fault::new(Code::CommandNotFound, "nothere: not found")));
        }
        let (session, ends) = ExecSession::pair();
        tokio::spawn(process(request.command, ends, self.done.clone()));
        answer(Ok(session))
    }
}

/// A process in words: `cat` repeats its input, `deaf` takes none and ends on a signal, `flood N` writes N
/// bytes.
async fn process(command: Vec<String>, ends: ExecEnds, done: Done) {
    let ExecEnds { mut stdin, mut control, output } = ends;
    let exit = match command[0].as_str() {
        "cat" => cat(&mut stdin, &mut control, &output).await,
        "flood" => {
            let total: usize = command[1].parse().unwrap();
            for _ in 0..total / 1000 {
                let _ = output.send(ExecOutput::Stdout(Bytes::from(vec![b'x'; 1000]))).await;
            }
            Some(Exit { code: Some(0), signal: None })
        }
        _ => loop {
            match control.recv().await {
                Some(ExecControl::Signal(n)) => break Some(Exit { code: None, signal: Some(n) }),
                Some(ExecControl::Resize(_)) => {}
                None => break None,
            }
        },
    };
    match exit {
        Some(exit) => {
            let _ = output.send(ExecOutput::Exit(exit)).await;
        }
        None => done.lock().unwrap().push("hung up".into()),
    }
}

async fn cat(
    stdin: &mut mpsc::Receiver<Bytes>,
    control: &mut mpsc::Receiver<ExecControl>,
    output: &mpsc::Sender<ExecOutput>,
) -> Option<Exit> {
    loop {
        tokio::select! {
            bytes = stdin.recv() => match bytes {
                Some(bytes) => output.send(ExecOutput::Stdout(bytes)).await.ok()?,
                None => {
                    output.send(ExecOutput::Stderr(Bytes::from_static(b"bye\n"))).await.ok()?;
                    return Some(Exit { code: Some(7), signal: None });
                }
            },
            message = control.recv() => {
                let text = format!("{:?}\n", message?);
                output.send(ExecOutput::Stderr(text.into())).await.ok()?;
            }
        }
    }
}

pub struct House {
    pub client: Client,
    pub path: PathBuf,
    pub listener: UnixListener,
    pub done: Done,
    pub events: broadcast::Sender<Event>,
    pub control: Arc<Fake>,
    pub server: Option<tokio::task::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// A socket that nobody serves yet.
pub fn unserved() -> House {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let done = Done::default();
    let events = broadcast::channel(64).0;
    let control = Arc::new(Fake { done: done.clone(), events: events.clone() });
    House { client: Client::new(&path), path, listener, done, events, control, server: None, _dir: dir }
}

pub fn house() -> House {
    let mut it = unserved();
    let serving =
        prepare(it.listener.try_clone().unwrap(), it.control.clone(), Owner::this_process()).unwrap();
    it.server = Some(tokio::spawn(serving.run()));
    it
}

impl House {
    pub fn did(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    /// Waits until something was done.
    pub async fn until_did(&self, what: &str) {
        for _ in 0..12_000 {
            if self.did().iter().any(|d| d == what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not done: {what}; but {:?}", self.did());
    }
}
