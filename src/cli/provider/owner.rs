//! Whose the server at a port of this machine is, by the kernel's tables: anybody who has an account can listen on one.
//!
//! Looked at beside the answer, so it says who serves there, not who answered: enough to offer nobody whom this machine doesn't trust already.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use nix::unistd::geteuid;

/// Users below this are the system's own (login.defs(5): `SYS_UID_MAX`).
const FIRST_OF_PEOPLE: u32 = 1000;
/// More of a table isn't read: a hundred thousand sockets.
const TABLE_MAX: u64 = 16 << 20;
/// `TCP_LISTEN`, as the tables have it.
const LISTENING: &str = "0A";

/// A user who serves at this port, and is neither us nor root nor one of the system's own.
pub fn stranger(port: u16) -> Option<u32> {
    let ours = geteuid().as_raw();
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| File::open(table).ok())
        .flat_map(|table| listeners(BufReader::new(table.take(TABLE_MAX)), port))
        .find(|uid| *uid != ours && *uid >= FIRST_OF_PEOPLE)
}

/// The users of a table's sockets that listen at a port (proc_pid_net(5)).
fn listeners(table: impl BufRead, port: u16) -> Vec<u32> {
    let port = format!(":{port:04X}");
    let lines = table.lines().map_while(Result::ok);
    lines
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (local, state) = (fields.nth(1)?, fields.nth(1)?);
            let is_it = local.ends_with(&port) && state == LISTENING;
            // Behind the state: queues, timer, retransmissions.
            is_it.then(|| fields.nth(3)?.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
   1: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 1 1 0
   2: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1002        0 1 1 0 100 0 0 10 0
   3: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1003        0 1 1 0 100 0 0 10 0
   4: nonsense
";

    #[test]
    fn only_who_listens_at_the_port_counts() {
        assert_eq!(listeners(TABLE.as_bytes(), 8000), [1001, 0]);
        assert_eq!(listeners(TABLE.as_bytes(), 8001), [1003]);
        assert!(listeners(TABLE.as_bytes(), 40000).is_empty());
    }

    #[test]
    fn what_is_ours_is_no_strangers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = BufReader::new(File::open("/proc/net/tcp").unwrap());
        assert_eq!(listeners(table, port), [geteuid().as_raw()]);
        assert_eq!(stranger(port), None);
    }
}
