//! Hellos as rustls writes them, hellos written by hand with one thing wrong, and hellos cut at every byte.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;
use crate::tls::{Authority, upstream_config_with_roots};

/// What a real client sends first.
fn real(name: &str) -> Vec<u8> {
    let authority = Authority::generate().unwrap();
    let config = upstream_config_with_roots(vec![authority.certificate().clone()]).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn vec16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vec16(body)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(EXT_SERVER_NAME, &vec16(&[&[0][..], &vec16(name)].concat()))
}

/// A handshake message with these extensions.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(vec16(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(vec16(&extensions.concat()));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO, length[1], length[2], length[3]][..], &body].concat()
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[HANDSHAKE_RECORD, 3, 1][..], &vec16(payload)].concat()
}

fn hello(extensions: &[Vec<u8>]) -> Parsed {
    parse_hello(&record(&message(extensions)))
}

fn name_of(parsed: &Parsed) -> Option<String> {
    match parsed {
        Parsed::Hello(hello) => hello.server_name.as_ref().map(ToString::to_string),
        other => panic!("no hello: {other:?}"),
    }
}

#[test]
fn a_real_clients_hello_is_read() {
    let parsed = parse_hello(&real("API.example.com"));
    assert_eq!(name_of(&parsed).as_deref(), Some("api.example.com"));
    let Parsed::Hello(hello) = parsed else { panic!() };
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(!hello.encrypted);
    assert_eq!(name_of(&parse_hello(&real("93.184.216.34"))), None, "no SNI for an address");
}

#[test]
fn a_cut_hello_needs_more_at_every_byte() {
    let bytes = real("a.example");
    for cut in 0..bytes.len() {
        assert_eq!(parse_hello(&bytes[..cut]), Parsed::NeedMore, "cut at {cut}");
    }
}

#[test]
fn a_hello_over_many_records_is_one() {
    let message = message(&[sni(b"a.example")]);
    let fragments: Vec<u8> = message.iter().flat_map(|byte| record(&[*byte])).collect();
    assert_eq!(name_of(&parse_hello(&fragments)).as_deref(), Some("a.example"));
    // A record of its own after it (early data) is not ours to read.
    let more = [record(&message), vec![23, 3, 3, 0, 1, 0]].concat();
    assert_eq!(name_of(&parse_hello(&more)).as_deref(), Some("a.example"));
}

#[test]
fn what_is_not_tls_is_told_at_the_first_byte() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-x",
        b"\x80\x2e\x01\x03",
        b"\xfe\x01",
        b"\xff\xfd\x01",
        b"\0",
        b"P",
        b"\x15\x04",
        // The lengths of other protocols' messages, with the numbers that follow them.
        b"\x14\x03\0\0\x01\0\0\0",
        b"\x15\x03\0\0\x02\0\0\0",
    ] {
        assert_eq!(parse_hello(bytes), Parsed::NotTls, "{bytes:?}");
    }
    assert_eq!(parse_hello(b""), Parsed::NeedMore);
    // What servers of TLS pass over.
    for bytes in
        [&b"\x14\x03\x03\0\x01\x01"[..], b"\x15\x03\x01\0\x02\x01\x5a", b"\x18\x03\x03\0\x03\x01\0\0"]
    {
        assert_eq!(parse_hello(bytes), Parsed::Bad(BadHello::Record), "{bytes:?}");
        assert!((1..4).all(|n| parse_hello(&bytes[..n]) == Parsed::NeedMore), "{bytes:?}");
    }
}

#[test]
fn bad_records_are_refused_as_soon_as_they_show() {
    for bytes in [&[22, 2][..], &[22, 0], &[22, 3, 1, 0, 0], &[22, 3, 1, 0x40, 1], &[22, 3, 1, 0, 1, 1, 21]] {
        assert_eq!(parse_hello(bytes), Parsed::Bad(BadHello::Record), "{bytes:?}");
    }
    assert_eq!(parse_hello(&[22, 3, 1, 0, 4, 2]), Parsed::Bad(BadHello::NotAHello), "a ServerHello");
    let two = [message(&[]), message(&[])].concat();
    assert_eq!(parse_hello(&record(&two)), Parsed::Bad(BadHello::NotAHello), "two messages in a record");
}

#[test]
fn an_endless_hello_is_refused_early() {
    // A message that announces too much.
    assert_eq!(parse_hello(&[22, 3, 1, 0x40, 0, 1, 1, 0, 0]), Parsed::Bad(BadHello::TooLong));
    // Tiny records that would take for ever.
    let message = message(&[extension(0xabcd, &vec![0; 12_000])]);
    let drip: Vec<u8> = message.iter().flat_map(|byte| record(&[*byte])).collect();
    for come in [MAX_HELLO_BYTES, MAX_HELLO_BYTES + 1, drip.len()] {
        assert_eq!(parse_hello(&drip[..come]), Parsed::Bad(BadHello::TooLong), "{come} bytes at once");
    }
}

#[test]
fn odd_names_are_refused() {
    for name in [
        &b""[..],
        b"a.example.",
        b"a..example",
        b"a\0.example",
        b"a.example\r\n",
        b"*.example",
        b"127.0.0.1",
        b"0x7f.1",
        b"::1",
        b"\xff\xfe",
        b"a.example:443",
        b"b\xc3\xbccher.example",
    ] {
        assert_eq!(hello(&[sni(name)]), Parsed::Bad(BadHello::ServerName), "{name:?}");
    }
    let name = |kind: u8, name: &[u8]| [&[kind][..], &vec16(name)].concat();
    let two = extension(EXT_SERVER_NAME, &vec16(&[name(0, b"a.example"), name(0, b"b.example")].concat()));
    let odd_kind = extension(EXT_SERVER_NAME, &vec16(&name(1, b"a.example")));
    let empty = extension(EXT_SERVER_NAME, &[]);
    let empty_list = extension(EXT_SERVER_NAME, &vec16(&[]));
    let surplus = extension(EXT_SERVER_NAME, &[vec16(&name(0, b"a.example")), vec![0]].concat());
    for odd in [two, odd_kind, empty, empty_list, surplus] {
        assert_eq!(hello(&[odd]), Parsed::Bad(BadHello::ServerName));
    }
}

#[test]
fn duplicates_and_lengths_that_do_not_add_up_are_refused() {
    assert_eq!(hello(&[sni(b"a.example"), sni(b"b.example")]), Parsed::Bad(BadHello::Duplicate));
    let unknown = extension(0xabcd, b"");
    assert_eq!(hello(&[unknown.clone(), unknown]), Parsed::Bad(BadHello::Duplicate));
    let many: Vec<_> = (0..100).map(|n| extension(0x5000 + n, b"")).collect();
    assert_eq!(hello(&many), Parsed::Bad(BadHello::Malformed));
    for alpn in [&[0, 0][..], &[0, 1, 0], &[0, 3, 2, b'h', b'2', 9], &[]] {
        assert_eq!(hello(&[extension(EXT_ALPN, alpn)]), Parsed::Bad(BadHello::Alpn), "{alpn:?}");
    }
    // Each length of the message's own fields, one too large.
    let good = message(&[sni(b"a.example")]);
    for at in [38, 40, 43, 46] {
        let mut bad = good.clone();
        bad[at] += 1;
        assert!(matches!(parse_hello(&record(&bad)), Parsed::Bad(_)), "at {at}");
    }
    let mut ssl2 = good;
    ssl2[4] = 2;
    assert_eq!(parse_hello(&record(&ssl2)), Parsed::Bad(BadHello::Malformed));
}

#[test]
fn a_hello_must_fit_its_destination() {
    let host = |text: &str| Host::parse(text).unwrap();
    let read = |extensions: &[Vec<u8>]| match hello(extensions) {
        Parsed::Hello(hello) => hello,
        other => panic!("{other:?}"),
    };
    let named = read(&[sni(b"A.Example")]);
    let unnamed = read(&[]);
    let hidden = read(&[sni(b"a.example"), extension(EXT_ENCRYPTED_HELLO, b"x")]);
    for relayed in [true, false] {
        assert_eq!(named.check(&host("a.example"), relayed), Ok(()));
        assert!(matches!(named.check(&host("b.example"), relayed), Err(Mismatch::Name { .. })));
        assert!(matches!(named.check(&host("93.184.216.34"), relayed), Err(Mismatch::Name { .. })));
        assert_eq!(unnamed.check(&host("93.184.216.34"), relayed), Ok(()));
    }
    assert_eq!(unnamed.check(&host("a.example"), false), Ok(()));
    assert_eq!(unnamed.check(&host("a.example"), true), Err(Mismatch::NoName));
    assert_eq!(hidden.check(&host("a.example"), false), Ok(()));
    assert_eq!(hidden.check(&host("a.example"), true), Err(Mismatch::Encrypted));
}

#[tokio::test]
async fn reading_gives_the_stream_back_whole() {
    let bytes = real("a.example");
    let (near, mut far) = duplex(64);
    let sent = bytes.clone();
    tokio::spawn(async move {
        for piece in sent.chunks(7) {
            far.write_all(piece).await.unwrap();
        }
        far.write_all(b"!").await.unwrap();
    });
    let (greeting, mut stream) = read_hello(near, Duration::from_secs(5)).await.unwrap();
    assert!(matches!(greeting, Greeting::Tls(hello) if hello.server_name.is_some()));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [bytes, b"!".to_vec()].concat());
}

#[tokio::test(start_paused = true)]
async fn silence_and_an_early_end_are_errors() {
    let (near, _far) = duplex(64);
    assert!(matches!(read_hello(near, Duration::from_secs(5)).await, Err(HelloError::TimedOut)));
    let (near, mut far) = duplex(64);
    far.write_all(&[22, 3]).await.unwrap();
    drop(far);
    assert!(matches!(read_hello(near, Duration::from_secs(5)).await, Err(HelloError::Closed)));
}

proptest! {
    #[test]
    fn no_bytes_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse_hello(&bytes);
        let _ = parse_hello(&record(&bytes));
        let _ = parse_message(&bytes);
    }

    #[test]
    fn an_early_verdict_is_never_taken_back(at in 0usize..80, byte: u8, cut in 0usize..100) {
        let mut bytes = record(&message(&[sni(b"a.example")]));
        let len = bytes.len();
        bytes[at % len] = byte;
        let early = parse_hello(&bytes[..cut.min(len)]);
        let whole = parse_hello(&bytes);
        prop_assert!(early == Parsed::NeedMore || early == whole, "{early:?} then {whole:?}");
    }

    #[test]
    fn how_it_is_cut_into_records_says_nothing(cuts in prop::collection::vec(1usize..40, 1..8)) {
        let message = message(&[sni(b"a.example"), extension(EXT_ALPN, b"\0\x03\x02h2")]);
        let mut rest = message.as_slice();
        let mut bytes = Vec::new();
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            if !head.is_empty() {
                bytes.extend(record(head));
            }
            rest = tail;
        }
        if !rest.is_empty() {
            bytes.extend(record(rest));
        }
        prop_assert_eq!(parse_hello(&bytes), parse_hello(&record(&message)));
    }

    /// What we read is what rustls reads, for every hello that both take.
    #[test]
    fn rustls_reads_the_same_name(at in 0usize..400, byte: u8) {
        let mut bytes = real("a.example");
        let len = bytes.len();
        bytes[at % len] = byte;
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut bytes.as_slice()).unwrap();
        if let (Parsed::Hello(ours), Ok(Some(accepted))) = (parse_hello(&bytes), acceptor.accept()) {
            let theirs = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            prop_assert_eq!(ours.server_name.map(|n| n.to_string()), theirs);
        }
    }
}
