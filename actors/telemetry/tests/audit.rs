//! The audit log over its life: crashes, full queues, failing disks, rotation, and every kind of tampering.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

mod bed;

use std::fs;
use std::path::Path;
use std::time::Duration;

use bed::{
    PATIENCE, event, files, in_a_process_of_its_own, lines, one_file_each_ten, open, put, redactor, troubles,
    writing, written,
};
use cofferdam_telemetry::audit::{
    AuditError, AuditLog, AuditUnavailable, Event, HEAD_NAME, Health, LOG_NAME, Note, Options, Rotation,
    Trouble, verify,
};

#[tokio::test]
async fn what_is_recorded_is_redacted_private_and_verifies() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    let log = open(state.path(), Options::default());
    let mut feed = log.feed().subscribe();
    let writer = writing(&log);
    let detail = Some("--header 'x: s3cret-value-0123'\n\u{1b}[2J".into());
    let id = log.sink().record(Event::Operator { action: "exec".into(), uid: Some(7), detail }).unwrap();
    assert!(log.flush(PATIENCE).await);
    let record = feed.recv().await.unwrap();
    assert_eq!((record.id, record.seq), (id, 1));
    assert_eq!(record.event["detail"], "--header 'x: [REDACTED:KEY]'\n\u{1b}[2J");
    let path = state.path().join(LOG_NAME);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("s3cret") && !text.contains('\u{1b}'));
    for name in [LOG_NAME, HEAD_NAME] {
        assert_eq!(fs::metadata(state.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let report = verify(&path).unwrap();
    assert!(report.intact() && report.records == 1 && report.last_hash == record.hash);
    writer.abort();
}

#[tokio::test]
async fn the_chain_goes_on_across_restarts_and_files() {
    let state = tempfile::tempdir().unwrap();
    let options = Options { rotation: Rotation { bytes: 4000, keep: 100 }, ..Options::default() };
    for _ in 0..5 {
        written(state.path(), 40, options.clone()).await;
    }
    let report = verify(state.path()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.records, report.first_seq, report.last_seq), (200, 1, 200));
    assert!(report.files.len() > 3, "{:?}", report.files);
    assert!(report.notes.is_empty());
}

#[tokio::test]
async fn pruned_files_are_on_record_and_a_deleted_one_shows() {
    let state = tempfile::tempdir().unwrap();
    let options = Options { rotation: Rotation { bytes: 2000, keep: 2 }, ..Options::default() };
    for _ in 0..12 {
        written(state.path(), 10, options.clone()).await;
    }
    let report = verify(state.path()).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.first_seq > 1 && report.files.len() == 3);
    assert!(report.notes.iter().any(|(_, note)| matches!(note, Note::Pruned { .. })));
    fs::remove_file(&files(state.path())[0]).unwrap();
    assert!(matches!(troubles(state.path())[..], [(1, Trouble::Missing { from: 1, .. })]));
}

/// What stands on disk when a crash comes between the notes of a pruning and the files' removal, however far
/// that got.
#[tokio::test]
async fn a_pruning_that_a_crash_cut_short_leaves_a_whole_log() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 40, one_file_each_ten(100)).await;
    let old = files(state.path());
    assert!(old.len() > 3, "{old:?}");
    let contents: Vec<_> = old.iter().map(|path| fs::read(path).unwrap()).collect();
    written(state.path(), 10, one_file_each_ten(1)).await;
    let pruned = verify(state.path()).unwrap();
    assert_eq!((pruned.findings.len(), pruned.files.len()), (0, 2));
    // Removed in order: each of these is a state that was on disk.
    let gone: Vec<_> = old.iter().zip(&contents).filter(|(path, _)| !path.exists()).collect();
    assert!(gone.len() > 2);
    for (path, content) in gone.into_iter().rev() {
        fs::write(path, content).unwrap();
        assert_eq!(verify(state.path()).unwrap().findings, [], "{path:?}");
    }
    // The next time it is made good, and said again.
    written(state.path(), 20, one_file_each_ten(1)).await;
    let report = verify(state.path()).unwrap();
    assert_eq!((report.findings.len(), report.files.len()), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_whole_for_who_reads_it_while_it_is_rotated_and_pruned() {
    let state = tempfile::tempdir().unwrap();
    let options = Options { rotation: Rotation { bytes: 20_000, keep: 2 }, ..Options::default() };
    let log = open(state.path(), options);
    let writer = writing(&log);
    let flood = tokio::spawn({
        let sink = log.sink();
        async move {
            for number in 0.. {
                if sink.record(event(number)).is_err() || number % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });
    let path = state.path().to_owned();
    let readings = tokio::task::spawn_blocking(move || {
        let mut seen = std::collections::BTreeSet::new();
        // Until it has been read at sixty different stages.
        while seen.len() < 60 {
            let report = verify(&path).unwrap();
            assert_eq!(report.findings, [], "{:?}", report.files);
            seen.insert((report.first_seq, report.last_seq));
        }
        seen
    });
    let seen = readings.await.unwrap();
    let beginnings: std::collections::BTreeSet<u64> = seen.into_iter().map(|(first, _)| first).collect();
    assert!(beginnings.len() > 3, "nothing was pruned meanwhile");
    flood.abort();
    writer.abort();
}

#[tokio::test]
async fn every_tampering_is_found_at_its_line() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 10, Options::default()).await;
    let path = state.path().join(LOG_NAME);
    let whole = lines(&path);
    let tamper = |change: &dyn Fn(&mut Vec<String>)| {
        let mut changed = whole.clone();
        change(&mut changed);
        put(&path, &changed);
        let found = troubles(state.path());
        put(&path, &whole);
        found
    };
    assert_eq!(troubles(state.path()), []);
    assert_eq!(tamper(&|l| l[3] = l[3].replace("host-3", "host-9")), [(4, Trouble::Changed)]);
    assert_eq!(tamper(&|l| l[3] = "{}".into()), [(4, Trouble::Malformed)]);
    assert_eq!(tamper(&|l| drop(l.remove(4))), [(5, Trouble::Missing { from: 5, to: 5 })]);
    assert_eq!(tamper(&|l| drop(l.remove(0))), [(1, Trouble::Missing { from: 1, to: 1 })]);
    assert_eq!(
        tamper(&|l| l.swap(2, 3)),
        [(3, Trouble::Missing { from: 3, to: 3 }), (4, Trouble::OutOfOrder { expected: 5, found: 3 })]
    );
    assert_eq!(tamper(&|l| l.insert(5, l[2].clone())), [(6, Trouble::OutOfOrder { expected: 6, found: 3 })]);
    assert_eq!(tamper(&|l| l.truncate(8)), [(1, Trouble::CutOff { written: 10, found: 8 })]);
    // A forger who computes the changed record's hash anew is betrayed by the next one.
    let forged = |line: &str, host: &str| {
        use sha2::{Digest, Sha256};
        let changed = line.replace(host, "host-x");
        let signed = &changed[..changed.len() - 75];
        format!("{signed},\"hash\":\"{}\"}}", hex::encode(Sha256::digest(signed)))
    };
    assert_eq!(tamper(&|l| l[3] = forged(&l[3], "host-3")), [(5, Trouble::Replaced)]);
    assert_eq!(tamper(&|l| l[9] = forged(&l[9], "host-9")), [(1, Trouble::NotTheHead)]);
    fs::remove_file(state.path().join(HEAD_NAME)).unwrap();
    assert_eq!(troubles(state.path()), [(0, Trouble::NoHead)]);
}

#[tokio::test]
async fn a_torn_line_is_repaired_on_record() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 3, Options::default()).await;
    let path = state.path().join(LOG_NAME);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"event\":{\"kind\":\"eg");
    fs::write(&path, bytes).unwrap();
    let before = verify(state.path()).unwrap();
    assert!(before.intact() && before.unfinished == 20);
    written(state.path(), 2, Options::default()).await;
    let report = verify(state.path()).unwrap();
    assert_eq!((report.findings.len(), report.records), (0, 6));
    assert!(matches!(report.notes[..], [(4, Note::Truncated { bytes: 20, .. })]));
}

#[tokio::test]
async fn a_tail_cut_while_nobody_watched_stays_visible() {
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 6, Options::default()).await;
    let path = state.path().join(LOG_NAME);
    put(&path, &lines(&path)[..4]);
    written(state.path(), 2, Options::default()).await;
    let report = verify(state.path()).unwrap();
    assert!(matches!(report.notes[..], [(7, Note::Damaged { expected_seq: 6, found_seq: 4 })]));
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].trouble, Trouble::Missing { from: 5, to: 6 });
}

#[tokio::test]
async fn a_full_queue_fails_closed_and_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let log = open(state.path(), Options { queue: 8, ..Options::default() });
    let sink = log.sink();
    // The writer is down, as while its actor restarts.
    let taken = (0..20).filter(|number| sink.record(event(*number)).is_ok()).count();
    assert_eq!(taken, 8);
    assert_eq!(sink.record(event(0)), Err(AuditUnavailable::Full));
    assert_eq!(sink.check(), Err(AuditUnavailable::Full));
    let writer = writing(&log);
    assert!(log.flush(PATIENCE).await);
    assert!(sink.record(event(9)).is_ok());
    assert!(log.flush(PATIENCE).await);
    assert_eq!(verify(state.path()).unwrap().records, 9);
    writer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_over_and_over_the_writer_loses_and_repeats_nothing() {
    let state = tempfile::tempdir().unwrap();
    let log = open(state.path(), Options::default());
    let sink = log.sink();
    let mut recorded = 0;
    for round in 0..60 {
        let writer = writing(&log);
        for number in 0..50 {
            recorded += u64::from(sink.record(event(number)).is_ok());
        }
        tokio::time::sleep(Duration::from_micros(round * 60)).await;
        writer.abort();
    }
    let writer = writing(&log);
    assert!(log.flush(PATIENCE).await);
    writer.abort();
    let report = verify(state.path()).unwrap();
    assert_eq!((report.findings.len(), report.records), (0, recorded));
}

/// Removes files under a running writer, and gives what the log then says. Every record that comes after is
/// in it.
async fn written_through_a_loss(
    options: Options,
    lose: impl Fn(&Path),
) -> cofferdam_telemetry::audit::Report {
    let state = tempfile::tempdir().unwrap();
    let log = open(state.path(), options);
    let sink = log.sink();
    let writer = writing(&log);
    let record = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            sink.record(event(number)).unwrap();
            assert!(log.flush(PATIENCE).await);
        }
    };
    record(0..3).await;
    lose(state.path());
    record(3..8).await;
    assert_eq!(*log.health().borrow(), Health::Good);
    let text: String = files(state.path()).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for number in 3..8 {
        assert!(text.contains(&format!("host-{number}.example")), "{number} is in no file\n{text}");
    }
    writer.abort();
    verify(state.path()).unwrap()
}

#[tokio::test]
async fn a_log_that_is_removed_or_renamed_under_its_writer_goes_on_with_the_gap_on_record() {
    let small = || Options { rotation: Rotation { bytes: 600, keep: 100 }, ..Options::default() };
    let renamed = |dir: &Path| fs::rename(dir.join(LOG_NAME), dir.join("audit.jsonl.1")).unwrap();
    for report in [
        written_through_a_loss(Options::default(), |dir| fs::remove_file(dir.join(LOG_NAME)).unwrap()).await,
        written_through_a_loss(Options::default(), renamed).await,
        // A log rotator that puts an empty file in its place.
        written_through_a_loss(Options::default(), |dir| {
            renamed(dir);
            fs::write(dir.join(LOG_NAME), "").unwrap();
        })
        .await,
        written_through_a_loss(Options::default(), |dir| {
            fs::remove_file(dir.join(LOG_NAME)).unwrap();
            fs::remove_file(dir.join(HEAD_NAME)).unwrap();
        })
        .await,
    ] {
        assert!(
            matches!(report.notes[..], [(4, Note::Damaged { expected_seq: 3, found_seq: 0 })]),
            "{report:?}"
        );
        assert_eq!(report.last_seq, 9);
        assert!(matches!(&report.findings[..], [one] if one.trouble == Trouble::Missing { from: 1, to: 3 }));
    }
    // Just before it would be rotated.
    let report = written_through_a_loss(small(), renamed).await;
    assert!(matches!(report.notes[..], [(_, Note::Damaged { expected_seq: 3, .. })]), "{report:?}");
}

#[tokio::test]
async fn a_head_file_that_is_removed_under_its_writer_is_written_anew() {
    let report =
        written_through_a_loss(Options::default(), |dir| fs::remove_file(dir.join(HEAD_NAME)).unwrap()).await;
    assert!(report.intact() && report.notes.is_empty() && report.last_seq == 8, "{report:?}");
}

#[tokio::test]
async fn one_log_has_one_writer() {
    let state = tempfile::tempdir().unwrap();
    let _log = open(state.path(), Options::default());
    let second = AuditLog::open(state.path(), redactor(), Options::default());
    assert!(matches!(second, Err(AuditError::InUse(_))));
}

#[tokio::test]
async fn a_link_in_the_logs_place_is_refused() {
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/hostname", state.path().join(LOG_NAME)).unwrap();
    assert!(AuditLog::open(state.path(), redactor(), Options::default()).is_err());
}

/// A limit on file sizes is the full disk that any user can have; it holds for a whole process, so a process
/// of its own runs the test below.
#[test]
fn a_disk_that_refuses_fails_closed_until_it_takes_records_again() {
    in_a_process_of_its_own(
        "on_a_small_disk",
        &["sh", "-c", r#"trap "" XFSZ; ulimit -S -f 16; exec "$@""#, "sh"],
    );
}

/// An ended sandbox's log takes no more disk than its records.
#[tokio::test]
async fn what_was_taken_ahead_goes_back_at_the_end() {
    use std::os::unix::fs::MetadataExt;
    const MUCH: u64 = 1 << 20;
    let state = tempfile::tempdir().unwrap();
    let taken = || fs::metadata(state.path().join(LOG_NAME)).unwrap().blocks() * 512;
    let kept = async |log: &AuditLog| {
        log.sink().record(event(0)).unwrap();
        assert!(log.flush(PATIENCE).await);
        taken()
    };
    let short = open(state.path(), Options { ahead_after: PATIENCE * 10, ..Options::default() });
    let writer = writing(&short);
    for _ in 0..3 {
        assert!(kept(&short).await < MUCH, "not for a short run");
    }
    writer.abort();
    let _ = writer.await;
    drop(short);
    let log = open(state.path(), Options { ahead_after: Duration::ZERO, ..Options::default() });
    let writer = writing(&log);
    let record = async || kept(&log).await;
    if record().await < MUCH {
        eprintln!("SKIPPED: this filesystem takes no disk ahead");
        return;
    }
    log.ends();
    for _ in 0..3 {
        assert!(record().await < MUCH, "it kept what it had taken");
    }
    assert!(verify(state.path()).unwrap().intact());
    writer.abort();
}

/// Also of a log that gets no more records: whoever fills the disk later leaves it that.
#[tokio::test]
async fn disk_is_taken_ahead_in_time_though_nothing_is_recorded() {
    use std::os::unix::fs::MetadataExt;
    const MUCH: u64 = 1 << 20;
    let state = tempfile::tempdir().unwrap();
    let probe = fs::File::create(state.path().join("probe")).unwrap();
    let flags = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    if nix::fcntl::fallocate(&probe, flags, 0, 4096).is_err() {
        eprintln!("SKIPPED: this filesystem takes no disk ahead");
        return;
    }
    let log = open(state.path(), Options { ahead_after: Duration::from_millis(20), ..Options::default() });
    let writer = writing(&log);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while fs::metadata(state.path().join(LOG_NAME)).unwrap().blocks() * 512 < MUCH {
        assert!(tokio::time::Instant::now() < deadline, "nothing is taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(verify(state.path()).unwrap().intact());
    writer.abort();
}

/// Whoever fills the disk, an agent of another sandbox say, leaves the log what it took before; also where a
/// new file is begun meanwhile.
#[test]
fn a_disk_that_others_fill_takes_records_all_the_same() {
    let works = std::process::Command::new("unshare").args(["-Urm", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no namespaces here to make a small disk in");
        return;
    }
    let script = r#"mount -t tmpfs -o size=40m none /mnt && exec "$@""#;
    in_a_process_of_its_own("on_a_disk_that_is_full", &["unshare", "-Urm", "sh", "-c", script, "sh"]);
}

#[tokio::test]
#[ignore = "run by the test above, on its disk"]
async fn on_a_disk_that_is_full() {
    let state = Path::new("/mnt");
    let rotation = Rotation { bytes: 2 << 20, keep: 100 };
    let options = Options { rotation, ahead_after: Duration::ZERO, ..Options::default() };
    written(state, 10, options.clone()).await;
    let log = open(state, options);
    let writer = writing(&log);
    let record = async |count: usize| {
        for number in 0..count {
            log.sink().record(event(number)).unwrap();
            if number % 1000 == 0 {
                assert!(log.flush(PATIENCE).await);
            }
        }
        assert!(log.flush(PATIENCE).await);
    };
    record(1).await;
    let mut filler = fs::File::create(state.join("filler")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut filler).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    record(12_000).await;
    assert_eq!(*log.health().borrow(), Health::Good);
    let report = verify(state).unwrap();
    assert_eq!((report.findings.len(), report.records), (0, 12_011));
    assert!(report.files.len() > 1, "no file was begun meanwhile");
    writer.abort();
}

/// Files are removed only after that is on record.
#[test]
fn a_disk_that_refuses_keeps_what_was_to_be_pruned() {
    in_a_process_of_its_own(
        "nothing_goes_before_its_note",
        &["sh", "-c", r#"trap "" XFSZ; exec "$@""#, "sh"],
    );
}

#[tokio::test]
#[ignore = "run by the test above, under its limit"]
async fn nothing_goes_before_its_note() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let state = tempfile::tempdir().unwrap();
    written(state.path(), 40, one_file_each_ten(100)).await;
    // The last file is begun, so that opening begins none.
    written(state.path(), 1, Options::default()).await;
    let full = || fs::metadata(state.path().join(LOG_NAME)).unwrap().len() >= 2000;
    if full() {
        written(state.path(), 1, one_file_each_ten(100)).await;
    }
    let old = files(state.path());
    let log = open(state.path(), one_file_each_ten(1));
    let writer = writing(&log);
    while !full() {
        log.sink().record(event(0)).unwrap();
        assert!(log.flush(PATIENCE).await);
    }
    assert_eq!(files(state.path()), old, "nothing was due before");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 0, hard).unwrap();
    let mut health = log.health();
    log.sink().record(event(0)).unwrap();
    health.wait_for(|health| *health != Health::Good).await.unwrap();
    assert!(old.len() > 3 && old.iter().all(|path| path.exists()), "{:?}", files(state.path()));
    assert_eq!(troubles(state.path()), []);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    assert!(log.flush(PATIENCE).await);
    log.sink().record(event(1)).unwrap();
    assert!(log.flush(PATIENCE).await);
    writer.abort();
    let _ = writer.await;
    drop(log);
    written(state.path(), 20, one_file_each_ten(1)).await;
    let report = verify(state.path()).unwrap();
    assert_eq!((report.findings.len(), report.files.len()), (0, 2));
}

#[tokio::test]
#[ignore = "run by the test above, under its limit"]
async fn on_a_small_disk() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let state = tempfile::tempdir().unwrap();
    let log = open(state.path(), Options::default());
    let sink = log.sink();
    let writer = writing(&log);
    let mut taken = 0;
    let refused = loop {
        match sink.record(event(taken)) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
        assert!(taken < 5000, "the disk takes everything");
    };
    assert!(matches!(refused, AuditUnavailable::Disk(_)), "{refused}");
    assert!(verify(state.path()).unwrap().intact());
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    assert!(log.flush(PATIENCE).await);
    assert_eq!(*log.health().borrow(), Health::Good);
    assert!(sink.record(event(0)).is_ok());
    assert!(log.flush(PATIENCE).await);
    let report = verify(state.path()).unwrap();
    assert_eq!((report.findings.len(), report.records), (0, taken as u64 + 1));
    writer.abort();
}
