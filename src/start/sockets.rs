//! Binds the sockets that a sandbox listens on outside, before anything of it runs: an address that is in use
//! refuses the start.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use agent::plan::Ids;
use agent::protocol::Slot;

use crate::console::warn;
use crate::failure::Failure;
use crate::heart::Slots;
use crate::ids;
use crate::plan::slot;
use crate::start::Wanted;
use crate::state::{CONTROL_SOCKET, Claim, socket_path};

/// Returns the slots of a sandbox with every listener and its state directory.
///
/// # Errors
/// An address that can't be bound.
pub fn bind(wanted: &Wanted, claim: &mut Claim, ids: Ids) -> Result<Slots, Failure> {
    let mut slots = Slots::new();
    // There is always room: the number of forwards is bounded.
    let mut keep = |name: &str, fd: OwnedFd| slots.keep(Slot::new(name), fd);
    keep(slot::STATE, claim.handle.as_fd().try_clone_to_owned()?);
    if let Some(address) = wanted.metrics {
        keep(slot::METRICS, tcp(address, "metrics", "name another with --metrics ADDR, or `off`")?);
    }
    for (n, forward) in wanted.forwards.iter().enumerate() {
        keep(&format!("{}{n}", slot::FORWARD), tcp(forward.listen, "forward", "choose another port")?);
    }
    keep(slot::CONTROL, control(claim, ids)?);
    Ok(slots)
}

fn control(claim: &mut Claim, ids: Ids) -> Result<OwnedFd, Failure> {
    let listener = unix(claim, CONTROL_SOCKET)?;
    if let Ids::Rooted { gateway, .. } = ids {
        ids::give(&socket_path(&claim.handle, CONTROL_SOCKET), gateway).map_err(|e| told_of(claim, &e))?;
    }
    Ok(listener.into())
}

/// Makes a socket in the state directory that belongs to our own user.
///
/// # Errors
/// It can't be made.
pub fn unix(claim: &mut Claim, name: &'static str) -> Result<UnixListener, Failure> {
    claim.listen(name).map_err(|e| told_of(claim, &e))
}

fn told_of(claim: &Claim, error: &std::io::Error) -> Failure {
    Failure::refused(format!("sockets in {}: {error}", claim.dir.display()))
}

fn tcp(address: SocketAddr, what: &str, mend: &str) -> Result<OwnedFd, Failure> {
    let listener = TcpListener::bind(address)
        .map_err(|e| Failure::refused(format!("can't listen on {address} for {what}: {e}; {mend}")))?;
    if !address.ip().is_loopback() {
        warn(&format!("{what} on {address} is open to the network"));
    }
    Ok(listener.into())
}
