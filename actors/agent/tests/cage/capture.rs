//! Connections to the world arrive at the gate's listeners, with the address that was asked for; agents' own
//! servers never stand in the way, nor get what was meant for the world.

use crate::Case;
use crate::bed::{self, Cage, Mode};
use agent::isolation::stock::SPARE;
use agent::protocol::{Answer, Refusal, Request};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

pub const CASES: &[Case] = &[
    ("later_ports_are_bounded", later_ports_are_bounded),
    // Last: its threads live on, and a process with threads can start no cage.
    ("every_address_is_captured_on_captured_ports", every_address_is_captured),
];

fn captured(cage: &Cage, port: u16) -> TcpListener {
    match cage.ask_with(Request::Capture { port }, &[]) {
        Ok((Answer::Descriptor, fds)) => {
            let fd: OwnedFd = fds.into_iter().next().expect("a descriptor");
            let listener = TcpListener::from(fd);
            listener.set_nonblocking(false).expect("blocking");
            listener
        }
        other => panic!("capture: {other:?}"),
    }
}

/// Tells each connection its own ends.
fn answer(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (local, peer) = (stream.local_addr().expect("local"), stream.peer_addr().expect("peer"));
            let _ = writeln!(stream, "{} {}", local.ip().to_canonical(), peer.ip().to_canonical());
        }
    });
}

const CLIENT: &str = r#"
import socket
# An agent's own servers on the very port, on every address of its own, before and after.
own = socket.socket(socket.AF_INET6); own.bind(('::', 8080)); own.listen()
mine = socket.socket(); mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
mine.bind(('127.0.0.1', 8081)); mine.listen()
def ask(family, address, port):
    s = socket.socket(family); s.settimeout(20)
    try:
        s.connect((address, port)); return s.makefile().readline().strip() + ' from ' + s.getsockname()[0]
    except OSError as e:
        return type(e).__name__
for family, address in ((2, '198.18.0.5'), (2, '93.184.215.14'), (2, '10.0.0.1'), (10, 'fd00::5'), (10, '2606:2800::1')):
    for port in (443, 8080, 81):
        print(address, port, ask(family, address, port))
c = socket.create_connection(('127.0.0.1', 8080), 20); own.accept()
c = socket.create_connection(('127.0.0.1', 8081), 20); mine.accept()
print('own served')
s = socket.socket(2, 2); s.settimeout(20); s.connect(('8.8.8.8', 53)); s.send(b'x')
try: s.recv(1); print('udp answered')
except OSError as e: print('udp', type(e).__name__)
g = socket.socket(2, 2)
try: g.connect(('224.0.0.251', 5353)); g.send(b'x'); print('group reached')
except OSError as e: print('group', e.errno)
# FREEBIND: a source address of somebody else's brings nothing back.
f = socket.socket(); f.setsockopt(socket.SOL_IP, 15, 1); f.bind(('198.18.0.9', 0)); f.settimeout(0.3)
try: f.connect(('198.18.0.5', 443)); print('spoofed')
except OSError as e: print('spoof', type(e).__name__)
"#;

fn every_address_is_captured(mode: Mode) {
    let cage = Cage::start(mode);
    assert_eq!(cage.report().expect("a report").no_capture, None);
    answer(captured(&cage, 443));
    answer(captured(&cage, 8080));
    let Some(lines) = cage.python(CLIENT) else { return };
    let text = lines.join("\n");
    for address in ["198.18.0.5", "93.184.215.14", "10.0.0.1"] {
        for port in [443, 8080] {
            let wanted = format!("{address} {port} {address} 100.127.255.2 from 100.127.255.2");
            assert!(lines.contains(&wanted), "{wanted}\n{text}");
        }
        assert!(lines.contains(&format!("{address} 81 ConnectionRefusedError")), "{text}");
    }
    for address in ["fd00::5", "2606:2800::1"] {
        let wanted = format!("{address} 8080 {address} fd63:6f66:0:1::2 from fd63:6f66:0:1::2");
        assert!(lines.contains(&wanted), "{wanted}\n{text}");
        assert!(lines.contains(&format!("{address} 81 ConnectionRefusedError")), "{text}");
    }
    assert!(text.contains("own served") && text.contains("udp ConnectionRefusedError"), "{text}");
    assert!(!text.contains("group reached"), "{text}");
    assert!(!text.contains("spoofed"), "{text}");
    // A port that is let go is refused again, whoever has a descriptor of its listener still.
    let _kept = captured(&cage, 9000);
    cage.ask(Request::CaptureOnly { ports: vec![443] }).expect("released");
    let after = cage.python("import socket\ntry: socket.create_connection(('1.2.3.4', 9000), 20)\nexcept ConnectionRefusedError: print('refused')");
    assert_eq!(after, Some(vec!["refused".to_owned()]));
}

/// Policies to come may name so many new ports, and no more; a port that was captured once costs none of
/// them.
fn later_ports_are_bounded(mode: Mode) {
    let workspace = bed::workspace(mode);
    let mut plan = bed::plan(mode, workspace.path());
    plan.captured_ports = 2;
    let cage = Cage::with(&plan);
    let possible = 2 + SPARE;
    for turn in 0..2 {
        for port in (7000..).take(possible) {
            drop(captured(&cage, port));
        }
        let more = cage.ask_with(Request::Capture { port: 6999 }, &[]);
        assert!(matches!(more, Err(Refusal::TooMany(_))), "turn {turn}: {more:?}");
        cage.ask(Request::CaptureOnly { ports: vec![] }).expect("released");
    }
}
