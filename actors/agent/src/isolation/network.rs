//! The sandbox's network: a namespace with the loopback and a link to the gate ([`super::gate`]), behind
//! which is nothing. There is no way out of it but the sockets that init makes and hands to the supervisor.

use crate::sys;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections that may wait while the proxy restarts (the kernel caps it at net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Switches the loopback on.
///
/// # Errors
/// The kernel's.
pub fn loopback_up() -> io::Result<()> {
    let socket = sys::socket::open(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::socket::interface_up(socket.as_fd(), c"lo")
}

/// Every network interface by name.
///
/// # Errors
/// The kernel's.
pub fn interfaces() -> io::Result<Vec<String>> {
    let mut names: Vec<String> = nix::net::if_::if_nameindex()?
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn domain(address: SocketAddr) -> i32 {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// A listening socket of this namespace, non-blocking.
///
/// # Errors
/// The kernel's: `EADDRINUSE` when an agent has it.
pub fn listen_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = sys::socket::open(domain(address), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    sys::socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    sys::socket::bind(socket.as_fd(), address)?;
    sys::socket::listen(socket.as_fd(), BACKLOG)?;
    Ok(socket)
}

/// Makes this unbound, non-blocking socket listen for connections to any address; an IPv6 socket takes both
/// families.
///
/// # Errors
/// The kernel's.
pub(super) fn listen_anywhere(socket: OwnedFd, is_ipv6: bool, port: u16) -> io::Result<OwnedFd> {
    let ip = if is_ipv6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    sys::socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if is_ipv6 {
        sys::socket::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    sys::socket::bind(socket.as_fd(), SocketAddr::new(ip, port))?;
    sys::socket::listen(socket.as_fd(), BACKLOG)?;
    Ok(socket)
}

/// Makes a socket listen that once did, and is bound still.
///
/// # Errors
/// The kernel's.
pub(super) fn listen_again(socket: BorrowedFd<'_>) -> io::Result<()> {
    sys::socket::listen(socket, BACKLOG)
}

/// A bound UDP socket of this namespace, non-blocking.
///
/// # Errors
/// The kernel's.
pub fn bind_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = sys::socket::open(domain(address), libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
    sys::socket::bind(socket.as_fd(), address)?;
    Ok(socket)
}

/// A socket connecting to this namespace's loopback, non-blocking.
///
/// # Errors
/// The kernel's; `EINVAL` for any other address.
pub fn connect_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    if !address.ip().is_loopback() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let socket = sys::socket::open(domain(address), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match sys::socket::connect(socket.as_fd(), address) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// A socket on which this namespace's sockets can be looked up (sock_diag(7)).
///
/// # Errors
/// The kernel's.
pub fn diag() -> io::Result<OwnedFd> {
    sys::socket::open(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_SOCK_DIAG)
}
