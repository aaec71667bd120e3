//! Requests for `inference.local`: handed to the gateway with their caller, never dialled out.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::BodyExt;

use crate::answer::Refusal;
use crate::body::Body;
use crate::conn::Conn;
use crate::forward::{Asked, authority, clean};
use crate::message::{Download, Ledger, Upload};
use crate::{hop, outcome};

/// See the module.
pub(crate) async fn serve(conn: &Arc<Conn>, asked: Asked<'_>) -> Result<Response<Body>, Refusal> {
    let Asked { permitted, mut parts, sent, known, started, turn } = asked;
    let exchange = permitted.exchange();
    if exchange.websocket {
        return Err(Refusal::BadRequest("the gateway speaks no WebSocket".to_owned()));
    }
    outcome::request_allowed(&*conn.deps.journal, known, &permitted, started.elapsed())?;
    let ledger = Ledger::open(conn, known, started, turn);
    clean(&mut parts.headers);
    let authority = authority(permitted.granted().destination(), exchange.tls);
    let place =
        format!("{}://{authority}{}", if exchange.tls { "https" } else { "http" }, exchange.path.as_str());
    // In absolute form: the gateway's answers name the host and the port that were asked.
    let target = match exchange.query.as_str() {
        Some(query) => format!("{place}?{query}"),
        None => place,
    };
    parts.uri =
        Uri::try_from(target).map_err(|_| Refusal::BadRequest("the target fits no request".to_owned()))?;
    parts.version = Version::HTTP_11;
    if let Ok(host) = HeaderValue::from_str(&authority) {
        parts.headers.insert(header::HOST, host);
    }
    parts.extensions.clear();
    let body = Upload::of(sent.body, &ledger, None);
    let request = Request::from_parts(parts, body);
    let caller = Arc::clone(permitted.granted().caller());
    let response = conn.deps.local.serve(request, caller, known.request_id).await;
    ledger.answered(response.status());
    let (mut parts, body) = response.into_parts();
    hop::strip(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Ok(Response::from_parts(parts, Download::new(body, ledger, None).boxed_unsync()))
}
