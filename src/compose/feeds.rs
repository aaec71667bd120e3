//! What the control API streams: records as they are written, and the agents' logs. Reads only.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use operator::types::{Event, LogQuery};
use redactor::pump::LogLine;
use telemetry::audit;
use tokio::sync::broadcast::error::RecvError;

use crate::logs::Logs;

/// How often followed logs are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Records from now on, each once it is durable. A reader that is too slow sees the gap in `seq`.
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

/// The logs' text as it was written down; read off the runtime's threads.
pub fn logs(query: LogQuery) -> BoxStream<'static, Bytes> {
    let tail = query.tail.map(|lines| lines as usize);
    stream::unfold(Some((None, tail)), move |state| {
        let agent = query.agent.clone();
        async move {
            let (mut logs, tail) = state?;
            loop {
                let agent = agent.clone();
                let read = tokio::task::spawn_blocking(move || read_on(logs, agent)).await;
                // Without a directory nobody has written anything.
                let (lines, back) = read.ok()?.ok()?;
                logs = Some(back);
                let skip = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
                let text: String = lines.iter().skip(skip).map(|line| line.text.as_str()).collect();
                if !query.follow {
                    return Some((text.into(), None));
                }
                if !text.is_empty() {
                    return Some((text.into(), Some((logs, None))));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    })
    .boxed()
}

fn read_on(logs: Option<Logs>, agent: Option<String>) -> std::io::Result<(Vec<LogLine>, Logs)> {
    let mut logs = logs.map_or_else(|| Logs::open(Path::new("logs"), agent), Ok)?;
    Ok((logs.read_on()?, logs))
}

fn event(record: &audit::Record) -> Event {
    let kind = record.event.get("kind").and_then(serde_json::Value::as_str).unwrap_or("unknown");
    Event { seq: record.seq, at: record.t.to_string(), kind: kind.to_owned(), data: record.event.clone() }
}
