//! The streams of the control API: records as they are written, and the agents' logs. Reads only.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use operator::types::{Event, LogQuery};
use telemetry::audit;
use tokio::sync::broadcast::error::RecvError;

use crate::logs::Logs;
use crate::state::files;

/// How often a followed log is checked for more.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of text after which a piece is sent. The last line may exceed this.
const PIECE: usize = 64 << 10;

/// Streams records from now on, each once it is durable. A reader that is too slow sees a gap in `seq`.
pub fn events(feed: &telemetry::events::Feed) -> BoxStream<'static, Event> {
    stream::unfold(feed.subscribe(), |mut feed| async {
        loop {
            match feed.recv().await {
                Ok(record) => return Some((event(&record), feed)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    })
    .boxed()
}

/// Streams the logs' text as it was written, in pieces. The files are read on blocking threads.
pub fn logs(query: LogQuery) -> BoxStream<'static, Bytes> {
    stream::unfold(Some(None), move |state: Option<Option<Reader>>| {
        let query = query.clone();
        async move {
            let mut reader = state?;
            loop {
                let wanted = query.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut reader =
                        reader.map_or_else(|| Reader::open(Path::new(files::LOGS), &wanted), Ok)?;
                    Ok::<_, std::io::Error>((reader.piece()?, reader))
                });
                // An error ends the stream. Without a directory nothing has been written yet.
                let (piece, back) = read.await.ok()?.ok()?;
                let goes_on = query.follow || !piece.is_last;
                if !piece.text.is_empty() {
                    return Some((piece.text.into(), goes_on.then_some(Some(back))));
                }
                if !goes_on {
                    return None;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                reader = Some(back);
            }
        }
    })
    .boxed()
}

/// Logs on their way to a client.
struct Reader(Logs);

struct Piece {
    text: String,
    /// Whether the end of the logs was reached.
    is_last: bool,
}

impl Reader {
    fn open(dir: &Path, query: &LogQuery) -> std::io::Result<Self> {
        let agent = query.agent.clone();
        let logs = match query.tail {
            Some(lines) => Logs::open_last(dir, agent, lines.into()),
            None => Logs::open(dir, agent),
        };
        logs.map(Self)
    }

    fn piece(&mut self) -> std::io::Result<Piece> {
        let mut text = String::new();
        while text.len() < PIECE {
            match self.0.next_line()? {
                None => return Ok(Piece { text, is_last: true }),
                Some(line) => text.push_str(&line.text),
            }
        }
        Ok(Piece { text, is_last: false })
    }
}

fn event(record: &audit::Record) -> Event {
    let kind = record.event.get("kind").and_then(serde_json::Value::as_str).unwrap_or("unknown");
    Event { seq: record.seq, at: record.t.to_string(), kind: kind.to_owned(), data: record.event.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_come_in_pieces_and_a_tail_is_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let text = "x".repeat(1000);
        let line = |second: i64| {
            let t = jiff::Timestamp::from_second(second).unwrap();
            format!(
                "{{\"t\":\"{t}\",\"agent\":\"a\",\"stream\":\"stdout\",\"text\":\"{second:03}{text}\"}}\n"
            )
        };
        std::fs::write(dir.path().join("a.log.1"), (0..100).map(line).collect::<String>()).unwrap();
        std::fs::write(dir.path().join("a.log"), (100..200).map(line).collect::<String>()).unwrap();
        let pieces = |tail| {
            let query = LogQuery { agent: None, follow: false, tail };
            let mut reader = Reader::open(dir.path(), &query).unwrap();
            let mut pieces = vec![reader.piece().unwrap()];
            while pieces.last().is_some_and(|piece| !piece.is_last) {
                pieces.push(reader.piece().unwrap());
            }
            assert!(pieces.iter().all(|piece| piece.text.len() <= PIECE + 1003));
            (pieces.len(), pieces.into_iter().map(|piece| piece.text).collect::<String>())
        };
        let (count, all) = pieces(None);
        assert!(count > 3 && all.len() == 200 * 1003 && all.starts_with("000x"), "{count}");
        assert_eq!(pieces(Some(2)), (1, format!("198{text}199{text}")));
        assert_eq!(pieces(Some(1000)).1, all);
        assert_eq!(pieces(Some(0)).1, "");
    }
}
