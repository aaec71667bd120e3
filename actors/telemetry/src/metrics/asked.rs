//! The host names that requests to the metrics endpoint may use when it listens on the loopback. A web page
//! in a browser on this machine can make its own name resolve to 127.0.0.1 (DNS rebinding), and could then
//! read what is meant for this machine alone.
//!
//! Only the operator has control over the names that are accepted. On any other address the endpoint is open
//! to the network, under whatever name it has there, and no name is checked.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use nix::sys::utsname::uname;
use std::net::IpAddr;

/// Whether the host name in a request, if it has one, is this machine's. A client that sends none isn't a
/// browser.
pub(super) fn is_for_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    uri.authority().is_none_or(is_ours)
        && headers.get_all(HOST).iter().filter(|host| !host.is_empty()).all(is_ours_as_written)
}

fn is_ours_as_written(host: &HeaderValue) -> bool {
    Authority::try_from(host.as_bytes()).is_ok_and(|authority| is_ours(&authority))
}

fn is_ours(authority: &Authority) -> bool {
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    // No web site has a name without a dot, or one below these two (RFC 6761; ICANN delegates `internal` to
    // nobody). Containers reach their host by such names.
    !host.contains('.') && !host.starts_with('[')
        || literal.parse::<IpAddr>().is_ok()
        || host.ends_with(".localhost")
        || host.ends_with(".internal")
        || uname().is_ok_and(|machine| machine.nodename().eq_ignore_ascii_case(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &'static str, hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        is_for_this_machine(&Uri::from_static(target), &headers)
    }

    #[test]
    fn only_names_that_no_site_can_have_are_this_machines() {
        for ours in [
            "",
            "127.0.0.1:9464",
            "[::1]:9464",
            "192.0.2.1",
            "localhost:9464",
            "LocalHost.",
            "a.localhost",
            "prometheus:9464",
            "host.docker.internal:9464",
        ] {
            assert!(asked("/metrics", &[ours]), "{ours}");
        }
        assert!(asked("/metrics", &[]) && asked("http://127.0.0.1:9464/metrics", &["localhost"]));
        for theirs in [
            "rebound.example.com:9464",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "example.com.",
            "internal.example",
            "a b",
        ] {
            assert!(!asked("/metrics", &[theirs]), "{theirs}");
            assert!(!asked("/metrics", &["localhost", theirs]), "{theirs} as a second");
        }
        assert!(!asked("http://rebound.example.com/metrics", &["localhost"]));
    }
}
