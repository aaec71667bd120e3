//! Events that may not be on record yet (deaths of supervisors, moves between cages), recorded once: a
//! supervisor that died while it wrote them may have written them or not, so the next one looks first.
//!
//! Each record gets its id before it is written, and the heart keeps the ids until it hears that all records
//! are on disk. Must never omit an event that isn't on record: in doubt it is written, a second time at
//! worst.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use agent::protocol::News;
use serde::{Deserialize, Serialize};
use telemetry::audit::{Event, RecordId, Sink, on_record};

use super::handover::{Handover, HeartLine};
use super::records;
use super::stores::{Refused, Stores};
use super::{RECORDED_WITHIN, another_cage};
use crate::plan::{Plan, slot};
use crate::sealed;

/// A record that may be on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Named {
    id: RecordId,
    event: Event,
}

/// Records one event, under an id that the heart is given first.
pub async fn tell(heart: &HeartLine, sink: &Sink, event: Event) {
    let named = [Named { id: RecordId::new(), event }];
    // If the heart can't keep the id, the event is recorded twice at worst.
    let _ = keep(heart, &named).await;
    write(sink, named, &[]);
}

/// Records the news that the heart has handed over, except what is on record already. Tells the heart once
/// everything is on disk.
///
/// # Errors
/// The heart is gone, or the list for it can't be made.
pub async fn tell_all(
    plan: &Plan,
    stores: &Arc<Stores>,
    heart: &HeartLine,
    handover: &mut Handover,
) -> Result<(), Refused> {
    if handover.news == News::default() {
        return Ok(());
    }
    let before = handover.take(slot::NEWS).and_then(|fd| sealed::read_json::<Vec<Named>>(fd).ok());
    let news = name(events(plan, stores, handover), &before.unwrap_or_default());
    keep(heart, &news.named).await?;
    write(&stores.audit.sink(), news.named, &there(news.told_before).await);
    let (stores, heart) = (Arc::clone(stores), heart.clone());
    tokio::spawn(async move {
        if stores.audit.flush(RECORDED_WITHIN).await {
            let _ = heart.on_record().await;
        }
    });
    Ok(())
}

fn events(plan: &Plan, stores: &Stores, handover: &Handover) -> Vec<Event> {
    let news = &handover.news;
    let moved = news.moved.into_iter().flat_map(|moved| {
        let wanted = moved.wanted_by.map(another_cage::wanted);
        [Some(records::started(plan)), wanted, Some(records::moved(&stores.policy))]
    });
    moved.flatten().chain(records::deaths(&news.deaths, handover.restarts)).collect()
}

/// All events to be recorded, and the record ids of those that an earlier supervisor announced and may have
/// written.
#[derive(Debug, PartialEq)]
struct AllNews {
    named: Vec<Named>,
    told_before: Vec<RecordId>,
}

/// Gives each event an id; an event that was announced before keeps its own. Equal events are the same event:
/// deaths have numbers, policies have generations, and a move is recorded before the next begins.
fn name(events: Vec<Event>, before: &[Named]) -> AllNews {
    let id = |event: &Event| before.iter().find(|named| named.event == *event).map(|named| named.id);
    let told_before = events.iter().filter_map(id).collect();
    let named = events
        .into_iter()
        .map(|event| Named { id: id(&event).unwrap_or_else(RecordId::new), event })
        .collect();
    AllNews { named, told_before }
}

/// Returns which of these ids are on record. The working directory is the state directory.
async fn there(names: Vec<RecordId>) -> Vec<RecordId> {
    if names.is_empty() {
        return names;
    }
    let looked = tokio::task::spawn_blocking(move || on_record(Path::new("."), &names)).await;
    looked.ok().and_then(Result::ok).unwrap_or_default()
}

async fn keep(heart: &HeartLine, named: &[Named]) -> Result<(), Refused> {
    let fd = sealed::seal_json("cofferdam-news", &named)?;
    Ok(heart.keep(slot::NEWS, fd.as_fd()).await?)
}

fn write(sink: &Sink, named: impl IntoIterator<Item = Named>, there: &[RecordId]) {
    for Named { id, event } in named.into_iter().filter(|named| !there.contains(&named.id)) {
        records::told(sink.note_as(id, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::protocol::{Death, ExitStatus};
    use redactor::{Redactor, SharedRedactor};
    use telemetry::audit::{AuditLog, Line, Lines, Options, open_all};

    /// Several supervisors in a row, each killed at a different moment: before anything was written, when
    /// part was, when everything was.
    #[tokio::test]
    async fn whoever_dies_over_it_each_is_on_record_once() {
        let state = tempfile::tempdir().unwrap();
        let redactor = SharedRedactor::new(Redactor::new::<&str>([]).unwrap());
        let death = Death::Ended(ExitStatus::Signal(9));
        let mut before = Vec::new();
        for (deaths, written) in [(1_u32, 0), (2, 1), (3, 3), (4, 4)] {
            let log = AuditLog::open(state.path(), redactor.clone(), Options::default()).unwrap();
            let mut events: Vec<Event> = vec![another_cage::wanted(7)];
            events.extend(records::deaths(&vec![death; deaths as usize], deaths));
            let news = name(events, &before);
            let there = on_record(state.path(), &news.told_before).unwrap();
            before = news.named.clone();
            write(&log.sink(), news.named.into_iter().take(written), &there);
            let writer = tokio::spawn({
                let log = log.clone();
                async move { log.write().await }
            });
            assert!(log.flush(RECORDED_WITHIN).await);
            writer.abort();
            let _ = writer.await;
        }
        let log = AuditLog::open(state.path(), redactor, Options::default()).unwrap();
        let there = on_record(state.path(), &before.iter().map(|named| named.id).collect::<Vec<_>>());
        assert_eq!(there.unwrap().len(), 4, "of each that was written, one");
        drop(log);
        let mut records = 0;
        for (_, file) in open_all(state.path()).unwrap() {
            let mut lines = Lines::of(file);
            while let Some(Line::Whole(_)) = lines.next().unwrap() {
                records += 1;
            }
        }
        assert_eq!(records, 4);
    }
}
