//! One request on the control socket: looked up in the table of routes, read within limits, and passed to
//! [`Control`] with a deadline.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    answer::{self, Body},
    control::{Answer, Control, ExecSession, Peer},
    fault::{Code, Fault},
    frame::PROTOCOL,
    limits::{BODY_DEADLINE, CALL_DEADLINE, MAX_ARGUMENTS, MAX_JSON, MAX_LASTING, MAX_POLICY},
    routes::{Found, Operation, Routes},
    types::{ExecRequest, LogQuery, Stop},
};

/// The description of the API.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Answers requests. Shared by all connections.
pub(crate) struct Service {
    pub control: Arc<dyn Control>,
    pub routes: Routes,
    /// Permits for exec sessions, event streams and logs, which may last.
    pub lasting: Arc<Semaphore>,
}

/// What is left to do on a connection after its last answer: an exec session.
pub(crate) struct Pending {
    pub upgrade: OnUpgrade,
    pub session: ExecSession,
    pub place: OwnedSemaphorePermit,
}

impl Service {
    /// Answers one request; an exec session that it begins is put into `pending`.
    pub async fn handle(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        pending: &mut Option<Pending>,
    ) -> Response<Body> {
        match self.answer(request, peer, pending).await {
            Ok(response) => response,
            Err(fault) => answer::fault(&fault),
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: Peer,
        pending: &mut Option<Pending>,
    ) -> Result<Response<Body>, Fault> {
        let Found { operation, name } = self.routes.find(request.method(), request.uri().path())?;
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        query.only(known_to(operation))?;
        // An operation that changes something is carried out to its end by a task with its own reference to
        // the control.
        let control = Arc::clone(&self.control);
        let name = name.unwrap_or_default();
        match operation {
            Operation::SetPolicy => {
                let restart_agents = query.flag("restart_agents")?;
                let text = read(request.into_body(), MAX_POLICY).await?;
                let text = String::from_utf8(text.into())
                    .map_err(|_| Fault::new(Code::BadRequest, "the policy is not UTF-8"))?;
                ok(&carried_out(async move { control.set_policy(peer, text, restart_agents).await }).await?)
            }
            Operation::Exec => {
                wants_upgrade(request.headers())?;
                let upgrade = hyper::upgrade::on(&mut request);
                let asked: ExecRequest = read_json(request.into_body()).await?;
                check_exec(&asked)?;
                // Taken before anything is started.
                let place = self.place()?;
                let session = within(control.exec(peer, asked)).await?;
                *pending = Some(Pending { upgrade, session, place });
                Ok(switching())
            }
            Operation::Stop => {
                let body = read(request.into_body(), MAX_JSON).await?;
                let stop = if body.is_empty() { Stop::default() } else { parse_json(&body)? };
                accepted(&carried_out(async move { control.stop(peer, stop).await }).await?)
            }
            Operation::AcceptIdentity => {
                let asked = read_json(request.into_body()).await?;
                ok(&carried_out(async move { control.accept_identity(peer, asked).await }).await?)
            }
            Operation::ForgetIdentity => {
                let asked = read_json(request.into_body()).await?;
                ok(&carried_out(async move { control.forget_identity(peer, asked).await }).await?)
            }
            Operation::AnswerApproval => {
                let answer = read_json(request.into_body()).await?;
                ok(&carried_out(async move { control.answer_approval(peer, name, answer).await }).await?)
            }
            Operation::Restart => {
                accepted(&carried_out(async move { control.restart(peer, name).await }).await?)
            }
            Operation::Crash => accepted(&carried_out(async move { control.crash(peer, name).await }).await?),
            Operation::Logs => {
                let asked = query.logs()?;
                let place = self.place()?;
                let stream = within(control.logs(asked)).await?;
                Ok(answer::bytes(answer::LOGS, held(stream, place)))
            }
            Operation::Status => ok(&within(control.status()).await?),
            Operation::Tree => ok(&within(control.tree()).await?),
            Operation::Policy => ok(&within(control.policy()).await?),
            Operation::Identities => ok(&within(control.identities()).await?),
            Operation::Approvals => ok(&within(control.approvals()).await?),
            Operation::Events => {
                let place = self.place()?;
                Ok(answer::events(held(control.events(), place)))
            }
            Operation::Metrics => {
                let text = within(control.metrics()).await?;
                Ok(answer::whole(StatusCode::OK, answer::METRICS, text))
            }
            Operation::Openapi => Ok(answer::whole(StatusCode::OK, "application/json", OPENAPI)),
        }
    }

    /// Takes a permit for a session or stream that may last.
    fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        self.lasting.clone().try_acquire_owned().map_err(|_| {
            let detail =
                format!("{MAX_LASTING} exec sessions, event streams and logs are open: no more at a time");
            Fault::new(Code::Unavailable, detail).hint("close some")
        })
    }
}

/// Returns the names that an operation's query may have.
fn known_to(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::SetPolicy => &["restart_agents"],
        Operation::Logs => &["agent", "follow", "tail"],
        _ => &[],
    }
}

/// Makes a stream keep its permit until it is dropped.
fn held<T: Send + 'static>(
    stream: BoxStream<'static, T>,
    place: OwnedSemaphorePermit,
) -> BoxStream<'static, T> {
    stream
        .map(move |item| {
            let _ = &place;
            item
        })
        .boxed()
}

fn ok(value: &impl serde::Serialize) -> Result<Response<Body>, Fault> {
    Ok(answer::json(StatusCode::OK, value))
}

fn accepted(value: &impl serde::Serialize) -> Result<Response<Body>, Fault> {
    Ok(answer::json(StatusCode::ACCEPTED, value))
}

async fn within<T>(call: Answer<'_, T>) -> Result<T, Fault> {
    tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or_else(|_| Err(late(CALL_DEADLINE)))
}

/// Carries a change out to its end, whatever becomes of the client. The future that answers a request is
/// dropped with its connection, and half a change would be one that nobody asked for, or that is on no
/// record.
async fn carried_out<T: Send + 'static>(
    change: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    let change = tokio::spawn(change);
    let panicked =
        |_| Err(Fault::new(Code::Internal, "a part failed over it; whether it was done is not known"));
    within(Box::pin(async { change.await.unwrap_or_else(panicked) })).await
}

fn late(after: Duration) -> Fault {
    Fault::new(Code::Timeout, format!("no answer within {} s", after.as_secs()))
        .hint("a part may be restarting; `cofferdam tree NAME` shows which")
}

async fn read(body: Incoming, most: usize) -> Result<Bytes, Fault> {
    let too_long = || Fault::new(Code::TooLarge, format!("the body is longer than {most} bytes"));
    // By the announced length, before any of the body has come.
    if body.size_hint().lower() > most as u64 {
        tokio::spawn(tokio::time::timeout(BODY_DEADLINE, discard(body)));
        return Err(too_long());
    }
    let whole = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, most).collect()).await;
    match whole {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Fault::new(Code::BadRequest, "the body ended early")),
        Err(_) => Err(Fault::new(
            Code::Timeout,
            format!("the body did not come within {} s", BODY_DEADLINE.as_secs()),
        )),
    }
}

/// Reads the rest of a body that is refused, for a client that reads its answer only after sending it: if the
/// connection were closed with something unread, it would be reset.
async fn discard(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, Fault> {
    parse_json(&read(body, MAX_JSON).await?)
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|e| {
        Fault::new(Code::BadRequest, format!("the body does not fit: {e}")).hint("GET /v1/openapi.json")
    })
}

fn check_exec(asked: &ExecRequest) -> Result<(), Fault> {
    let bad = |detail: &str| Err(Fault::new(Code::BadRequest, detail));
    // An empty program name is allowed here: it is reported later as a program that isn't there.
    if asked.command.is_empty() {
        return bad("`command` must hold a program");
    }
    if asked.command.len() > MAX_ARGUMENTS || asked.env.len() > MAX_ARGUMENTS {
        return bad("too many arguments or variables");
    }
    let words =
        asked.command.iter().chain(asked.env.keys()).chain(asked.env.values()).chain(asked.cwd.iter());
    if words.into_iter().any(|w| w.contains('\0')) {
        return bad("a NUL byte can't be passed to a program");
    }
    if asked.env.keys().any(|k| k.is_empty() || k.contains('=')) {
        return bad("a variable's name must not be empty or hold `=`");
    }
    if asked.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/')) {
        return bad("`cwd` must be an absolute path inside the sandbox");
    }
    Ok(())
}

fn wants_upgrade(headers: &HeaderMap) -> Result<(), Fault> {
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token))))
    };
    if has(header::CONNECTION, "upgrade") && has(header::UPGRADE, PROTOCOL) {
        return Ok(());
    }
    Err(Fault::new(
        Code::UpgradeRequired,
        format!("this path wants `connection: upgrade` and `upgrade: {PROTOCOL}`"),
    ))
}

fn switching() -> Response<Body> {
    let mut response =
        answer::whole(StatusCode::SWITCHING_PROTOCOLS, "application/octet-stream", Bytes::new());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// A parsed query: a few pairs, each name once.
struct Query<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Result<Self, Fault> {
        let bad = |detail: &str| Fault::new(Code::BadRequest, detail);
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let value = percent_decode_str(value).decode_utf8().map_err(|_| bad("the query is not UTF-8"))?;
            if pairs.len() >= 8 || pairs.iter().any(|(n, _)| *n == name) {
                return Err(bad("a name stands twice in the query, or there are too many"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    fn only(&self, known: &[&str]) -> Result<(), Fault> {
        match self.0.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(32).collect();
                Err(Fault::new(Code::BadRequest, format!("unknown name {name:?} in the query")))
            }
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| &**v)
    }

    fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.value(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(Fault::new(Code::BadRequest, format!("`{name}` takes true or false"))),
        }
    }

    fn logs(&self) -> Result<LogQuery, Fault> {
        let tail = self.value("tail").map(str::parse).transpose();
        Ok(LogQuery {
            agent: self.value("agent").map(str::to_owned),
            follow: self.flag("follow")?,
            tail: tail.map_err(|_| Fault::new(Code::BadRequest, "`tail` takes a number of lines"))?,
        })
    }
}
