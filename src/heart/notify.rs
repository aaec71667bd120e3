//! Tells systemd that the sandbox is ready (sd_notify(3)).
//!
//! Six lines instead of a library, since the heart is the part that must stay small, and its environment
//! (where libraries look for the address) is empty.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long to wait for room in the socket's buffer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends `READY=1` to `socket`, if there is one. A failure is ignored: systemd's own time-out handles it.
pub fn ready(socket: Option<&str>) {
    let Some(path) = socket else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        // A receiver that doesn't read must not hold up the heart.
        let _ = socket.set_write_timeout(Some(PATIENCE));
        let _ = socket.send_to_addr(b"READY=1\n", &address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_sent_to_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        ready(path.to_str());
        let mut text = [0; 32];
        let length = listener.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\n");
    }
}
