//! Sockets of the gate's namespace, opened while init may still enter it: from them come the listeners of
//! ports that are captured later.
//!
//! A socket stays in the namespace in which it was opened, and init may enter none once the cage is proven.
//! So they are opened before: one for each port that the first policy names, and [`SPARE`] for later
//! policies. They can't be derived from others: a socket that was connected and is no more (an accepted one,
//! too, which belongs to its listener's namespace) could listen on earlier kernels; Linux 6.18.44 refuses it
//! (`EINVAL`).
//!
//! Enters no namespace itself, and connects nothing.

use super::network::{listen_again, listen_anywhere};
use crate::sys;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// How many ports later policies may name that no earlier one did. A socket takes some 2.5 KiB of the
/// kernel's memory, and a microsecond at the start and at the end.
pub const SPARE: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Stock {
    is_ipv6: bool,
    /// Never bound.
    fresh: Vec<OwnedFd>,
    /// No longer listening, by port: the kernel gives back no port that was named to bind(2).
    retired: BTreeMap<u16, OwnedFd>,
}

impl Stock {
    /// Opens [`SPARE`] sockets in the namespace in which this process is now.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(is_ipv6: bool) -> io::Result<Self> {
        let mut stock = Self { is_ipv6, fresh: Vec::new(), retired: BTreeMap::new() };
        stock.add(SPARE)?;
        Ok(stock)
    }

    /// Opens `count` more in the namespace in which this process is now, which must be the same.
    ///
    /// # Errors
    /// The kernel's; what was opened before it stays.
    pub(super) fn add(&mut self, count: usize) -> io::Result<()> {
        let family = if self.is_ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        self.fresh.reserve_exact(count);
        for _ in 0..count {
            self.fresh.push(sys::socket::open(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?);
        }
        Ok(())
    }

    /// Returns a listener for connections to any address at `port`, or `None` if no socket is left.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn listen(&mut self, port: u16) -> io::Result<Option<OwnedFd>> {
        if let Some(retired) = self.retired.remove(&port)
            && listen_again(retired.as_fd()).is_ok()
        {
            return Ok(Some(retired));
        }
        // One that may not listen again has given its port back by now: it is closed.
        self.fresh.pop().map(|socket| listen_anywhere(socket, self.is_ipv6, port)).transpose()
    }

    /// Takes a listener back: connections that wait in its queue are reset, new ones refused, whoever holds
    /// another descriptor of it.
    pub(super) fn retire(&mut self, port: u16, listener: OwnedFd) {
        // One that can't be stopped is closed, which has the same effect once its last descriptor is.
        if sys::socket::disconnect(listener.as_fd()).is_ok() {
            self.retired.insert(port, listener);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn refuses(port: u16) -> bool {
        TcpStream::connect(("127.0.0.1", port)).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    }

    #[test]
    fn the_page_has_the_limit() {
        let page = include_str!("../../../../docs/limits.md");
        assert!(page.contains(&format!("up to 1,024, and {SPARE} |")));
    }

    #[test]
    fn a_port_that_is_let_go_refuses_and_can_be_taken_again() {
        for is_ipv6 in [false, true] {
            // A port that is free here, since these sockets are of this namespace.
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            let mut stock = Stock { is_ipv6, fresh: Vec::new(), retired: BTreeMap::new() };
            assert!(stock.listen(port).unwrap().is_none(), "nothing in stock");
            stock.add(1).unwrap();
            for _ in 0..3 {
                let listener = stock.listen(port).unwrap().unwrap();
                // As the supervisor's, which may be closed late.
                let copy = TcpListener::from(listener.try_clone().unwrap());
                let waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
                stock.retire(port, listener);
                assert!(refuses(port) && copy.accept().is_err());
                drop(waiting);
            }
            assert!(stock.listen(port.wrapping_add(1).max(1024)).unwrap().is_none(), "its own port alone");
        }
    }
}
