//! Servers on loopback that do what no provider should.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;

/// A whole answer of HTTP.
pub fn http(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

/// Starts a server on loopback that reads a request's head and answers with these bytes. Returns its port.
pub fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + Clone + 'static) -> Result<u16> {
    listen(move |mut stream| {
        let head = asked(&mut stream);
        let _ = stream.write_all(&answer(&head));
        // Keeps the connection from being reset before the answer is read.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        hold(&stream);
    })
}

/// Reads the head of a request.
pub fn asked(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Starts a server on loopback that handles each connection with `with`, on a thread of its own. Returns its
/// port.
pub fn listen(with: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let with = with.clone();
            std::thread::spawn(move || with(stream));
        }
    });
    Ok(port)
}

/// Waits until the other side is gone.
pub fn hold(stream: &TcpStream) {
    let mut stream = stream;
    let _ = stream.set_read_timeout(Some(Duration::from_secs(600)));
    while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
}
