//! What a refused head asked for, for the answer and the record. Nothing is ever decided by it.

use smol_str::SmolStr;

use super::head::{is_method, target_authority};

/// What a head that is refused asks for, as far as its first line can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The method.
    pub method: SmolStr,
    /// The authority, where the target has one, and the port that its scheme stands for.
    pub authority: Option<(SmolStr, Option<u16>)>,
}

impl Named {
    /// Reads the first line of `bytes`.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
        let mut parts = line.split(|byte| *byte == b' ');
        let method = parts.next().filter(|method| is_method(method))?;
        let target = parts.next()?;
        let authority = target_authority(method == b"CONNECT", target).ok().flatten();
        let default_port = match target.split(|byte| *byte == b':').next()? {
            _ if method == b"CONNECT" => None,
            scheme if scheme.eq_ignore_ascii_case(b"https") => Some(443),
            _ => Some(80),
        };
        let text = |bytes| std::str::from_utf8(bytes).ok().map(SmolStr::new);
        let authority = authority.and_then(text).map(|authority| (authority, default_port));
        Some(Self { method: text(method)?, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_head_is_told_by_what_its_first_line_names() {
        let named = |text: &str| {
            let Named { method, authority } = Named::of(text.as_bytes())?;
            Some((method.to_string(), authority.map(|(authority, port)| (authority.to_string(), port))))
        };
        let of = |method: &str, authority: Option<(&str, Option<u16>)>| {
            Some((method.to_owned(), authority.map(|(authority, port)| (authority.to_owned(), port))))
        };
        for (text, wanted) in [
            ("GET http://a.test/\u{e9} HTTP/1.1\r\n\r\n", of("GET", Some(("a.test", Some(80))))),
            ("GET HTTPS://a.test:1/ HTTP/1.1\n\n", of("GET", Some(("a.test:1", Some(443))))),
            ("CONNECT a.test:443 HTTP/1.2\r\n\r\n", of("CONNECT", Some(("a.test:443", None)))),
            ("CONNECT a@b:443 HTTP/1.1\r\n\r\n", of("CONNECT", None)),
            ("GET / HTTP/1.1\r\n\r\n", of("GET", None)),
            ("GET\r\n\r\n", None),
            ("G\u{1b}T / HTTP/1.1\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(named(text), wanted, "{text:?}");
        }
    }
}
