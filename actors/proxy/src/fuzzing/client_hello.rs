//! A ClientHello is read the same however it is cut into records, an early look never says what a later one
//! takes back, and rustls reads the same name and protocols wherever both accept.

use rustls::server::Acceptor;

use crate::tls::{BadHello, Hello, MAX_HELLO_BYTES, Parsed, parse_hello};

/// The property. The first byte says how long the records are into which the message is cut anew.
pub fn holds(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let whole = parse_hello(bytes);
    for cut in cuts(bytes.len()) {
        let early = parse_hello(&bytes[..cut]);
        assert!(early == Parsed::NeedMore || early == whole, "{cut}: {early:?} then {whole:?}");
    }
    let theirs = rustls_reads(bytes);
    match (&whole, theirs) {
        (Parsed::Hello(ours), theirs) => {
            if let Some((name, alpn)) = theirs {
                assert_eq!(ours.server_name.as_ref().map(ToString::to_string), name);
                assert_eq!(ours.alpn, alpn);
            }
            cut_anew(bytes, usize::from(choice) + 1, ours);
        }
        (Parsed::NeedMore | Parsed::NotTls, Some(theirs)) => panic!("{whole:?}, but rustls reads {theirs:?}"),
        _ => {}
    }
}

/// Every place near the beginning, and some of the others.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |at| *at < 64 || at % (length / 16).max(1) == 0)
}

/// Name and protocols, where rustls accepts the hello.
fn rustls_reads(mut bytes: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
                return Some((hello.server_name().map(str::to_ascii_lowercase), alpn));
            }
            Err(_) => return None,
            Ok(None) => {}
        }
        if bytes.is_empty() || acceptor.read_tls(&mut bytes).is_err() {
            return None;
        }
    }
}

/// The same message in records of `size` bytes.
fn cut_anew(bytes: &[u8], size: usize, ours: &Hello) {
    let (mut message, mut rest) = (Vec::new(), bytes);
    while let [_, _, _, high, low, after @ ..] = rest {
        let (payload, next) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(after.len()));
        message.extend_from_slice(payload);
        rest = next;
        if let [_, a, b, c, ..] = *message
            && message.len() >= u32::from_be_bytes([0, a, b, c]) as usize + 4
        {
            break;
        }
    }
    let mut again = Vec::new();
    for payload in message.chunks(size) {
        again.extend_from_slice(&[22, 3, 1]);
        again.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        again.extend_from_slice(payload);
    }
    let wanted = match again.len() {
        0..=MAX_HELLO_BYTES => Parsed::Hello(ours.clone()),
        _ => Parsed::Bad(BadHello::TooLong),
    };
    assert_eq!(parse_hello(&again), wanted);
}
