//! What the tests of the audit log share: logs written, files looked at, limits that only a process of its
//! own can have.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test may stop, and each uses a part"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_telemetry::audit::{AuditLog, Egress, Event, Options, Rotation, Trouble, open_all, verify};
use redactor::{Redactor, Secret, SharedRedactor};
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn redactor() -> SharedRedactor {
    SharedRedactor::new(Redactor::new([("KEY", Secret::from("s3cret-value-0123"))]).unwrap())
}

pub fn open(directory: &Path, options: Options) -> AuditLog {
    AuditLog::open(directory, redactor(), options).unwrap()
}

pub fn event(number: usize) -> Event {
    let host = format!("host-{number}.example").into();
    Event::Egress(Box::new(Egress { layer: "l4".into(), host, port: 443, ..Egress::default() }))
}

/// The log's writer, in a task of its own.
pub fn writing(log: &AuditLog) -> JoinHandle<()> {
    let log = log.clone();
    tokio::spawn(async move { log.write().await })
}

/// Writes so many records and closes the log.
pub async fn written(directory: &Path, count: usize, options: Options) {
    let log = open(directory, options);
    let sink = log.sink();
    let writer = writing(&log);
    for number in 0..count {
        while sink.record(event(number)).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(log.flush(PATIENCE).await);
    writer.abort();
    let _ = writer.await;
}

pub fn files(directory: &Path) -> Vec<PathBuf> {
    open_all(directory).unwrap().into_iter().map(|(path, _)| path).collect()
}

pub fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

pub fn put(path: &Path, lines: &[String]) {
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

pub fn troubles(directory: &Path) -> Vec<(u64, Trouble)> {
    verify(directory).unwrap().findings.into_iter().map(|finding| (finding.line, finding.trouble)).collect()
}

/// A new file with each batch of ten records.
pub fn one_file_each_ten(keep: usize) -> Options {
    Options { rotation: Rotation { bytes: 2000, keep }, queue: 10, ..Options::default() }
}

/// Runs one of the ignored tests by a program that makes what it needs.
pub fn in_a_process_of_its_own(name: &str, by: &[&str]) {
    let mut command = std::process::Command::new(by[0]);
    command.args(&by[1..]).arg(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--ignored", "--nocapture"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}{errors}");
}
