//! Tasks that belong to no actor and that the process can't do without: when one panics, the process ends,
//! and whoever keeps the process starts it again.
//!
//! What is begun so lives above the actors, so that no restart of an actor would bring it back. Must never be
//! used for what a single connection, request or command does.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::AbortHandle;

/// Begins a task without which the process must not go on: if it panics, the process ends by SIGABRT, after
/// what the panic hook says. Returning ends nothing: it means that there is nothing left to do.
///
/// Must be called in a tokio runtime.
pub fn essential(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let guarded = async move {
        // Nothing that the task leaves half-done is seen by anyone.
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            std::process::abort();
        }
    };
    tokio::spawn(guarded).abort_handle()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::essential;

    /// Names the part that the test's own second process plays.
    const PART: &str = "COFFERDAM_TEST_ESSENTIAL";
    /// What that process exits with if it lives on.
    const LIVES: i32 = 3;

    /// Runs this test once more, as a process of its own.
    fn ends(part: &str) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "essential::tests::a_panic_ends_the_process_and_a_return_does_not"])
            .env(PART, part)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("started")
    }

    #[tokio::test]
    async fn a_panic_ends_the_process_and_a_return_does_not() {
        match std::env::var(PART).as_deref() {
            Ok(part) => {
                let panics = part == "panics";
                essential(async move { assert!(!panics, "as wanted") });
                tokio::time::sleep(Duration::from_millis(if panics { 60_000 } else { 100 })).await;
                std::process::exit(LIVES);
            }
            Err(_) => {
                assert_eq!(ends("panics").signal(), Some(6), "SIGABRT");
                assert_eq!(ends("returns").code(), Some(LIVES));
            }
        }
    }
}
