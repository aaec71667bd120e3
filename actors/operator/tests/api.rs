//! The control API from both ends: every answer, every refusal, every bound.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod house;

use std::{os::unix::process::CommandExt as _, process::Command, time::Duration};

use futures_util::StreamExt as _;
use house::{approval, event, house, identity, status, tree, unserved};
use operator::{
    Client, Code, Fault, Owner,
    client::ClientError,
    limits::{MAX_CONNECTIONS, MAX_JSON, MAX_LASTING, MAX_POLICY},
    prepare,
    types::{
        AcceptIdentity, ApprovalAnswer, ApprovalVerdict, ExecRequest, ForgetIdentity, LogQuery, Scope, Stop,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

fn fault<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Fault {
    match answer {
        Err(ClientError::Fault(fault)) => *fault,
        other => panic!("no fault: {other:?}"),
    }
}

/// Sends bytes as they are; gives what comes back, as far as the first read of an answer's first line brings
/// it.
async fn raw(path: &std::path::Path, text: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(text).await.unwrap();
    let mut out = Vec::new();
    let first_line = async {
        while !out.contains(&b'\n') && stream.read_buf(&mut out).await.is_ok_and(|length| length > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(60), first_line).await.expect("an answer");
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn everything_can_be_asked() {
    let house = house();
    let client = &house.client;
    assert_eq!(client.status().await.unwrap(), status());
    assert_eq!(client.tree().await.unwrap(), tree());
    assert!(client.metrics().await.unwrap().starts_with("# TYPE cofferdam_actor_up gauge"));
    assert_eq!(client.policy().await.unwrap().text, "version: 1\n");
    assert_eq!(client.set_policy("version: 1".into(), true).await.unwrap().generation, 4);
    assert_eq!(client.restart("agents/hermes").await.unwrap().target, "agents/hermes");
    assert_eq!(client.identities().await.unwrap(), [identity()]);
    let asked = AcceptIdentity { path: "/a\nb".into(), sha256: "00".into() };
    assert_eq!(client.accept_identity(&asked).await.unwrap().pending, None);
    let asked = ForgetIdentity { path: "/a".into() };
    assert_eq!(client.forget_identity(&asked).await.unwrap(), identity());
    assert_eq!(client.approvals().await.unwrap(), [approval()]);
    let answer = ApprovalAnswer {
        verdict: ApprovalVerdict::Approve,
        scope: Some(Scope::Run),
        method: None,
        path: None,
    };
    let answered = client.answer_approval("box-7", &answer).await.unwrap();
    assert_eq!((&*answered.id, answered.scope), ("box-7", Some(Scope::Run)));
    assert_eq!(client.stop(Stop { grace_ms: Some(10) }).await.unwrap().action, "stop");
    let uid = nix::unistd::geteuid();
    let did = [
        format!("set 10 true by {uid}"),
        format!("accept /a\nb 00 by {uid}"),
        format!("forget /a by {uid}"),
        format!("Approve box-7 by {uid}"),
        "Stop { grace_ms: Some(10) }".into(),
    ];
    assert_eq!(house.did(), did);
}

#[tokio::test]
async fn faults_come_through_whole() {
    let house = house();
    let bad = fault(house.client.set_policy("bad".into(), false).await);
    assert_eq!(bad.code, Code::InvalidPolicy);
    assert_eq!(bad.diagnostics, Some(serde_json::json!([{"line": 1}])));
    assert_eq!(fault(house.client.restart("nobody").await).code, Code::NotFound);
    let off = fault(house.client.crash("policy").await);
    assert_eq!(
        (off.code, off.hint.as_deref()),
        (Code::Forbidden, Some("start it with --allow-fault-injection"))
    );
    let long = "x".repeat(MAX_POLICY + 1);
    assert_eq!(fault(house.client.set_policy(long, false).await).code, Code::TooLarge);
    // A control that panics costs its own answer only.
    assert_eq!(fault(house.client.crash("panic").await).code, Code::Internal);
    assert!(house.client.status().await.is_ok());
}

#[tokio::test]
async fn nobody_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Client::new(dir.path().join("control.sock")).status().await.unwrap_err();
    assert!(gone.to_string().contains("no sandbox answers at"), "{gone}");
}

#[tokio::test]
async fn a_long_path_is_reached_too() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    // Bound by a short name, as the sandbox itself would have to.
    let short = dir.path().join("s");
    std::os::unix::fs::symlink(&deep, &short).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(short.join("control.sock")).unwrap();
    let it = unserved();
    tokio::spawn(prepare(listener, it.control.clone(), Owner::this_process()).unwrap().run());
    assert!(Client::new(deep.join("control.sock")).status().await.is_ok());
}

#[tokio::test]
async fn logs_come_as_they_were_written() {
    let house = house();
    let query = LogQuery { agent: Some("her/mes".into()), follow: true, tail: Some(5) };
    let pieces: Vec<_> = house.client.logs(&query).await.unwrap().map(|p| p.unwrap()).collect().await;
    assert_eq!(pieces.concat(), b"one\n\0two\xff\n");
    assert_eq!(house.did(), [format!("{query:?}")]);
    let query = LogQuery { agent: Some("nobody".into()), ..LogQuery::default() };
    assert_eq!(fault(house.client.logs(&query).await.map(|_| ())).code, Code::NotFound);
}

#[tokio::test]
async fn events_stream_as_they_happen() {
    let house = house();
    let mut events = house.client.events().await.unwrap();
    while house.events.receiver_count() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for seq in 0..3 {
        house.events.send(event(seq)).unwrap();
        let got = tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("in time");
        assert_eq!(got.unwrap().unwrap(), event(seq));
    }
    drop(events);
    // The server notices that the reader left.
    for _ in 0..12_000 {
        let _ = house.events.send(event(9));
        if house.events.receiver_count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the reader is still there");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let house = house();
    let ask =
        |line: &str, rest: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rest}\r\n");
    for (request, wanted) in [
        (ask("GET /v1/nothing", ""), "404"),
        (ask("POST /v1/status", ""), "405"),
        (ask("GET /v1/status?x=1", ""), "400"),
        (ask("GET /v1/logs?tail=many", ""), "400"),
        (ask("GET /v1/logs?tail=1&tail=2", ""), "400"),
        (ask("PUT /v1/policy?restart_agents=maybe", ""), "400"),
        (ask("POST /v1/actors/..%2F..%2F%00/restart", ""), "404"),
        (ask("POST /v1/exec", ""), "426"),
        (ask("POST /v1/stop", "content-length: 7\r\n") + "{\"a\":1}", "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (ask("GET /v1/status", &format!("a: {}\r\n", "b".repeat(20_000))), "431"),
        (ask("GET /v1/status", &"a: b\r\n".repeat(40)), "431"),
    ] {
        let answer = raw(&house.path, request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {wanted}")),
            "{} → {answer}",
            request.lines().next().unwrap()
        );
    }
    let exec = |body: &str| {
        let head =
            "POST /v1/exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: cofferdam-exec/1\r\n";
        format!("{head}content-length: {}\r\n\r\n{body}", body.len())
    };
    for body in [
        "{}",
        r#"{"command":[]}"#,
        r#"{"command":["a\u0000b"]}"#,
        r#"{"command":["a"],"env":{"A=B":"c"}}"#,
        r#"{"command":["a"],"cwd":"relative"}"#,
        r#"{"command":["a"],"shell":true}"#,
    ] {
        let answer = raw(&house.path, exec(body).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body} → {answer}");
    }
    for (path, body) in
        [("accept", "{}"), ("accept", r#"{"path":"/a"}"#), ("forget", r#"{"path":"/a","x":1}"#)]
    {
        let head =
            ask(&format!("POST /v1/identities/{path}"), &format!("content-length: {}\r\n", body.len()));
        let answer = raw(&house.path, (head + body).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path} {body} → {answer}");
    }
    assert!(house.did().is_empty());
}

/// Nothing of it has come, nor will: who waits for it has waited for nothing.
#[tokio::test]
async fn a_body_is_refused_by_the_length_that_it_is_said_to_have() {
    let house = house();
    let upgrade = "connection: upgrade\r\nupgrade: cofferdam-exec/1\r\n";
    let ask = async |line: &str, more: &str, length: u64| {
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\n{more}content-length: {length}\r\n\r\n");
        let mut stream = UnixStream::connect(&house.path).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let whole =
            async { while !answer.ends_with(b"}") && stream.read_buf(&mut answer).await.unwrap() > 0 {} };
        tokio::time::timeout(Duration::from_secs(60), whole).await.expect("an answer");
        String::from_utf8(answer).unwrap()
    };
    for (line, more, most) in [
        ("PUT /v1/policy", "", MAX_POLICY),
        ("POST /v1/stop", "", MAX_JSON),
        ("POST /v1/exec", upgrade, MAX_JSON),
        ("POST /v1/identities/accept", "", MAX_JSON),
        ("POST /v1/identities/forget", "", MAX_JSON),
    ] {
        for length in [most as u64 + 1, i64::MAX as u64] {
            let answer = ask(line, more, length).await;
            assert!(answer.starts_with("HTTP/1.1 413"), "{line} of {length} → {answer}");
            assert!(answer.contains(&format!("longer than {most} bytes")), "{answer}");
        }
    }
    assert!(house.did().is_empty());
}

#[tokio::test]
async fn connections_are_bounded_and_the_one_too_many_is_told() {
    let house = house();
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        open.push(UnixStream::connect(&house.path).await.unwrap());
    }
    // However many, and however fast the answer is there.
    for _ in 0..100 {
        let busy = fault(house.client.status().await);
        assert_eq!((busy.code, &*busy.detail), (Code::Unavailable, "too many control connections"));
    }
    open.clear();
    let room = async {
        while house.client.status().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), room).await.expect("room again");
}

/// Whatever is open, the operator can look and end it.
#[tokio::test]
async fn what_lasts_leaves_places_for_calls() {
    let house = house();
    let session = || ExecRequest { command: vec!["deaf".into()], stdin: true, ..ExecRequest::default() };
    let mut sessions = Vec::new();
    for _ in 2..MAX_LASTING {
        sessions.push(house.client.exec(&session()).await.unwrap());
    }
    let _events = house.client.events().await.unwrap();
    let mut more = house.client.events().await.unwrap();
    let started = house.did().len();
    let full = |busy: Fault| {
        assert_eq!(busy.code, Code::Unavailable);
        assert!(busy.detail.starts_with("48 exec sessions"), "{busy}");
    };
    full(fault(house.client.exec(&session()).await));
    full(fault(house.client.events().await.map(drop)));
    full(fault(house.client.logs(&LogQuery::default()).await.map(drop)));
    assert_eq!(house.did().len(), started, "nothing is begun for one too many");
    for _ in 0..MAX_CONNECTIONS {
        house.client.status().await.unwrap();
    }
    house.client.stop(Stop::default()).await.unwrap();
    // Each gives its place back when its client leaves, a stream as soon as it has something to say.
    drop(sessions.pop());
    let mut again = house.client.exec(&session()).await;
    while again.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        again = house.client.exec(&session()).await;
    }
    full(fault(house.client.logs(&LogQuery::default()).await.map(drop)));
    house.events.send(event(1)).unwrap();
    assert_eq!(more.next().await.unwrap().unwrap(), event(1));
    drop(more);
    let room = async {
        while house.client.logs(&LogQuery::default()).await.is_err() {
            let _ = house.events.send(event(2));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), room).await.expect("room again");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let house = house();
    tokio::time::pause();
    let mut stream = UnixStream::connect(&house.path).await.unwrap();
    stream.write_all(b"GET /v1/st").await.unwrap();
    let mut out = Vec::new();
    stream.read_to_end(&mut out).await.unwrap();
}

/// A change that has begun is made, and put on record by whoever makes it, though nobody waits for the answer
/// any more.
#[tokio::test]
async fn a_change_outlives_its_client() {
    let house = house();
    let mut client = UnixStream::connect(&house.path).await.unwrap();
    client.write_all(b"PUT /v1/policy HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nslow").await.unwrap();
    let within = async |what: &str| {
        let done = async {
            while !house.did().iter().any(|done| done.starts_with(what)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), done).await
    };
    within("set 4").await.expect("it begins");
    drop(client);
    within("the slow one is set").await.expect("it ends");
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up() {
    let house = house();
    // Only time is waited for from here on, so it flies.
    tokio::time::pause();
    assert_eq!(fault(house.client.crash("proxy").await).code, Code::Timeout);
}

/// Runs as another user, in a process of its own, below.
#[test]
fn stranger() {
    let Ok(path) = std::env::var("COFFERDAM_TEST_STRANGER") else { return };
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("\"forbidden\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tried: only root can become another user");
        return;
    }
    let house = house();
    for (path, mode) in [(house.path.parent().unwrap(), 0o755), (&*house.path, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // Copied, since the target folder may be closed to others.
    let copy = house.path.with_file_name("stranger");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.args(["--exact", "stranger"]).env("COFFERDAM_TEST_STRANGER", &house.path).uid(65534).gid(65534);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
