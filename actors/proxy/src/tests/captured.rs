use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bed::{Bed, PATIENCE, l4, read_to_close};
use crate::body::empty;

#[tokio::test]
async fn a_refusal_is_told_in_http_in_tls_in_ssh_and_by_a_reset() {
    let bed = Bed::new(&l4("a.test", 443)).await;
    let mut plain = TcpStream::connect(bed.captured).await.unwrap();
    plain.write_all(b"GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n").await.unwrap();
    let answer = read_to_close(&mut plain).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("\"host\":\"evil.test\""), "{answer}");

    // HTTP/2 in the clear: gRPC without TLS, for one.
    let clear = TcpStream::connect(bed.captured).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(clear)).await.unwrap();
    tokio::spawn(connection);
    let call = Request::post("http://evil.test/a.B/C").header("content-type", "application/grpc");
    let answer = sender.send_request(call.body(empty()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "7");

    let stream = TcpStream::connect(bed.captured).await.unwrap();
    let mut tls = bed.handshake(stream, "evil.test", &[b"http/1.1"]).await.unwrap();
    tls.write_all(b"GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n").await.unwrap();
    let answer = read_to_close(&mut tls).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("policy_denied"), "{answer}");

    let mut ssh = TcpStream::connect(bed.captured).await.unwrap();
    ssh.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let answer = read_to_close(&mut ssh).await;
    assert!(answer.starts_with("SSH-2.0-cofferdam\r\n") && answer.contains("policy_denied"), "{answer}");

    let mut other = TcpStream::connect(bed.captured).await.unwrap();
    other.write_all(b"EHLO x\r\n").await.unwrap();
    let read = tokio::time::timeout(PATIENCE, other.read(&mut [0; 1])).await.unwrap();
    assert!(read.is_err() || read.unwrap() == 0);
    assert_eq!(
        bed.journal.lines(),
        ["deny l4 GET /x", "deny l4 POST /a.B/C", "deny l4 - -", "deny l4 - -", "deny l4 - -"]
    );
}

#[tokio::test]
async fn an_address_of_ours_without_a_name_leads_nowhere() {
    // The policy allows an address of the sandbox's own range by number: even so, it isn't dialled as an
    // address.
    let bed = Bed::new(&l4("198.18.0.7", 443)).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = async || {
        let claim = crate::caller::Claim::new(bed.deps.identify.clone(), bed.captured, bed.captured);
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let asked = "198.18.0.7:443".parse().unwrap();
        tokio::spawn(crate::capture::serve(bed.deps.clone(), claim.into(), accepted, asked));
        near
    };
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(open().await))
            .await
            .unwrap();
    tokio::spawn(connection);
    let asked = Request::get("http://198.18.0.7:443/").body(empty()).unwrap();
    assert_eq!(sender.send_request(asked).await.unwrap().status(), 403);

    let mut near = open().await;
    near.write_all(b"GET / HTTP/1.1\r\nHost: 198.18.0.7\r\n\r\n").await.unwrap();
    let answer = read_to_close(&mut near).await;
    assert!(answer.contains("no name has the address 198.18.0.7"), "{answer}");
}
