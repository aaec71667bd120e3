//! The audit log where a crash or a hand has damaged it: what is cut off is told first, no finished file is
//! lost, and pruning goes on.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop")]

mod bed;

use std::fs;
use std::path::{Path, PathBuf};

use bed::{files, in_a_process_of_its_own, lines, one_file_each_ten, open, put, redactor, written};
use cofferdam_telemetry::audit::{
    AuditLog, Event, Finding, HEAD_NAME, LOG_NAME, Note, Options, Record, Rotation, Trouble, verify,
};

/// A disk that refuses in the middle of a repair leaves what a crash would there.
#[test]
fn what_is_cut_off_is_noted_first() {
    in_a_process_of_its_own(
        "on_a_disk_that_refuses_the_note",
        &["sh", "-c", r#"trap "" XFSZ; exec "$@""#, "sh"],
    );
}

#[tokio::test]
#[ignore = "run by the test above, under its limit"]
async fn on_a_disk_that_refuses_the_note() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    for torn in [20, 5000] {
        for room in [0, 10, 100] {
            let state = tempfile::tempdir().unwrap();
            written(state.path(), 3, Options::default()).await;
            let path = state.path().join(LOG_NAME);
            let mut bytes = fs::read(&path).unwrap();
            let whole = bytes.len();
            bytes.resize(whole + torn, b'x');
            fs::write(&path, &bytes).unwrap();
            setrlimit(Resource::RLIMIT_FSIZE, (whole + room) as u64, hard).unwrap();
            let opened = AuditLog::open(state.path(), redactor(), Options::default());
            setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
            assert!(opened.is_err(), "{torn} {room}");
            // Whatever was done by then: the next start tells of it.
            written(state.path(), 1, Options::default()).await;
            let report = verify(state.path()).unwrap();
            assert_eq!((report.findings.len(), report.records), (0, 5), "{torn} {room}");
            assert!(matches!(report.notes[..], [(4, Note::Truncated { .. })]), "{torn} {room} {report:?}");
        }
    }
}

/// A crash behind the note and before the cut: what is left of the torn line is noted once more.
#[tokio::test]
async fn a_torn_line_longer_than_its_note_goes_too() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 3, Options::default()).await;
    let path = state.path().join(LOG_NAME);
    let mut bytes = fs::read(&path).unwrap();
    bytes.resize(bytes.len() + 5000, b'x');
    fs::write(&path, &bytes).unwrap();
    // In a file that is long enough for the next to be begun: what is torn stays in none.
    written(state.path(), 2, one_file_each_ten(100)).await;
    written(state.path(), 20, one_file_each_ten(100)).await;
    let report = verify(state.path()).unwrap();
    assert_eq!((report.findings.len(), report.records, report.unfinished), (0, 26, 0), "{report:?}");
    assert!(matches!(report.notes[..], [(4, Note::Truncated { bytes: 5000, .. })]));
}

/// A log of several finished files.
async fn of_many_files(directory: &Path) {
    for _ in 0..6 {
        written(directory, 10, one_file_each_ten(100)).await;
    }
}

/// Finished files and what is in them.
fn finished(directory: &Path) -> Vec<(PathBuf, String)> {
    let old = files(directory).into_iter().filter(|path| !path.ends_with(LOG_NAME));
    old.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[tokio::test]
async fn no_finished_file_is_replaced_where_nobody_knows_how_far_the_log_went() {
    type Damage = fn(&Path);
    let last_line: Damage = |path| {
        let mut lines = lines(path);
        *lines.last_mut().unwrap() = "{}".into();
        put(path, &lines);
    };
    let every_line: Damage = |path| put(path, &vec!["{}".to_owned(); lines(path).len()]);
    for damage in [last_line, every_line] {
        let state = tempfile::tempdir().unwrap();
        of_many_files(state.path()).await;
        fs::remove_file(state.path().join(HEAD_NAME)).unwrap();
        fs::remove_file(state.path().join(LOG_NAME)).unwrap();
        damage(files(state.path()).last().unwrap());
        let before = finished(state.path());
        assert!(before.len() > 3);
        let known = verify(state.path()).unwrap();
        of_many_files(state.path()).await;
        let after = finished(state.path());
        assert!(after.len() > before.len());
        assert_eq!(after[..before.len()], before);
        // What was found before is found still, and nothing else: the numbers go on.
        let report = verify(state.path()).unwrap();
        let found: Vec<_> = known.findings.into_iter().filter(|f| f.trouble != Trouble::NoHead).collect();
        assert_eq!(report.findings, found);
        assert!(matches!(&report.notes[..], [(_, Note::Damaged { .. })]), "{:?}", report.notes);
    }
}

#[tokio::test]
async fn a_file_whose_first_line_is_damaged_is_finished_under_a_name_of_its_own() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 10, Options::default()).await;
    let path = state.path().join(LOG_NAME);
    let mut whole = lines(&path);
    whole[0] = "{}".into();
    put(&path, &whole);
    for _ in 0..4 {
        written(
            state.path(),
            1,
            Options { rotation: Rotation { bytes: 1, keep: 100 }, ..Options::default() },
        )
        .await;
    }
    let all: Vec<String> = files(state.path()).iter().flat_map(|path| lines(path)).collect();
    assert_eq!(all.len(), 14);
    assert_eq!(all[..10], whole);
    assert!(state.path().join("audit-000000000001.jsonl").exists(), "{:?}", files(state.path()));
}

/// What somebody else put under the next name stays, too.
#[tokio::test]
async fn a_name_that_is_taken_is_not_taken_again() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 10, Options::default()).await;
    let planted = state.path().join("audit-000000000001.jsonl");
    fs::write(&planted, "kept\n").unwrap();
    written(state.path(), 10, Options { rotation: Rotation { bytes: 1, keep: 100 }, ..Options::default() })
        .await;
    assert_eq!(fs::read_to_string(planted).unwrap(), "kept\n");
    let records: usize = files(state.path()).iter().map(|path| lines(path).len()).sum();
    assert_eq!(records, 21);
}

fn damage_first_line(path: &Path) {
    let mut damaged = lines(path);
    damaged[0] = damaged[0].replace("host", "ghost");
    put(path, &damaged);
}

#[tokio::test]
async fn a_damaged_first_line_ends_no_pruning_and_stays_told() {
    let state = tempfile::tempdir().unwrap();
    of_many_files(state.path()).await;
    let old = finished(state.path());
    assert!(old.len() > 4, "{old:?}");
    let damaged = old[1].0.clone();
    damage_first_line(&damaged);
    let of_the_damaged = |found: &[Finding]| -> Vec<Trouble> {
        found.iter().filter(|f| f.file == damaged).map(|f| f.trouble.clone()).collect()
    };
    assert_eq!(of_the_damaged(&verify(state.path()).unwrap().findings), [Trouble::Changed]);
    // The one before it goes: the log begins with the damaged one then.
    let keep = old.len();
    let mut report = verify(state.path()).unwrap();
    while old[0].0.exists() {
        written(state.path(), 1, one_file_each_ten(keep)).await;
        report = verify(state.path()).unwrap();
        assert!(report.last_seq < 200, "nothing is pruned any more");
    }
    let unread: Vec<_> =
        report.notes.iter().filter(|(_, note)| matches!(note, Note::Pruned { unread: true, .. })).collect();
    assert_eq!(unread.len(), 1, "{:?}", report.notes);
    assert_eq!(of_the_damaged(&report.findings), [Trouble::Changed]);
    let told = |found: &[Finding]| {
        found.iter().filter(|f| matches!(f.trouble, Trouble::PrunedUnread { .. })).count()
    };
    assert_eq!((report.findings.len(), told(&report.findings)), (2, 1), "{:?}", report.findings);
    // And when it is gone itself, its trouble is told as long as the note is there.
    for _ in 0..6 {
        written(state.path(), 10, one_file_each_ten(3)).await;
    }
    let report = verify(state.path()).unwrap();
    assert!(!damaged.exists() && report.files.len() == 4, "{:?}", report.files);
    let note_is_there =
        report.notes.iter().any(|(_, note)| matches!(note, Note::Pruned { unread: true, .. }));
    assert_eq!(
        (told(&report.findings), report.findings.len()),
        (usize::from(note_is_there), usize::from(note_is_there))
    );
    assert_eq!(report.records, report.last_seq - report.first_seq + 1);
}

/// A beginning that was taken away isn't excused by another pruning's note.
#[tokio::test]
async fn a_stolen_beginning_before_a_damaged_line_shows() {
    let state = tempfile::tempdir().unwrap();
    of_many_files(state.path()).await;
    let old = finished(state.path());
    damage_first_line(&old[1].0);
    fs::remove_file(&old[0].0).unwrap();
    let found: Vec<_> = verify(state.path()).unwrap().findings.into_iter().map(|f| f.trouble).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&Trouble::Changed) && matches!(found[..], [.., Trouble::Missing { from: 1, .. }]));
}

/// Who watches hears of repairs, too.
#[tokio::test]
async fn a_repair_under_a_running_writer_is_in_the_live_feed() {
    let state = tempfile::tempdir().unwrap();
    let log = open(state.path(), Options::default());
    let mut feed = log.feed().subscribe();
    let writer = bed::writing(&log);
    log.sink().record(bed::event(0)).unwrap();
    assert!(log.flush(bed::PATIENCE).await);
    fs::remove_file(state.path().join(LOG_NAME)).unwrap();
    log.sink().record(bed::event(1)).unwrap();
    assert!(log.flush(bed::PATIENCE).await);
    writer.abort();
    let mut heard: Vec<std::sync::Arc<Record>> = Vec::new();
    while let Ok(record) = feed.try_recv() {
        heard.push(record);
    }
    let seqs: Vec<u64> = heard.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert!(matches!(heard[1].typed(), Ok(Event::Log(Note::Damaged { .. }))));
}

/// Root reads a log that a gateway wrote, which may be in strange hands: what it left there shows nothing of
/// the host, and keeps nobody waiting.
#[tokio::test]
async fn a_log_is_read_through_no_link() {
    let state = tempfile::tempdir().unwrap();
    of_many_files(state.path()).await;
    let old = finished(state.path()).remove(0).0;
    for path in [state.path().join(LOG_NAME), state.path().join(HEAD_NAME), old] {
        let whole = state.path().join("whole");
        fs::rename(&path, &whole).unwrap();
        std::os::unix::fs::symlink(&whole, &path).unwrap();
        assert!(verify(state.path()).is_err(), "{path:?}");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(verify(state.path()).is_err(), "{path:?}");
        fs::rename(&whole, &path).unwrap();
    }
    assert_eq!(verify(state.path()).unwrap().findings, []);
}
