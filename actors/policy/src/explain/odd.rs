//! Explains hosts in a spelling that isn't accepted: they are refused before any rule, and the plain spelling
//! is what helps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Compiled, Explanation, Question, QuestionError, Verdict, words};
use crate::{Host, HostError};

impl Compiled {
    /// Answers a question about a host with no unambiguous reading, which the proxy refuses before any rule.
    /// Also returns the question that was meant, where that can be told; the nearest rule and the proposed
    /// entry are for that question.
    ///
    /// `None` where the fault isn't in the host.
    #[must_use]
    pub fn explain_odd(
        &self,
        binary: &str,
        method: Option<&str>,
        url: &str,
        why: &QuestionError,
    ) -> Option<(Explanation, Option<Question>)> {
        let QuestionError::Host(error) = why else { return None };
        let (before, authority, after) = parts(url)?;
        let asked = words::printable(&format!("{} {authority}{after}", method.unwrap_or("CONNECT")));
        let mut out = Explanation::refused(binary, asked);
        out.bad_request = Some(match authority.contains('@') {
            true => "the host is refused before any rule: there is a user in front of it".to_owned(),
            false => format!("the host is refused before any rule: {error}"),
        });
        let plain = plain(authority, error);
        let meant = plain.as_ref().and_then(|(host, port)| {
            Question::parse(binary, method, &format!("{before}{host}{port}{after}")).ok()
        });
        if let (Some((host, _)), Some(question)) = (plain, &meant) {
            let told = self.explain(question);
            let then = match told.verdict {
                Verdict::Deny => "which the policy judges as below",
                _ => "which the policy allows",
            };
            out.note = Some(format!("write `{host}`, {then}").into());
            (out.nearest, out.mend) = (told.nearest, told.mend);
            // Nothing below shows what would have to change, so the note says it.
            if told.verdict == Verdict::Deny && out.nearest.is_none() && out.mend.is_none() {
                out.note = Some(format!("write `{host}`, which the policy refuses as well").into());
            }
        }
        Some((out, meant))
    }
}

/// Splits a URL into what stands before its authority, the authority, and what stands behind it.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (before, rest) = url.split_at_checked(start)?;
    let (authority, after) = rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len()))?;
    Some((before, authority, after))
}

/// The accepted spelling of an authority's host, and its port with the colon.
fn plain<'a>(authority: &'a str, error: &HostError) -> Option<(String, &'a str)> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let at = authority.rfind(':').filter(|at| !authority.get(*at..).unwrap_or_default().contains(']'));
    let (host, port) = authority.split_at_checked(at.unwrap_or(authority.len()))?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = match Host::parse(host) {
        Ok(host) => host,
        Err(_) if matches!(error, HostError::EmbeddedV4 | HostError::OddAddress) => {
            Host::Addr(address(host)?)
        }
        Err(_) => return None,
    };
    Some((host.to_string(), port))
}

/// The address that lenient parsers read in a text: `0x7f.1`, `017700000001`, `[::ffff:10.0.0.1]`.
fn address(text: &str) -> Option<IpAddr> {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().ok()?.to_ipv4_mapped().map(IpAddr::V4);
    }
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    let bytes: Vec<u8> = first.iter().map(|number| u8::try_from(*number).ok()).collect::<Option<_>>()?;
    let room = 4_usize.checked_sub(bytes.len())?;
    let tail = last.to_be_bytes();
    let (over, rest) = tail.split_at_checked(4 - room)?;
    if room == 0 || over.iter().any(|byte| *byte != 0) {
        return None;
    }
    let octets: [u8; 4] = [bytes.as_slice(), rest].concat().try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// A part of an IPv4 address as `inet_aton` reads it: hexadecimal, octal or decimal.
fn number(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(hex), _) => u32::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => lower.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "version: 1\nnetwork_policies: { a: { endpoints: [ { host: api.example.com, port: 443, protocol: rest, \
                          access: read-only } ], binaries: [ { path: /usr/bin/curl } ] } }\n";

    fn odd(url: &str) -> Explanation {
        let compiled = Compiled::new(&crate::parse("p.yaml", POLICY).unwrap().policy).unwrap();
        let why = Question::parse("/usr/bin/curl", Some("POST"), url).unwrap_err();
        compiled.explain_odd("/usr/bin/curl", Some("POST"), url, &why).unwrap().0
    }

    #[test]
    fn a_spelling_that_is_not_taken_is_a_verdict_with_the_plain_one() {
        for (url, plain) in [
            ("https://0x7f.1/", "127.0.0.1"),
            ("https://2130706433/", "127.0.0.1"),
            ("https://0177.0.0.1:8443/x", "127.0.0.1"),
            ("https://[::ffff:10.0.0.1]/", "10.0.0.1"),
            ("https://user@api.example.com/", "api.example.com"),
            ("https://user:word@api.example.com:443/", "api.example.com"),
            ("https://api.example.com./", "api.example.com"),
        ] {
            let told = odd(url);
            assert_eq!(told.verdict, Verdict::Deny);
            let text = told.to_string();
            assert!(text.starts_with("DENIED  POST ") && text.contains("(bad_request)"), "{text}");
            assert!(text.contains(&format!("write `{plain}`")), "{url}: {text}");
        }
        assert!(odd("https://api.example.com./").to_string().contains("nearest: a: "));
        for no_reading in ["https://a b.example.com/", "https://[fe80::1%25eth0]/", "https://1.2.3.4.5/"] {
            let told = odd(no_reading);
            assert!(told.bad_request.is_some() && told.note.is_none(), "{told}");
        }
    }
}
