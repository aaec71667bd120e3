//! Finds out which user runs the server at a port of this machine, from the kernel's tables: any user can
//! listen on one.
//!
//! Missing information is never taken for trust: a port without a visible listener is as doubtful as another
//! user's. Checked before and after a question, this says who served there then, not who will later: the
//! entry that is written names a port, and no user.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Ipv6Addr};

use nix::unistd::geteuid;

/// Uids below this are the system's own (login.defs(5): `SYS_UID_MAX`).
const FIRST_OF_PEOPLE: u32 = 1000;
/// How many bytes of a table are read: a hundred thousand sockets.
const TABLE_MAX: u64 = 16 << 20;
/// `TCP_LISTEN`, as the tables write it.
const LISTENING: &str = "0A";

/// Why a server isn't trusted as this machine's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It is run by a person other than us.
    #[error("it is run by user {0}")]
    Stranger(u32),
    /// It answers, but no listener is seen: the listener is gone, or the connection was redirected to another
    /// place.
    #[error("no listening process was found, so its owner is unknown")]
    Nobody,
    /// The tables don't say.
    #[error("its owner is unknown: {0}")]
    Unreadable(String),
}

/// A socket that listens at the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    uid: u32,
    /// Whether `localhost` leads to it. False if it listens only on another address of the machine.
    is_near: bool,
}

/// Checks that a process listens at this port of `localhost`, and that all listeners at this port of any
/// address are run by us, root or another system user.
///
/// # Errors
/// [`Doubt`] if that isn't so, or can't be told.
pub fn known(port: u16) -> Result<(), Doubt> {
    let mut found = listeners(open("/proc/net/tcp")?, TABLE_MAX, port)?;
    match File::open("/proc/net/tcp6") {
        Ok(table) => found.extend(listeners(table, TABLE_MAX, port)?),
        // A kernel without IPv6 has no such table, and no such sockets.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(unreadable(&e)),
    }
    judged(&found, geteuid().as_raw())
}

fn judged(listeners: &[Listener], ours: u32) -> Result<(), Doubt> {
    match listeners.iter().find(|it| it.uid != ours && it.uid >= FIRST_OF_PEOPLE) {
        Some(stranger) => Err(Doubt::Stranger(stranger.uid)),
        None if listeners.iter().any(|it| it.is_near) => Ok(()),
        None => Err(Doubt::Nobody),
    }
}

fn open(table: &str) -> Result<File, Doubt> {
    File::open(table).map_err(|e| unreadable(&e))
}

fn unreadable(e: &io::Error) -> Doubt {
    Doubt::Unreadable(format!("the table of sockets: {e}"))
}

/// Returns a table's sockets that listen at a port (proc_pid_net(5)). An error if the table can't be read to
/// its end.
fn listeners(table: impl Read, max: u64, port: u16) -> Result<Vec<Listener>, Doubt> {
    let mut table = BufReader::new(table.take(max));
    let mut found = Vec::new();
    // The first line names the columns.
    for line in table.by_ref().lines().skip(1) {
        let line = line.map_err(|e| unreadable(&e))?;
        let odd = || Doubt::Unreadable("the table of sockets has a line that is none".into());
        found.extend(listener(&line, port).ok_or_else(odd)?);
    }
    match table.get_ref().limit() {
        0 => Err(Doubt::Unreadable(format!("the table of sockets has more than {max} bytes"))),
        _ => Ok(found),
    }
}

/// Returns a line's socket, if it listens at the port. The outer `None` means that the line can't be parsed.
fn listener(line: &str, port: u16) -> Option<Option<Listener>> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    // Skips queues, timer and retransmissions, which come after the state.
    let uid = fields.nth(3)?.parse().ok()?;
    let (address, at) = local.rsplit_once(':')?;
    let at = u16::from_str_radix(at, 16).ok()?;
    Some((at == port && state == LISTENING).then(|| Listener { uid, is_near: is_near(address) }))
}

/// Whether an address is one of `localhost`'s, or the unspecified one. The tables write addresses as 32-bit
/// words in the machine's byte order.
fn is_near(address: &str) -> bool {
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let words = |octets: &[u8]| -> String {
        let words = octets.chunks_exact(4).filter_map(|word| word.try_into().ok().map(u32::from_ne_bytes));
        words.map(|word| format!("{word:08X}")).collect()
    };
    let of_localhost = [words(&v4.octets()), words(&v6.octets()), words(&v4.to_ipv6_mapped().octets())];
    address.bytes().all(|digit| digit == b'0') || of_localhost.iter().any(|it| it == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
   1: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 1 1 0
   2: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1002        0 1 1 0 100 0 0 10 0
   3: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1003        0 1 1 0 100 0 0 10 0
   4: 0501A8C0:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1004        0 1 1 0 100 0 0 10 0
";

    fn at(uid: u32, is_near: bool) -> Listener {
        Listener { uid, is_near }
    }

    #[test]
    fn only_who_listens_at_the_port_counts() {
        let of = |port| listeners(TABLE.as_bytes(), TABLE_MAX, port).unwrap();
        assert_eq!(of(8000), [at(1001, true), at(0, true)]);
        assert_eq!(of(8001), [at(1003, true), at(1004, false)]);
        assert!(of(40000).is_empty());
    }

    #[test]
    fn what_isnt_read_to_its_end_tells_nothing() {
        let cut = listeners(TABLE.as_bytes(), TABLE.len() as u64 - 300, 8000).unwrap_err();
        assert!(matches!(cut, Doubt::Unreadable(_)), "{cut}");
        let odd = format!("{TABLE}   4: nonsense\n");
        assert!(listeners(odd.as_bytes(), TABLE_MAX, 8000).is_err());
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        assert!(listeners(TABLE.as_bytes().chain(Broken), TABLE_MAX, 8000).is_err());
    }

    #[test]
    fn everybody_who_listens_must_be_known_and_somebody_must() {
        assert_eq!(judged(&[], 1001), Err(Doubt::Nobody));
        assert_eq!(judged(&[at(1001, true), at(0, false), at(999, true)], 1001), Ok(()));
        assert_eq!(judged(&[at(1001, true), at(1002, false)], 1001), Err(Doubt::Stranger(1002)));
        assert_eq!(judged(&[at(0, true), at(1001, true)], 0), Err(Doubt::Stranger(1001)));
        // Our own listener at another address isn't the one that answers here.
        assert_eq!(judged(&[at(1001, false)], 1001), Err(Doubt::Nobody));
    }

    #[test]
    fn each_way_to_listen_for_localhost_is_near_and_no_other() {
        for (address, wanted) in [
            ("127.0.0.1:0", true),
            ("0.0.0.0:0", true),
            ("[::1]:0", true),
            ("[::]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("127.0.0.2:0", false),
        ] {
            // A machine without IPv6 has no such sockets.
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let found = known(listener.local_addr().unwrap().port());
            assert_eq!(found, if wanted { Ok(()) } else { Err(Doubt::Nobody) }, "{address}");
        }
    }

    #[test]
    fn what_is_ours_is_no_strangers_and_what_was_is_nobodys() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(known(port), Ok(()));
        // A remaining connection doesn't say which user listened.
        let _connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        assert_eq!(known(port), Err(Doubt::Nobody));
    }
}
