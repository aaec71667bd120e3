//! Header fields by which some servers let a request override what was judged: its method, its path, its
//! host, its framing.
//!
//! The request line was judged and is what counts, so these fields are removed. CGI-like servers (WSGI, Rack,
//! PHP) hand `X_Original_URL` to programs as `X-Original-URL`, and some do so with `X.Original~URL`: names
//! are compared with `-` in place of every character that is neither letter nor digit. Must never remove a
//! field that a client needs: odd characters alone are no reason.

use http::{HeaderMap, HeaderName};
use policy::second::{self, is_spelled};

/// Fields for another method, path or host, by names that servers and the proxies in front of them have made
/// up; for where a program is mounted (`script-name`: gunicorn cuts it off the path) or where its files are
/// (`x-accel-mapping`: Rack's); and, in CGI, for the proxy that the program is to use (`proxy`).
const OVERRIDES: [&str; 34] = [
    "forwarded",
    "path-info",
    "proxy",
    "script-name",
    "x-accel-mapping",
    "x-envoy-original-dst-host",
    "x-envoy-original-path",
    "x-forwarded-context",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-host",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-ms-original-url",
    "x-original-host",
    "x-original-method",
    "x-original-path",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-proxycontextpath",
    "x-restli-method",
    "x-rewrite-uri",
    "x-rewrite-url",
    "x-script-name",
    "x-sendfile-type",
    "x-waws-unencoded-url",
];

/// Fields for framing, routing or authentication (RFC 9110 section 6.5.1): allowed only in a head, and only
/// in this spelling.
const NAMED: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Removes misleading fields from a request's head.
pub(crate) fn drop_from(headers: &mut HeaderMap) {
    take_off(headers, |name| is_one(&OVERRIDES, name) || (is_odd(name) && is_one(&NAMED, name)));
}

/// Removes misleading fields from the trailers behind a body: nothing there may frame or route, and fields
/// that name a further resource were not judged.
pub(crate) fn drop_from_trailers(trailers: &mut HeaderMap) {
    take_off(trailers, |name| is_one(&OVERRIDES, name) || is_one(&NAMED, name) || second::is_named_by(name));
}

fn take_off(headers: &mut HeaderMap, misleads: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers.keys().filter(|name| misleads(name.as_str())).cloned().collect();
    for name in named {
        headers.remove(name);
    }
}

/// Whether a name has other characters than letters, digits and `-`: a server doesn't know it, but a program
/// behind the server may read it as one that it knows.
fn is_odd(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether some server or program may read `name` as a name in `list`.
fn is_one(list: &[&str], name: &str) -> bool {
    list.iter().any(|own| is_spelled(own, name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn left(drop: fn(&mut HeaderMap), names: &[&str]) -> Vec<String> {
        let mut headers: HeaderMap = names
            .iter()
            .map(|name| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("x")))
            .collect();
        drop(&mut headers);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn every_spelling_goes_and_what_says_nothing_else_stays() {
        let heads = [
            "X-HTTP-Method-Override",
            "X_HTTP_Method_Override",
            "x-http_method-override",
            "X.HTTP.Method.Override",
            "X!Forwarded!Host",
            "X~Original~URL",
            "Content.Type",
            "Transfer+Encoding",
            "SCRIPT_NAME",
            "Script-Name",
            "X.Script.Name",
            "Path_Info",
            "Proxy",
            "X-RestLi-Method",
            "X-Forwarded-Context",
            "X-Envoy-Original-Dst-Host",
            "X-Accel-Mapping",
            "x.request.id",
            "X_Original_URL",
            "Forwarded",
            "Transfer_Encoding",
            "content_length",
            "HTTP_HOST",
            "x_request_id",
            "authorization",
            "host",
            "content-type",
        ];
        let stays = ["authorization", "content-type", "host", "http_host", "x.request.id", "x_request_id"];
        assert_eq!(left(drop_from, &heads), stays);
        let trailers = [
            "destination",
            "X_Amz_Copy_Source",
            "X.Amz.Copy.Source",
            "proxy|authorization",
            "x-checksum",
            "host",
            "Authorization",
            "content_length",
            "x-original-uri",
            "grpc-status",
        ];
        assert_eq!(left(drop_from_trailers, &trailers), ["grpc-status", "x-checksum"]);
    }
}
