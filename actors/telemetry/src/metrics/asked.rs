//! By which names the metrics endpoint may be asked for where it listens on the loopback. A page in a browser
//! of this machine can have its own name lead to 127.0.0.1 (DNS rebinding), and would read there what is
//! meant for this machine alone.
//!
//! Nobody else than the operator has a say in the names that are taken. On any other address the endpoint is
//! open to the network, under whatever name it has there, and nothing is asked here.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use nix::sys::utsname::uname;
use std::net::IpAddr;

/// Whether the name that a request is for, if it has one, is this machine's. What speaks without one is no
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
    // No site has a name without a dot, nor one below these two (RFC 6761; ICANN gives `internal` to nobody).
    // Containers reach their host by such names.
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
