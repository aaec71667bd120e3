//! `HOST:PORT` as requests and URLs write it, parsed in one way for all of them.
//!
//! Must never guess: text that could be read in two ways is an error.

use crate::{Destination, Host, HostError};

/// Why text is no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is a user in it.
    #[error("the target has no plain HOST:PORT")]
    NotPlain,
    /// Neither the authority nor its scheme gives a port.
    #[error("the target has no port")]
    NoPort,
    /// Without brackets an IPv6 address has more than one reading with a port behind it.
    #[error("an IPv6 address in an authority stands in brackets")]
    Unbracketed,
    /// The port isn't digits, has too many of them, or begins with a zero.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The host isn't a valid one.
    #[error("the host has no canonical form: {0}")]
    Host(#[from] HostError),
}

/// Splits an authority into its host, and its port if it has one.
///
/// # Errors
/// The first part that has no unambiguous reading.
pub fn split_authority(text: &str) -> Result<(Host, Option<u16>), AuthorityError> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(AuthorityError::Unbracketed);
    }
    let port = match port {
        Some(port) => match port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse::<u16>()) {
            Some(Ok(number)) if !port.starts_with('0') => Some(number),
            _ => return Err(AuthorityError::Port),
        },
        None => None,
    };
    Ok((Host::parse(host)?, port))
}

impl Destination {
    /// Reads an authority. If it has no port, `default_port` (that of its scheme) is used, if there is one.
    ///
    /// # Errors
    /// The first part that has no unambiguous reading.
    pub fn of_authority(text: &str, default_port: Option<u16>) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::NotPlain);
        }
        let (host, port) = split_authority(text)?;
        let port = port.or(default_port).ok_or(AuthorityError::NoPort)?;
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_one_reading_or_none() {
        for (text, default_port, wanted) in [
            ("A.test", Some(443), "a.test:443"),
            ("a.test:80", Some(443), "a.test:80"),
            ("[2606:2800::1]:8443", None, "[2606:2800::1]:8443"),
        ] {
            let read = Destination::of_authority(text, default_port).map(|it| it.to_string());
            assert_eq!(read.as_deref(), Ok(wanted));
        }
        for (text, wanted) in [
            ("u@a.test:80", AuthorityError::NotPlain),
            ("a.test", AuthorityError::NoPort),
            ("2606:2800::1:80", AuthorityError::Unbracketed),
            ("a.test:080", AuthorityError::Port),
            ("a.test:0", AuthorityError::Port),
            ("a.test:+80", AuthorityError::Port),
            ("a.test:65536", AuthorityError::Port),
        ] {
            assert_eq!(Destination::of_authority(text, None), Err(wanted), "{text}");
        }
        assert!(matches!(Destination::of_authority("127.1:80", None), Err(AuthorityError::Host(_))));
    }
}
