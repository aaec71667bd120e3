//! The two things a new network namespace needs: `lo` up, and ranges of addresses that are its own.
//!
//! Speaks rtnetlink (rtnetlink(7)) by bytes, so that no program is needed. A range is made local by a route
//! of type `local` towards `lo` rather than by addresses on it: connections to any address of it reach a
//! listener on the wildcard, and nothing that lists the machine's own addresses sees them, as with servers
//! elsewhere.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
/// REQUEST | ACK.
const ASK: u16 = 0x1 | 0x4;
/// CREATE | REPLACE: entering twice is no error.
const CREATE: u16 = 0x400 | 0x100;
/// `lo` is the first interface of every network namespace.
const LO: u32 = 1;
const IFF_UP: u32 = 1;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// struct nlmsghdr.
const HEADER: usize = 16;

/// Brings the loopback interface up.
pub fn loopback_up() -> Result<()> {
    let mut body = vec![0u8; 4];
    body.extend(LO.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, 0, &body).context("bringing lo up")
}

/// Makes every address of `network/prefix` local.
pub fn own_range(network: IpAddr, prefix: u8) -> Result<()> {
    let (family, scope, bytes) = match network {
        IpAddr::V4(v4) => (AddressFamily::Inet, RT_SCOPE_HOST, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::Inet6, RT_SCOPE_UNIVERSE, v6.octets().to_vec()),
    };
    let mut body =
        vec![family as u8, prefix, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, scope, RTN_LOCAL, 0, 0, 0, 0];
    attribute(&mut body, RTA_DST, &bytes)?;
    attribute(&mut body, RTA_OIF, &LO.to_ne_bytes())?;
    request(RTM_NEWROUTE, CREATE, &body).with_context(|| format!("making {network}/{prefix} local"))
}

/// Appends an attribute whose value is a multiple of four bytes long, as all of ours are.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<()> {
    body.extend(u16::try_from(value.len() + 4)?.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    Ok(())
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(u32::try_from(HEADER + body.len())?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((ASK | flags).to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);

    let route =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(route.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = [0u8; 4096];
    let n = recv(route.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    let field = |at: usize| reply.get(at..at + 4).filter(|_| at + 4 <= n).and_then(|b| b.try_into().ok());
    let (Some(word), Some(code)) = (field(4), field(HEADER)) else { bail!("short answer from rtnetlink") };
    if u32::from_ne_bytes(word) as u16 != NLMSG_ERROR {
        bail!("unexpected answer from rtnetlink");
    }
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        e => Err(nix::errno::Errno::from_raw(-e).into()),
    }
}
