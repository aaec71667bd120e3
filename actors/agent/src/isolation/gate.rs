//! The gate: a second network namespace behind the agents' one, in which every address of the world is local.
//!
//! ```text
//! agents' namespace                                   the gate's namespace
//!   lo        theirs alone                              lo
//!   LINK ─ default routes ───────── veth ─────────────▶ LINK ─ `local 0.0.0.0/0`, `local ::/0`
//! ```
//! Whatever address an agent connects to, its packets arrive in the gate's namespace, where every address is
//! local: a listener on `[::]:PORT` gets the connection, whose `getsockname()` is the address that was asked
//! for. A port on which nobody listens is refused by the kernel at once; nothing is ever forwarded, since
//! nothing is elsewhere.
//!
//! Why not put the same routes on the agents' own `lo`: a wildcard listener there would take its port from
//! every server of an agent, and an agent that binds a port first would get the connections that other agents
//! meant for the world. This process must never be left in the gate's namespace: what it forks would listen
//! there.
//!
//! Init may enter no namespace once the cage is proven, but later policies may name new ports: [`Stock`].

use super::stock::Stock;
use crate::sys;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The link's name on both sides, and its index (chosen by us, so that it need not be looked up).
pub const LINK: &str = "gate";
const LINK_INDEX: u32 = 77;
const LO_INDEX: u32 = 1;
/// One link-layer address for both ends: with ARP off, a sender uses its own address as the destination, and
/// the other end accepts it.
const MAC: [u8; 6] = [0x02, 0x63, 0x6f, 0x66, 0x66, 0x01];
/// As on `lo`: no wire requires smaller segments.
const MTU: u32 = 65_535;
/// The ends' addresses: from the shared space of RFC 6598 and a unique local prefix (RFC 4193), which no name
/// is given.
const AGENTS_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 2);
const GATE_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 1);
const PREFIX_V4: u8 = 30;
const AGENTS_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f66, 0, 1, 0, 0, 0, 2);
const GATE_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f66, 0, 1, 0, 0, 0, 1);
const PREFIX_V6: u8 = 64;

/// Why there is no gate. What was made of it has been removed again, except with [`NoGate::Half`].
#[derive(Debug, thiserror::Error)]
pub enum NoGate {
    /// `EOPNOTSUPP` at the link itself.
    #[error("this kernel has no veth devices; `modprobe veth` on the host mends it")]
    NoVeth,
    /// Anything else.
    #[error("{step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Half a link is left in the agents' namespace.
    #[error("taking back half a gate: {0}")]
    Half(io::Error),
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> NoGate {
    move |source| NoGate::Step { step, source }
}

/// Makes the gate's listeners.
#[derive(Debug)]
pub struct Gate {
    stock: Stock,
    /// The gate's namespace, until init gives up entering it.
    namespace: Option<File>,
    /// The socket that sees what the gate refuses, or why it couldn't be opened; `None` if none was wanted.
    witness: Option<io::Result<OwnedFd>>,
}

impl Gate {
    /// Makes the second namespace, the link and the routes, with a witness if one is wanted. On failure this
    /// process is back in its own namespace, which is as it was before.
    ///
    /// # Errors
    /// [`NoGate`]; after [`NoGate::Half`] nothing may run here.
    pub fn make(witness: bool) -> Result<Self, NoGate> {
        let agents = own_namespace().map_err(at("opening the network namespace"))?;
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| at("making the gate's network namespace")(errno.into()))?;
        let far = far_side(&agents, witness);
        enter(&agents);
        let made = far.and_then(|(gate, ipv6)| near_side(ipv6).map(|()| gate));
        if made.is_err() {
            unlink().map_err(NoGate::Half)?;
        }
        made
    }

    /// Opens sockets for as many ports more, and gives up entering the gate's namespace: called once, before
    /// the cage is proven.
    ///
    /// # Errors
    /// The kernel's. This process is in its own namespace then, too.
    pub(crate) fn close(&mut self, ports: usize) -> io::Result<()> {
        let Some(namespace) = self.namespace.take() else { return Ok(()) };
        if ports == 0 {
            return Ok(());
        }
        let agents = own_namespace()?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let opened = self.stock.add(ports);
        enter(&agents);
        opened
    }

    /// Returns a listener for connections to any address at `port`, or `None` if too many ports were captured
    /// before ([`SPARE`](super::stock::SPARE)).
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(&mut self, port: u16) -> io::Result<Option<OwnedFd>> {
        self.stock.listen(port)
    }

    /// Stops such a listener: connections to its port are refused from now on.
    pub(crate) fn retire(&mut self, port: u16, listener: OwnedFd) {
        self.stock.retire(port, listener);
    }

    /// The socket that sees refusals, if there is one.
    pub(crate) fn witness(&self) -> Option<&OwnedFd> {
        self.witness.as_ref()?.as_ref().ok()
    }

    /// Why there is no witness although one was wanted.
    pub(crate) fn no_witness(&self) -> Option<String> {
        let error = self.witness.as_ref()?.as_ref().err()?;
        Some(format!("no packet socket: {error}; a unit's RestrictAddressFamilies= must name AF_PACKET"))
    }

    /// Discards the refusals seen so far: they come from the proof's own attempts, not from an agent.
    pub(crate) fn forget_refusals(&self) {
        self.witness().into_iter().for_each(super::witness::forget);
    }
}

/// Makes the link and everything in the gate's namespace, which this process must be in. Also returns whether
/// IPv6 is available.
fn far_side(agents: &File, witness: bool) -> Result<(Gate, bool), NoGate> {
    super::network::loopback_up().map_err(at("switching the gate's loopback on"))?;
    let kernel = Rtnetlink::open().map_err(at("opening rtnetlink"))?;
    kernel.ask(&[link(agents)]).map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => NoGate::NoVeth,
        _ => at("making the gate's link")(error),
    })?;
    let ipv6 = has_ipv6();
    let mut wanted = vec![link_up(), address(&GATE_V4.octets(), PREFIX_V4), route(Family::V4, &LOCAL_HERE)];
    if ipv6 {
        wanted.extend([address(&GATE_V6.octets(), PREFIX_V6), route(Family::V6, &LOCAL_HERE)]);
    }
    kernel.ask(&wanted).map_err(at("giving the gate its addresses"))?;
    let stock = Stock::open(ipv6).map_err(at("opening the gate's sockets"))?;
    let namespace = own_namespace().map_err(at("opening the gate's network namespace"))?;
    let witness = witness.then(|| super::witness::open(LINK_INDEX));
    Ok((Gate { stock, namespace: Some(namespace), witness }, ipv6))
}

/// Sets up the agents' end of the link, in their namespace.
fn near_side(ipv6: bool) -> Result<(), NoGate> {
    let mut wanted = vec![
        link_up(),
        address(&AGENTS_V4.octets(), PREFIX_V4),
        route(Family::V4, &THROUGH_LINK),
        route(Family::V4, &NO_GROUPS),
    ];
    if ipv6 {
        wanted.extend([address(&AGENTS_V6.octets(), PREFIX_V6), route(Family::V6, &THROUGH_LINK)]);
    }
    Rtnetlink::open().and_then(|kernel| kernel.ask(&wanted)).map_err(at("leading the world to the gate"))
}

fn own_namespace() -> io::Result<File> {
    File::open("/proc/self/ns/net")
}

/// Returns to the agents' namespace, or exits: agents forked in the gate's namespace could listen in the
/// world's place.
fn enter(namespace: &File) {
    if setns(namespace, CloneFlags::CLONE_NEWNET).is_err() {
        sys::process::exit_now(125);
    }
}

fn has_ipv6() -> bool {
    sys::socket::open(libc::AF_INET6, libc::SOCK_STREAM, 0).is_ok()
        && std::fs::read("/proc/sys/net/ipv6/conf/all/disable_ipv6")
            .is_ok_and(|value| value.starts_with(b"0"))
}

// rtnetlink(7), by bytes: linux/rtnetlink.h, linux/if_link.h, linux/veth.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u32 = 2;
/// REQUEST | ACK.
const ASK: u16 = 0x1 | 0x4;
/// With EXCL | CREATE.
const MAKE: u16 = ASK | 0x200 | 0x400;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_UNREACHABLE: u8 = 7;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
/// struct nlmsghdr.
const HEADER: usize = 16;

/// Makes the link's two ends, both still down, the agents' one in their namespace.
fn link(agents: &File) -> Request {
    let end = |more: &dyn Fn(&mut Vec<u8>)| {
        // Without ARP or neighbour discovery, so that the first connection waits for no answer.
        let mut body = link_header(libc::IFF_NOARP);
        attribute(&mut body, IFLA_IFNAME, [LINK.as_bytes(), b"\0"].concat().as_slice());
        attribute(&mut body, IFLA_ADDRESS, &MAC);
        attribute(&mut body, IFLA_MTU, &MTU.to_ne_bytes());
        // Not one for each processor: the kernel would make them and switch all but one off again, and wait
        // for a grace period (RCU) each time.
        attribute(&mut body, IFLA_NUM_TX_QUEUES, &1_u32.to_ne_bytes());
        attribute(&mut body, IFLA_NUM_RX_QUEUES, &1_u32.to_ne_bytes());
        more(&mut body);
        body
    };
    let peer = end(&|body| {
        attribute(body, IFLA_NET_NS_FD, &agents.as_raw_fd().to_ne_bytes());
    });
    let body = end(&|body| {
        let mut data = Vec::new();
        attribute(&mut data, VETH_INFO_PEER, &peer);
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, b"veth");
        attribute(&mut info, IFLA_INFO_DATA, &data);
        attribute(body, IFLA_LINKINFO, &info);
    });
    request(RTM_NEWLINK, MAKE, &body)
}

/// Brings this side of the link up. Both sides must be there, or the kernel refuses.
fn link_up() -> Request {
    request(RTM_NEWLINK, ASK, &link_header(libc::IFF_UP))
}

/// Removes the link: both ends with their addresses and routes. Does nothing if there is none.
fn unlink() -> io::Result<()> {
    match Rtnetlink::open()?.ask(&[request(RTM_DELLINK, ASK, &link_header(0))]) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

/// struct ifinfomsg, with these flags to be set.
fn link_header(flags: libc::c_int) -> Vec<u8> {
    let flags = flags as u32;
    let mut body = vec![0, 0, 0, 0];
    body.extend([LINK_INDEX, flags, flags].map(u32::to_ne_bytes).concat());
    body
}

/// Gives this side of the link an address.
fn address(octets: &[u8], prefix: u8) -> Request {
    let family = if octets.len() == 4 { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![family as u8, prefix, IFA_F_NODAD, SCOPE_UNIVERSE];
    body.extend(LINK_INDEX.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, octets);
    attribute(&mut body, IFA_ADDRESS, octets);
    request(RTM_NEWADDR, MAKE, &body)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// A route; to every address if `to` is empty.
struct Route {
    to: &'static [u8],
    prefix: u8,
    kind: u8,
    scope: u8,
    device: u32,
}

/// Makes every address local to this namespace. In the main table, so that the more specific route to the
/// link's other end still wins.
const LOCAL_HERE: Route = Route { to: &[], prefix: 0, kind: RTN_LOCAL, scope: SCOPE_HOST, device: LO_INDEX };
/// Everything goes through the link.
const THROUGH_LINK: Route =
    Route { to: &[], prefix: 0, kind: RTN_UNICAST, scope: SCOPE_LINK, device: LINK_INDEX };

/// Multicast groups (RFC 5771) have no member behind the gate, and the kernel there would not answer, so they
/// are unreachable here already.
const NO_GROUPS: Route =
    Route { to: &[224, 0, 0, 0], prefix: 4, kind: RTN_UNREACHABLE, scope: SCOPE_UNIVERSE, device: LO_INDEX };

fn route(family: Family, route: &Route) -> Request {
    // IPv6 knows no scopes of routes.
    let (family, scope) = match family {
        Family::V4 => (libc::AF_INET, route.scope),
        Family::V6 => (libc::AF_INET6, SCOPE_UNIVERSE),
    };
    let mut body =
        vec![family as u8, route.prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, route.kind, 0, 0, 0, 0];
    if !route.to.is_empty() {
        attribute(&mut body, RTA_DST, route.to);
    }
    if route.kind != RTN_UNREACHABLE {
        attribute(&mut body, RTA_OIF, &route.device.to_ne_bytes());
    }
    request(RTM_NEWROUTE, MAKE, &body)
}

/// Appends an attribute, padded to four bytes. None of ours comes near the length that its header can say.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A whole message to the kernel.
struct Request(Vec<u8>);

fn request(kind: u16, flags: u16, body: &[u8]) -> Request {
    let mut message = Vec::with_capacity(HEADER + body.len().next_multiple_of(4));
    message.extend(u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([1_u32, 0].map(u32::to_ne_bytes).concat());
    message.extend(body);
    // The next one begins at a multiple of four (netlink(7)).
    message.resize(message.len().next_multiple_of(4), 0);
    Request(message)
}

/// An rtnetlink socket; requests on it concern the namespace in which it was opened.
struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    fn open() -> io::Result<Self> {
        sys::socket::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).map(Self)
    }

    /// Sends the requests in one write, in this order. The kernel tries each, even after one failed; returns
    /// the first failure.
    fn ask(&self, requests: &[Request]) -> io::Result<()> {
        let together: Vec<&[u8]> = requests.iter().map(|Request(message)| message.as_slice()).collect();
        sys::fd::write_all(self.0.as_fd(), &together.concat())?;
        let answers: Vec<io::Result<()>> = requests.iter().map(|_| self.answer()).collect();
        answers.into_iter().collect()
    }

    /// Reads the kernel's answer to the next request.
    fn answer(&self) -> io::Result<()> {
        let mut reply = [0_u8; 4096];
        let length = sys::fd::read(self.0.as_fd(), &mut reply)?;
        let word = |at: usize| {
            let bytes = reply.get(at..at + 4).filter(|_| at + 4 <= length)?;
            bytes.try_into().ok().map(u32::from_ne_bytes)
        };
        match (word(4).map(|kind| kind & 0xffff), word(HEADER)) {
            (Some(NLMSG_ERROR), Some(0)) => Ok(()),
            (Some(NLMSG_ERROR), Some(code)) => {
                Err(io::Error::from_raw_os_error((code as i32).wrapping_neg()))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
