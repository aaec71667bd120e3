//! Host names and addresses as a destination names them: one strict type for CONNECT targets, `Host`,
//! SNI and the policy file, so that the same bytes never mean two places.
//!
//! A [`Host`] is either a lower-case DNS name or an IP address; nothing that some resolver would read as an
//! address in another way (octal, hex, short and dword IPv4, IPv4 hidden inside IPv6, zones) gets past
//! [`Host::parse`]. This module never resolves names and never judges whether an address may be dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::{SmolStr, ToSmolStr};

use crate::carried::Carried;

/// Longest DNS name in its text form without the trailing dot (RFC 1035 section 2.3.4: 255 octets on the
/// wire).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest label of a DNS name (RFC 1035 section 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;

/// Why a text is not a [`Host`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// Over [`MAX_NAME_BYTES`].
    #[error("the host name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A label is empty (two dots, a leading or a trailing dot) or over [`MAX_LABEL_BYTES`].
    #[error("the host name has an empty or over-long label (no leading, trailing or doubled dots)")]
    Label,
    /// A byte that no host name holds: control, space, non-ASCII, `%`, `@` and so on.
    #[error(
        "the host name has a character other than letters, digits, `-`, `_` and `.` (write IDNs in their xn-- form)"
    )]
    Character,
    /// A label begins or ends with a hyphen.
    #[error("a label of the host name begins or ends with `-`")]
    Hyphen,
    /// Looks like an address to some parser, but not in the one canonical form.
    #[error("an address must be written in its plain form (four decimal numbers, or IPv6 without a zone)")]
    OddAddress,
    /// An IPv6 address that carries an IPv4 address (mapped, compatible, translated, NAT64, 6to4, Teredo,
    /// ISATAP).
    #[error("an IPv6 address that carries an IPv4 address is refused; write the IPv4 address itself")]
    EmbeddedV4,
}

/// A DNS name: ASCII, lower case, no trailing dot, every label 1 to 63 bytes of `a-z 0-9 - _`, whose last
/// label can't be read as a number.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(SmolStr);

impl DomainName {
    /// Reads a name; upper case is folded, nothing else is corrected.
    ///
    /// # Errors
    /// A [`HostError`] that says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(HostError::TooLong);
        }
        let mut last = "";
        for label in text.split('.') {
            check_label(label)?;
            last = label;
        }
        if reads_as_number(last) {
            return Err(HostError::OddAddress);
        }
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            Ok(Self(SmolStr::from(text.to_ascii_lowercase())))
        } else {
            Ok(Self(SmolStr::from(text)))
        }
    }

    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from left to right.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

/// Checks one label of a name by the rules of [`DomainName`].
pub(crate) fn check_label(label: &str) -> Result<(), HostError> {
    if label.is_empty() || label.len() > MAX_LABEL_BYTES {
        // Even if other labels hold bad bytes, an empty label is best reported as an empty label.
        return Err(HostError::Label);
    }
    if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(HostError::Character);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Hyphen);
    }
    Ok(())
}

/// Whether the last label makes lenient parsers (inet_aton, WHATWG URL) take the whole name for an IPv4
/// address.
fn reads_as_number(label: &str) -> bool {
    if label.bytes().all(|b| b.is_ascii_digit()) {
        return true;
    }
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hex.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

/// The host of a destination: a name or an address, in its one canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name.
    Name(DomainName),
    /// An address literal. Whether it may be dialled is the SSRF guard's question, not this type's.
    Addr(IpAddr),
}

impl Host {
    /// Reads a host as it stands in an authority, SNI or policy file: a name, a dotted-quad IPv4 address, or
    /// an IPv6 address with or without its brackets.
    ///
    /// # Errors
    /// A [`HostError`] that says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::OddAddress)?;
            return parse_v6(inner);
        }
        if text.contains(':') {
            return parse_v6(text);
        }
        if let Ok(v4) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Addr(IpAddr::V4(v4)));
        }
        DomainName::parse(text).map(Self::Name)
    }

    /// The name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&DomainName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Addr(_) => None,
        }
    }

    /// The host alone, for records and answers that hold the port separately: an IPv6 address has no brackets
    /// here.
    #[must_use]
    pub fn bare(&self) -> SmolStr {
        match self {
            Self::Name(name) => name.0.clone(),
            Self::Addr(addr) => addr.to_smolstr(),
        }
    }

    /// The address, if it is one.
    #[must_use]
    pub fn addr(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Addr(addr) => Some(*addr),
        }
    }
}

fn parse_v6(text: &str) -> Result<Host, HostError> {
    let v6: Ipv6Addr = text.parse().map_err(|_| HostError::OddAddress)?;
    if Carried::of(v6).is_some() {
        return Err(HostError::EmbeddedV4);
    }
    Ok(Host::Addr(IpAddr::V6(v6)))
}

impl fmt::Display for Host {
    /// Writes the host as in a `Host` header: IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Addr(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Addr(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;
    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text)
    }
}

impl FromStr for DomainName {
    type Err = HostError;
    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for DomainName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DomainName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_belong_to_authorities() {
        for (text, shown, bare) in [
            ("[2001:DB8::1]", "[2001:db8::1]", "2001:db8::1"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
            ("A.test", "a.test", "a.test"),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!((host.to_string().as_str(), host.bare().as_str()), (shown, bare));
        }
    }

    #[test]
    fn names_are_folded_to_lower_case_and_nothing_else_is_mended() {
        assert_eq!(Host::parse("API.GitHub.com").unwrap().to_string(), "api.github.com");
        assert_eq!(Host::parse("_dmarc.x-1.example").unwrap().to_string(), "_dmarc.x-1.example");
        assert_eq!(Host::parse("localhost").unwrap().to_string(), "localhost");
        assert_eq!(Host::parse("xn--bcher-kva.example").unwrap().to_string(), "xn--bcher-kva.example");
    }

    #[test]
    fn odd_names_are_refused() {
        for (text, why) in [
            ("", HostError::Empty),
            ("example.com.", HostError::Label),
            (".example.com", HostError::Label),
            ("a..b", HostError::Label),
            ("exa\0mple.com", HostError::Character),
            ("example.com\n", HostError::Character),
            ("ex ample.com", HostError::Character),
            ("bücher.example", HostError::Character),
            ("example。com", HostError::Character),
            ("ｅxample.com", HostError::Character),
            ("user@example.com", HostError::Character),
            ("example.com%00.evil.com", HostError::Character),
            ("*.example.com", HostError::Character),
            ("-a.example", HostError::Hyphen),
            ("a-.example", HostError::Hyphen),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text:?}");
        }
        let long = format!("{}.com", "a".repeat(64));
        assert_eq!(Host::parse(&long), Err(HostError::Label));
        let long = ["abcdefgh"; 32].join(".");
        assert_eq!(Host::parse(&long), Err(HostError::TooLong));
    }

    #[test]
    fn addresses_have_one_spelling() {
        assert_eq!(Host::parse("93.184.216.34").unwrap().to_string(), "93.184.216.34");
        assert_eq!(Host::parse("[2606:2800:0::1]").unwrap().to_string(), "[2606:2800::1]");
        assert_eq!(Host::parse("2606:2800::1").unwrap(), Host::parse("[2606:2800:0:0::1]").unwrap());
        for odd in [
            "0177.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "127.0.0.0x1",
            "1.2.3.4.5",
            "127.0.0.01",
            "256.1.1.1",
            "evil.0x",
            "[::1",
            "[127.0.0.1]",
            "fe80::1%eth0",
            "[fe80::1%25eth0]",
            "example.com:443",
            "1.2.3",
        ] {
            assert_eq!(Host::parse(odd), Err(HostError::OddAddress), "{odd}");
        }
    }

    #[test]
    fn ipv6_that_carries_ipv4_is_refused() {
        for odd in [
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "fe80::5efe:127.0.0.1",
            "2001:db8::200:5efe:7f00:1",
        ] {
            assert_eq!(Host::parse(odd), Err(HostError::EmbeddedV4), "{odd}");
        }
        assert!(Host::parse("::1").is_ok() && Host::parse("::").is_ok());
    }
}
