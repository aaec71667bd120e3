//! The request as it goes out: target and `Host` are made from the canonical forms that were judged, in the
//! form of its connection's protocol; hop-by-hop fields stay behind, the body is framed anew. Never sends
//! anything.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body::Body as _;
use policy::Destination;

use crate::answer::Refusal;
use crate::body::Body;
use crate::upstream::Sender;
use crate::verdict::Permitted;
use crate::websocket::Handshake;
use crate::{hop, misleading};

/// Removes the fields that stay on the agent's side.
pub(crate) fn clean(headers: &mut HeaderMap) {
    hop::strip(headers);
    misleading::drop_from(headers);
    // We answer `Expect` ourselves, when the body is first asked for.
    headers.remove(header::EXPECT);
    join_cookies(headers);
}

/// HTTP/2 may split `Cookie`; servers of HTTP/1 read only one (RFC 9113 section 8.2.3). The joined value is
/// sensitive if any piece is.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let hides = headers.get_all(header::COOKIE).iter().any(HeaderValue::is_sensitive);
    if cookies.len() > 1
        && let Ok(mut joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        joined.set_sensitive(hides);
        headers.insert(header::COOKIE, joined);
    }
}

/// Makes the request with its body, in the form that HTTP/1 and HTTP/2 have in common. `query` replaces the
/// judged query where that is sent in another form.
pub(super) fn outgoing(
    parts: &Parts,
    permitted: &Permitted,
    query: Option<&str>,
    body: Body,
) -> Result<Request<Body>, Refusal> {
    let exchange = permitted.exchange();
    let unsized_body = !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH);
    let mut request = Request::new(body);
    *request.method_mut() = exchange.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let target = match query.or(exchange.query.as_str()) {
        Some(query) => format!("{}?{query}", exchange.path.as_str()),
        None => exchange.path.as_str().to_owned(),
    };
    *request.uri_mut() = uri(target)?;
    // hyper takes a GET with a body of unknown length for one without a body, unless it is told.
    if unsized_body && matches!(exchange.method, Method::GET | Method::HEAD) {
        request.extensions_mut().insert(Chunked);
    }
    Ok(request)
}

/// Marks a request whose body has no stated length.
#[derive(Debug, Clone, Copy)]
struct Chunked;

/// Gives a request the form that its connection's HTTP version needs.
pub(super) fn reshape(
    mut request: Request<Body>,
    destination: &Destination,
    tls: bool,
    sender: &Sender,
    handshake: Option<&Handshake>,
) -> Result<Request<Body>, Refusal> {
    let authority = authority(destination, tls);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    request.headers_mut().remove(header::HOST);
    if sender.is_http2() {
        let scheme = if tls { "https" } else { "http" };
        *request.uri_mut() = uri(format!("{scheme}://{authority}{target}"))?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = uri(target)?;
        *request.version_mut() = Version::HTTP_11;
        let host = HeaderValue::from_str(&authority)
            .map_err(|_| Refusal::BadRequest("the host fits no header".to_owned()))?;
        request.headers_mut().insert(header::HOST, host);
        if request.extensions().get::<Chunked>().is_some() {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        } else if lacks_length(&request) {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
    if let Some(handshake) = handshake {
        handshake.shape(&mut request, sender.is_http2());
    }
    Ok(request)
}

/// Whether the request's method expects a body and it has none. On HTTP/2 that needs no header field; HTTP/1
/// servers demand a length (RFC 9110 section 8.6).
fn lacks_length(request: &Request<Body>) -> bool {
    request.body().is_end_stream()
        && matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        && !request.headers().contains_key(header::CONTENT_LENGTH)
}

/// Host and port as clients write them: the scheme's own port is left out.
pub(crate) fn authority(destination: &Destination, tls: bool) -> String {
    match (destination.port, tls) {
        (443, true) | (80, false) => destination.host.to_string(),
        _ => destination.to_string(),
    }
}

fn uri(text: String) -> Result<Uri, Refusal> {
    Uri::try_from(text).map_err(|_| Refusal::BadRequest("the target fits no request".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A credential's value must enter no HPACK table, nor show where a head is printed.
    #[test]
    fn joined_cookies_hide_what_one_of_them_hid() {
        for hidden in [None, Some(0), Some(1)] {
            let mut headers = HeaderMap::new();
            for (number, text) in ["a=1", "b=2"].into_iter().enumerate() {
                let mut cookie = HeaderValue::from_static(text);
                cookie.set_sensitive(hidden == Some(number));
                headers.append(header::COOKIE, cookie);
            }
            clean(&mut headers);
            let all: Vec<&HeaderValue> = headers.get_all(header::COOKIE).iter().collect();
            assert_eq!(all, ["a=1; b=2"]);
            assert_eq!(all[0].is_sensitive(), hidden.is_some());
        }
    }
}
