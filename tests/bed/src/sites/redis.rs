//! A server that speaks as much RESP as redis-cli needs: PING, ECHO, SET and GET, its keys gone with the
//! connection.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Where it listens.
pub(crate) const PORT: u16 = 6379;
/// Longest argument, bytes.
const ARGUMENT_MAX: usize = 64 * 1024;
/// Most arguments of one command.
const ARGUMENTS_MAX: usize = 64;

/// Answers commands until the client is gone.
pub(crate) async fn serve(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut keys: HashMap<String, String> = HashMap::new();
    loop {
        let command = command(&mut stream).await?;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let answer = match words.as_slice() {
            [ping] if ping.eq_ignore_ascii_case("ping") => "+PONG\r\n".to_owned(),
            [echo, text] if echo.eq_ignore_ascii_case("echo") => bulk(text),
            [set, key, value] if set.eq_ignore_ascii_case("set") => {
                keys.insert((*key).to_owned(), (*value).to_owned());
                "+OK\r\n".to_owned()
            }
            [get, key] if get.eq_ignore_ascii_case("get") => {
                keys.get(*key).map_or_else(|| "$-1\r\n".to_owned(), |value| bulk(value))
            }
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// One command: an array of bulk strings.
async fn command(stream: &mut BufReader<TcpStream>) -> Result<Vec<String>> {
    let count = number(stream, '*', ARGUMENTS_MAX).await?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(stream, '$', ARGUMENT_MAX).await?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await?;
        word.truncate(length);
        words.push(String::from_utf8(word)?);
    }
    Ok(words)
}

async fn number(stream: &mut BufReader<TcpStream>, kind: char, max: usize) -> Result<usize> {
    let mut line = String::new();
    stream.take(32).read_line(&mut line).await?;
    let number = line.trim_end().strip_prefix(kind).and_then(|text| text.parse().ok());
    number.filter(|number| *number <= max).with_context(|| format!("no RESP: {line:?}"))
}
