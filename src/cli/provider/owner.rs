//! Whose the server at a port of this machine is, by the kernel's tables: anybody who has an account can listen on one.
//!
//! Nothing is trusted for want of an answer: a port where nobody is seen to listen is as doubtful as a stranger's. Looked at on both sides of
//! a question, it says who served there then, not who will: what is written of it names a port, and no user.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use nix::unistd::geteuid;

/// Users below this are the system's own (login.defs(5): `SYS_UID_MAX`).
const FIRST_OF_PEOPLE: u32 = 1000;
/// More of a table isn't read: a hundred thousand sockets.
const TABLE_MAX: u64 = 16 << 20;
/// `TCP_LISTEN`, as the tables have it.
const LISTENING: &str = "0A";

/// Why a server isn't taken for this machine's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// A person serves there who isn't us.
    #[error("it is run by user {0}")]
    Stranger(u32),
    /// It answers, and nobody listens: who did is gone, or was led to from elsewhere.
    #[error("nobody is seen to listen there, so whose it is can't be told")]
    Nobody,
    /// The tables don't say.
    #[error("whose it is can't be told: {0}")]
    Unreadable(String),
}

/// Whether somebody listens at this port, and everybody who does is us, root or one of the system's own.
///
/// # Errors
/// [`Doubt`], whenever that can't be said.
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

fn judged(listeners: &[u32], ours: u32) -> Result<(), Doubt> {
    match listeners.iter().find(|uid| **uid != ours && **uid >= FIRST_OF_PEOPLE) {
        Some(stranger) => Err(Doubt::Stranger(*stranger)),
        None if listeners.is_empty() => Err(Doubt::Nobody),
        None => Ok(()),
    }
}

fn open(table: &str) -> Result<File, Doubt> {
    File::open(table).map_err(|e| unreadable(&e))
}

fn unreadable(e: &io::Error) -> Doubt {
    Doubt::Unreadable(format!("the table of sockets: {e}"))
}

/// The users of a table's sockets that listen at a port (proc_pid_net(5)); none of a table that isn't read to its end.
fn listeners(table: impl Read, max: u64, port: u16) -> Result<Vec<u32>, Doubt> {
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

/// The user of a line's socket, if it listens there; none where it is no line.
fn listener(line: &str, port: u16) -> Option<Option<u32>> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    // Behind the state: queues, timer, retransmissions.
    let uid = fields.nth(3)?.parse().ok()?;
    let at = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    Some((at == port && state == LISTENING).then_some(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
   1: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 1 1 0
   2: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1002        0 1 1 0 100 0 0 10 0
   3: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1003        0 1 1 0 100 0 0 10 0
";

    #[test]
    fn only_who_listens_at_the_port_counts() {
        let at = |port| listeners(TABLE.as_bytes(), TABLE_MAX, port).unwrap();
        assert_eq!(at(8000), [1001, 0]);
        assert_eq!(at(8001), [1003]);
        assert!(at(40000).is_empty());
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
        assert_eq!(judged(&[1001, 0, 999], 1001), Ok(()));
        assert_eq!(judged(&[1001, 1002], 1001), Err(Doubt::Stranger(1002)));
        assert_eq!(judged(&[0, 1001], 0), Err(Doubt::Stranger(1001)));
    }

    #[test]
    fn what_is_ours_is_no_strangers_and_what_was_is_nobodys() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(known(port), Ok(()));
        // A connection that is there still says nothing of who listened.
        let _connection = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        assert_eq!(known(port), Err(Doubt::Nobody));
    }
}
