//! The metrics endpoint: `GET /metrics` and `GET /healthz` over HTTP/1.1 on a listener that lives above the
//! actor. Serves nothing else, keeps few connections, and gives a slow client a deadline. On the loopback it
//! only answers requests for this machine's names.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::asked::is_for_this_machine;
use super::recorder::Recorder;

/// Connections served at once; more wait in the listen queue. A scraper needs one.
const CONNECTIONS_MAX: usize = 32;
/// How long a request may take to arrive, from the connection on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the client may take to read the answer. Then the connection's place is free for others, however
/// slowly it reads.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The most header fields accepted.
const HEADERS_MAX: usize = 64;
/// Pause after a failed accept (out of descriptors), so that the loop doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The Prometheus text format.
const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The answer to a request on the loopback for a name that isn't this machine's.
const OTHER_NAME: &str = "these metrics are for this machine: ask for them at the address on which they are served, or at localhost\n";

/// The health check: `Err` is the reason that `/healthz` answers with a 503.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves until aborted, which also ends the connections.
pub async fn serve(listener: TcpListener, recorder: Recorder, check: Check) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let any_name = listener.local_addr().is_ok_and(|address| !address.ip().is_loopback());
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (recorder, check) = (recorder.clone(), Arc::clone(&check));
                connections.spawn(async move {
                    let _permit = permit;
                    connection(stream, any_name, recorder, check).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the metrics listener");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one request. No connection is kept alive, since it would keep its place.
async fn connection(stream: TcpStream, any_name: bool, recorder: Recorder, check: Check) {
    let asked = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        asked.notify_one();
        let response = match any_name || is_for_this_machine(request.uri(), request.headers()) {
            true => respond(request.method(), request.uri().path(), &recorder, &check),
            false => answer(StatusCode::FORBIDDEN, TEXT_TYPE, OTHER_NAME.to_owned()),
        };
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // Errors are the client's: a reset, a malformed request (answered by the library).
    tokio::select! {
        _ = &mut serving => return,
        () = asked.notified() => {}
        () = tokio::time::sleep(REQUEST_TIMEOUT) => return,
    }
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, serving).await;
}

fn respond(method: &Method, path: &str, recorder: &Recorder, check: &Check) -> Response<Full<Bytes>> {
    let (status, kind, body) = match path {
        "/metrics" | "/healthz" if method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT_TYPE, "only GET\n".to_owned())
        }
        "/metrics" => (StatusCode::OK, METRICS_TYPE, recorder.render()),
        "/healthz" => match check() {
            Ok(()) => (StatusCode::OK, TEXT_TYPE, "ok\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, format!("{why}\n")),
        },
        _ => (StatusCode::NOT_FOUND, TEXT_TYPE, "only /metrics and /healthz\n".to_owned()),
    };
    let mut response = answer(status, kind, body);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn answer(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
