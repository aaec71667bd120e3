//! Watches one file and reports, soon after it changed, that it may have changed.
//!
//! The *directory* is watched, since editors replace files and Kubernetes swaps a symbolic link beside them.
//! A burst of events is reported once. Where no watch can be had (or a filesystem sends no events), the
//! periodic poll is enough: the callee reads the file and compares its hash.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Quiet time after an event before it is reported: editors write in several steps.
pub const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest time for which a steady stream of events can delay the report.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// Interval of reports without any event.
pub const POLL: Duration = Duration::from_secs(5);

/// Why the file should be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// To be sure: the watch began, the poll interval passed, or something else in the directory changed,
    /// which may be a symbolic link on the file's path.
    Routine,
    /// The file itself was touched, or an operator asked for a reload.
    Meant,
}

/// Watches until `tell` returns `false`. `tell` is called once when the watch has begun (so that no change is
/// missed between an earlier read and the watch), once after every burst of events, and at each poll.
pub async fn watch(path: PathBuf, tell: impl FnMut(Look) -> bool) {
    watch_and_poll(path, POLL, tell).await;
}

async fn watch_and_poll(path: PathBuf, every: Duration, mut tell: impl FnMut(Look) -> bool) {
    // A capacity of one is enough: an event that finds the channel full is reported together with the one in
    // it.
    let (sender, mut events) = mpsc::channel::<()>(1);
    let touched = Arc::new(AtomicBool::new(false));
    let _watcher = watcher(&path, sender, Arc::clone(&touched));
    if !tell(Look::Routine) {
        return;
    }
    loop {
        let poll = Instant::now() + every;
        if let Ok(Some(())) = timeout_at(poll, events.recv()).await {
            settle(&mut events).await;
        } else {
            // No event (or no watcher to send one): wait for what is left of the interval.
            sleep_until(poll).await;
        }
        let look = if touched.swap(false, Ordering::Relaxed) { Look::Meant } else { Look::Routine };
        if !tell(look) {
            return;
        }
    }
}

/// Waits until no event has come for [`DEBOUNCE`], but at most [`PATIENCE`].
async fn settle(events: &mut mpsc::Receiver<()>) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let quiet = (Instant::now() + DEBOUNCE).min(patience);
        match timeout_at(quiet, events.recv()).await {
            Ok(Some(())) if Instant::now() < patience => {}
            _ => return,
        }
    }
}

/// Makes a watcher of the file's directory, which sets `touched` when an event is about the file itself.
/// `None` where the system allows no watch; the reason is logged.
fn watcher(path: &Path, sender: mpsc::Sender<()>, touched: Arc<AtomicBool>) -> Option<RecommendedWatcher> {
    let name = path.file_name().map(OsStr::to_owned);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading of the file makes access events; reporting those would never end.
        let Some(event) = event.ok().filter(|event| !event.kind.is_access()) else { return };
        if event.paths.iter().any(|path| path.file_name() == name.as_deref()) {
            touched.store(true, Ordering::Relaxed);
        }
        let _ = sender.try_send(());
    });
    let result = made.and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match result {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "can't watch the policy's directory; it is polled");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Far longer than any awaited report takes.
    const DEADLINE: Duration = Duration::from_secs(60);
    /// A poll interval so long that every report comes from the watch.
    const NEVER: Duration = Duration::from_secs(3600);

    fn counting(path: PathBuf, every: Duration) -> (Arc<AtomicU32>, tokio::task::JoinHandle<()>) {
        let count = Arc::new(AtomicU32::new(0));
        let own = count.clone();
        let task = tokio::spawn(watch_and_poll(path, every, move |_| {
            own.fetch_add(1, Ordering::SeqCst);
            true
        }));
        (count, task)
    }

    async fn until(count: &AtomicU32, wanted: u32) {
        let deadline = Instant::now() + DEADLINE;
        while count.load(Ordering::SeqCst) < wanted {
            assert!(Instant::now() < deadline, "told {} times", count.load(Ordering::SeqCst));
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_write_a_rename_and_a_swapped_link_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, "1").unwrap();
        let (count, task) = counting(path.clone(), NEVER);
        // The watch has begun when a first event comes through.
        let deadline = Instant::now() + DEADLINE;
        while count.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline);
            std::fs::write(&path, "2").unwrap();
            tokio::task::yield_now().await;
        }
        let seen = count.load(Ordering::SeqCst);
        let other = dir.path().join("other");
        std::fs::write(&other, "3").unwrap();
        std::fs::rename(&other, &path).unwrap();
        until(&count, seen + 1).await;
        let seen = count.load(Ordering::SeqCst);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        until(&count, seen + 1).await;
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_changes_beside_it_is_no_touch_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, "1").unwrap();
        let looks = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&looks);
        let task = tokio::spawn(watch_and_poll(path.clone(), NEVER, move |look| {
            own.lock().unwrap().push(look);
            true
        }));
        let wait = async |count: usize| {
            let deadline = Instant::now() + DEADLINE;
            while looks.lock().unwrap().len() < count {
                assert!(Instant::now() < deadline, "{looks:?}");
                tokio::time::sleep(DEBOUNCE).await;
            }
        };
        wait(1).await;
        std::fs::write(dir.path().join("beside"), "1").unwrap();
        wait(2).await;
        std::fs::write(&path, "2").unwrap();
        wait(3).await;
        assert_eq!(*looks.lock().unwrap(), [Look::Routine, Look::Routine, Look::Meant]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watch_it_is_polled() {
        let (count, task) = counting(PathBuf::from("/nonexistent/directory/policy.yaml"), POLL);
        // Half-way between two polls: the clock's resolution is a millisecond, and each poll may be that
        // late.
        tokio::time::sleep(POLL * 3 + POLL / 2).await;
        assert_eq!(count.load(Ordering::SeqCst), 1 + 3, "once when it began, then at each poll");
        task.abort();
    }
}
