//! Fields by which some servers let a request say something else than what was judged: its method, its path,
//! its host, its framing.
//!
//! What stands in the first line was judged, and is what counts; these are taken off. Servers of the CGI kind
//! (WSGI, Rack, PHP) hand `X_Original_URL` to programs as `X-Original-URL`, and some of them
//! `X.Original~URL`: a name is looked at with `-` for all that is neither letter nor digit. Must never take
//! off a field that a client needs for what it says: odd characters alone are no fault.

use http::{HeaderMap, HeaderName};
use policy::second::{self, is_spelled};

/// Another method, path or host, in words that servers and the proxies before them have made up; where a
/// program is mounted (`script-name`: gunicorn cuts it off the path) or where its files are
/// (`x-accel-mapping`: Rack's), and, to CGI, the proxy that it is to use (`proxy`).
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

/// What frames, routes or authenticates (RFC 9110 section 6.5.1): only where and as it belongs.
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

/// Takes them off a request's head.
pub(crate) fn drop_from(headers: &mut HeaderMap) {
    take_off(headers, |name| is_one(&OVERRIDES, name) || (is_odd(name) && is_one(&NAMED, name)));
}

/// Takes them off what stands behind a body, where nothing frames or routes, and nobody has judged what else
/// it may name.
pub(crate) fn drop_from_trailers(trailers: &mut HeaderMap) {
    take_off(trailers, |name| is_one(&OVERRIDES, name) || is_one(&NAMED, name) || second::is_named_by(name));
}

fn take_off(headers: &mut HeaderMap, misleads: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers.keys().filter(|name| misleads(name.as_str())).cloned().collect();
    for name in named {
        headers.remove(name);
    }
}

/// Whether a name is none that a server would know, and may be one to a program behind it.
fn is_odd(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether a name is one of these to somebody.
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
