//! The CLI's side of the control socket: one connection per request, typed answers.
//!
//! The client trusts the socket's directory, which only the operator can enter; still, every answer is
//! bounded.

mod events;
mod exec;
mod terminal;

use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    fault::Fault,
    frame::PROTOCOL,
    limits::{CLIENT_DEADLINE, MAX_ANSWER, QUESTION_DEADLINE},
    types::{
        AcceptIdentity, Accepted, Approval, ApprovalAnswer, Event, ExecRequest, ForgetIdentity, Identity,
        LogQuery, PolicyChange, PolicyView, Status, Stop, TreeNode,
    },
};

pub use exec::{ExecClient, Stdio};
pub use terminal::{RawTerminal, window_of};

/// The characters that are percent-encoded in a path segment or a query's value, the slash among them.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Longest path that fits a `sockaddr_un` (unix(7)), its NUL aside.
const MAX_SOCKET_PATH: usize = 107;

/// Why the control API gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there: the sandbox isn't running, or isn't ours.
    #[error("no sandbox answers at {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sandbox answered with an error.
    #[error(transparent)]
    Fault(Box<Fault>),
    /// The connection ended early; the operator actor may have restarted.
    #[error("the control connection was lost: {0}")]
    Lost(String),
    /// The answer isn't what this version understands.
    #[error("the sandbox answered in a form that this version does not know: {0}")]
    Unknown(String),
    /// No answer came in time.
    #[error(
        "the sandbox did not answer within {} s: its supervisor is stopped, hangs (then it is replaced), or the machine is very busy",
        .0.as_secs()
    )]
    Timeout(Duration),
    /// Reading or writing here failed.
    #[error("{0}")]
    Local(io::Error),
}

impl From<Fault> for ClientError {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

/// Talks to one sandbox.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// For a control socket, usually `STATE/NAME/control.sock`. Nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The whole state on one page.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all that follow.
    pub async fn status(&self) -> Result<Status> {
        self.json(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The live tree.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn tree(&self) -> Result<TreeNode> {
        self.json(Method::GET, "/v1/tree", Bytes::new()).await
    }

    /// The policy in force.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn policy(&self) -> Result<PolicyView> {
        self.json(Method::GET, "/v1/policy", Bytes::new()).await
    }

    /// Puts a policy in force.
    ///
    /// # Errors
    /// See [`ClientError`]; a policy with errors is a [`Fault`] with its diagnostics.
    pub async fn set_policy(&self, text: String, restart_agents: bool) -> Result<PolicyChange> {
        self.json(Method::PUT, &format!("/v1/policy?restart_agents={restart_agents}"), text.into()).await
    }

    /// What each program contained at its first use.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn identities(&self) -> Result<Vec<Identity>> {
        self.json(Method::GET, "/v1/identities", Bytes::new()).await
    }

    /// Trusts a program's new content.
    ///
    /// # Errors
    /// See [`ClientError`]; a [`Fault`] where that is not what was seen.
    pub async fn accept_identity(&self, asked: &AcceptIdentity) -> Result<Identity> {
        self.json(Method::POST, "/v1/identities/accept", body(asked)?).await
    }

    /// Forgets a program.
    ///
    /// # Errors
    /// See [`ClientError`]; a [`Fault`] where nothing is remembered.
    pub async fn forget_identity(&self, asked: &ForgetIdentity) -> Result<Identity> {
        self.json(Method::POST, "/v1/identities/forget", body(asked)?).await
    }

    /// Every request that the operator was asked about.
    ///
    /// # Errors
    /// As for [`Self::status`].
    pub async fn approvals(&self) -> Result<Vec<Approval>> {
        self.json(Method::GET, "/v1/approvals", Bytes::new()).await
    }

    /// Answers one of those questions.
    ///
    /// # Errors
    /// As for [`Self::status`].
    pub async fn answer_approval(&self, id: &str, answer: &ApprovalAnswer) -> Result<Approval> {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        self.json(Method::POST, &format!("/v1/approvals/{id}"), body(answer)?).await
    }

    /// Metrics in Prometheus' text format.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn metrics(&self) -> Result<String> {
        let text = self.whole(Method::GET, "/v1/metrics", Bytes::new()).await?;
        String::from_utf8(text.into()).map_err(|e| ClientError::Unknown(e.to_string()))
    }

    /// Restarts an actor, named by its path in the tree.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restart(&self, actor: &str) -> Result<Accepted> {
        let actor = utf8_percent_encode(actor, SEGMENT);
        self.json(Method::POST, &format!("/v1/actors/{actor}/restart"), Bytes::new()).await
    }

    /// Makes an actor panic.
    ///
    /// # Errors
    /// See [`ClientError`]; a [`Fault`] where fault injection is off.
    pub async fn crash(&self, actor: &str) -> Result<Accepted> {
        let actor = utf8_percent_encode(actor, SEGMENT);
        self.json(Method::POST, &format!("/v1/actors/{actor}/crash"), Bytes::new()).await
    }

    /// Ends the sandbox in order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop(&self, stop: Stop) -> Result<Accepted> {
        self.json(Method::POST, "/v1/stop", body(&stop)?).await
    }

    /// Agents' output, in pieces as they come; ends by itself unless `follow`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(&self, query: &LogQuery) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut path = format!("/v1/logs?follow={}", query.follow);
        if let Some(agent) = &query.agent {
            path.push_str(&format!("&agent={}", utf8_percent_encode(agent, SEGMENT)));
        }
        if let Some(tail) = query.tail {
            path.push_str(&format!("&tail={tail}"));
        }
        let response = self.send(Method::GET, &path, Bytes::new()).await?;
        Ok(events::pieces(response.into_body()))
    }

    /// Events from now on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        let response = self.send(Method::GET, "/v1/events", Bytes::new()).await?;
        Ok(events::events(response.into_body()))
    }

    /// Starts a process; [`ExecClient::drive`] connects it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn exec(&self, asked: &ExecRequest) -> Result<ExecClient> {
        let mut request = request(Method::POST, "/v1/exec", body(asked)?)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        let response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::Unknown(format!("exec was answered {}", response.status())));
        }
        let io = hyper::upgrade::on(response).await.map_err(|e| ClientError::Lost(e.to_string()))?;
        Ok(ExecClient::new(io))
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let text = self.whole(method, path, body).await?;
        serde_json::from_slice(&text).map_err(|e| ClientError::Unknown(e.to_string()))
    }

    async fn whole(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let response = self.send(method, path, body).await?;
        collect(response).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        self.exchange(request(method, path, body)?).await
    }

    /// One request on a connection of its own; an error of the API becomes a [`Fault`].
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let lost = |e: hyper::Error| ClientError::Lost(e.to_string());
        let deadline = match *request.method() {
            Method::GET => QUESTION_DEADLINE,
            _ => CLIENT_DEADLINE,
        };
        let exchange = async {
            let stream = connect(&self.path)
                .await
                .map_err(|source| ClientError::Connect { path: self.path.clone(), source })?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
            // Ends with the answer's body, or when the upgraded stream is dropped.
            tokio::spawn(connection.with_upgrades());
            sender.send_request(request).await.map_err(lost)
        };
        let response = in_time(deadline, exchange).await??;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let text = collect(response).await?;
        match serde_json::from_slice::<Fault>(&text) {
            Ok(fault) => Err(fault.into()),
            Err(_) => Err(ClientError::Unknown(format!("an error {status}"))),
        }
    }
}

async fn in_time<T>(deadline: Duration, answer: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(deadline, answer).await.map_err(|_| ClientError::Timeout(deadline))
}

fn body(value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(value).map_err(|e| ClientError::Unknown(e.to_string()))?;
    Ok(text.into())
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let whole = in_time(CLIENT_DEADLINE, Limited::new(response.into_body(), MAX_ANSWER).collect()).await?;
    Ok(whole.map_err(|e| ClientError::Lost(e.to_string()))?.to_bytes())
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "cofferdam")
        .body(Full::new(body))
        .map_err(|e| ClientError::Unknown(e.to_string()))
}

/// Connects, also where the path is longer than a `sockaddr_un` holds.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path).await;
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = std::fs::File::open(dir)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    UnixStream::connect(short).await
}
