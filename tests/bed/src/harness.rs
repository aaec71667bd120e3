//! The runner of the black-box tests: runs cases × modes in a world of their own, reports skips, and prints
//! cargo's closing line.
//!
//! A test target with `harness = false` calls [`main`] first thing, while the process has one thread, so the
//! whole target lives in one [`World`]. Cases take `&Stage` and fail by panic or error;
//! [`skip!`](crate::skip) leaves one out with its reason, which is printed and counted, never swallowed.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::unistd::geteuid;

use crate::stage::{Mode, Stage};
use crate::world::World;

/// Longest time of a case: one that hasn't ended by then hangs, even on the slowest machine.
const CASE_MAX: Duration = Duration::from_secs(900);
/// Cases that run concurrently, unless `--test-threads` says otherwise: the number of cores of the smallest
/// supported machine.
const THREADS: usize = 2;

/// Why a case was left out; made by [`skip!`](crate::skip).
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Leaves the case out, with the reason: `bed::skip!("no wget on this machine")`.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {
        return Err($crate::harness::Skip(format!($($why)*)).into())
    };
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    name: &'static str,
    run: fn(&Stage) -> Result<()>,
    alone: bool,
    only: Option<Mode>,
    limit: Duration,
}

impl Case {
    /// A case that runs in both modes, beside others.
    pub const fn new(name: &'static str, run: fn(&Stage) -> Result<()>) -> Self {
        Self { name, run, alone: false, only: None, limit: CASE_MAX }
    }

    /// The case measures, so no other may run meanwhile.
    pub const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The case runs in this mode only.
    pub const fn only(mut self, mode: Mode) -> Self {
        self.only = Some(mode);
        self
    }

    /// The case may take this long.
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// A list of cases from function names: `cases![exit_codes, nul_bytes]`.
#[macro_export]
macro_rules! cases {
    ($($name:ident $(. $how:ident ( $($arg:expr),* ))*),* $(,)?) => {
        &[$($crate::harness::Case::new(stringify!($name), $name)$(.$how($($arg),*))*),*]
    };
}

#[derive(Debug, Clone)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

#[derive(Debug)]
struct Options {
    filters: Vec<String>,
    leave_out: Vec<String>,
    exact: bool,
    list: bool,
    threads: usize,
}

impl Options {
    /// libtest's options, as far as cargo and nextest use them.
    fn from_args() -> Self {
        let mut options =
            Self { filters: Vec::new(), leave_out: Vec::new(), exact: false, list: false, threads: THREADS };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (arg.clone(), None),
            };
            match flag.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--skip" => options.leave_out.extend(value.or_else(|| args.next())),
                "--test-threads" => {
                    let n = value.or_else(|| args.next()).and_then(|n| n.parse().ok());
                    options.threads = n.unwrap_or(THREADS).max(1);
                }
                "--format" | "--color" => drop(value.or_else(|| args.next())),
                flag if flag.starts_with('-') => {}
                _ => options.filters.push(arg),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        let hit =
            |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.leave_out.iter().any(hit)
    }
}

/// Runs a suite. `binary` is the program under test.
pub fn main(suite: &str, binary: &Path, cases: &[Case]) -> ExitCode {
    let options = Options::from_args();
    let planned: Vec<(String, Case, Mode)> = cases
        .iter()
        .flat_map(|case| Mode::ALL.iter().map(move |mode| (*case, *mode)))
        .filter(|(case, mode)| case.only.is_none_or(|only| only == *mode))
        .map(|(case, mode)| (format!("{suite}::{}::{mode}", case.name), case, mode))
        .collect();
    let (wanted, others): (Vec<_>, Vec<_>) = planned.into_iter().partition(|(name, ..)| options.wants(name));
    if options.list {
        for (name, ..) in &wanted {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    say(&format!("\nrunning {} tests", wanted.len()));
    let begun = Instant::now();
    let dir = std::env::temp_dir().join(format!("cofferdam-bed-{suite}-{}", std::process::id()));
    let verdicts = match Ground::prepare(&dir, binary) {
        Ok(ground) => run_all(&Arc::new(ground), &wanted, options.threads),
        Err(why) => {
            let why = format!("{why:#}");
            wanted.iter().map(|(name, ..)| told(name, Verdict::Skipped(why.clone()))).collect()
        }
    };
    let failed = close(&verdicts, others.len(), begun.elapsed());
    let _ = std::fs::remove_dir_all(&dir);
    if failed { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

/// What all cases of a suite share.
#[derive(Debug)]
struct Ground {
    world: World,
    binary: PathBuf,
    dir: PathBuf,
}

impl Ground {
    fn prepare(dir: &Path, binary: &Path) -> Result<Self> {
        let world = World::enter(dir)?;
        let dir = world.dir().to_owned();
        // A copy that every user can run: the build directory may lie in a home that others can't enter.
        let ours = dir.join("cofferdam");
        std::fs::copy(binary, &ours)?;
        Ok(Self { world, binary: ours, dir })
    }
}

fn run_all(ground: &Arc<Ground>, wanted: &[(String, Case, Mode)], threads: usize) -> Vec<(String, Verdict)> {
    let verdicts = Mutex::new(Vec::new());
    for alone in [false, true] {
        let mine: Vec<_> = wanted.iter().filter(|(_, case, _)| case.alone == alone).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((name, case, mode)) = mine.get(next.fetch_add(1, Ordering::Relaxed)) {
                let verdict = told(name, run_one(ground, name, *case, *mode));
                verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..if alone { 1 } else { threads } {
                scope.spawn(work);
            }
        });
    }
    verdicts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a case on a thread of its own, so that one that hangs fails alone.
fn run_one(ground: &Arc<Ground>, name: &str, case: Case, mode: Mode) -> Verdict {
    if mode == Mode::Rooted && !geteuid().is_root() {
        return Verdict::Skipped("rooted mode needs root".into());
    }
    let done = Arc::new((Mutex::new(None), Condvar::new()));
    let (ground, theirs) = (Arc::clone(ground), Arc::clone(&done));
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| {
            let stage = Stage::new(&ground.world, &ground.dir, &ground.binary, mode)?;
            (case.run)(&stage)
        });
        let verdict = match std::panic::catch_unwind(run) {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(e)) => match e.downcast_ref::<Skip>() {
                Some(Skip(why)) => Verdict::Skipped(why.clone()),
                None => Verdict::Failed(format!("{e:#}")),
            },
            Err(panic) => Verdict::Failed(panic_text(panic.as_ref())),
        };
        let (slot, bell) = &*theirs;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        bell.notify_all();
    });
    if let Err(e) = spawned {
        return Verdict::Failed(format!("no thread: {e}"));
    }
    let (slot, bell) = &*done;
    let guard = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = bell.wait_timeout_while(guard, case.limit, |verdict| verdict.is_none());
    let (mut guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
    guard.take().unwrap_or_else(|| Verdict::Failed(format!("no end after {} s", case.limit.as_secs())))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "panicked".into())
}

fn told(name: &str, verdict: Verdict) -> (String, Verdict) {
    say(&match &verdict {
        Verdict::Passed => format!("test {name} ... ok"),
        Verdict::Failed(why) => format!("test {name} ... FAILED\n    {}", why.replace('\n', "\n    ")),
        Verdict::Skipped(why) => format!("test {name} ... SKIPPED: {why}"),
    });
    (name.to_owned(), verdict)
}

/// The closing lines, as cargo's own runner writes them. True when something failed.
fn close(verdicts: &[(String, Verdict)], filtered: usize, took: Duration) -> bool {
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for (name, verdict) in verdicts {
        match verdict {
            Verdict::Passed => passed += 1,
            Verdict::Failed(_) => failed.push(name),
            Verdict::Skipped(why) => skipped.push((name, why)),
        }
    }
    if !skipped.is_empty() {
        say(&format!("\n{} SKIPPED on this machine:", skipped.len()));
        for (name, why) in &skipped {
            say(&format!("    {name}: {why}"));
        }
    }
    if !failed.is_empty() {
        say("\nfailures:");
        for name in &failed {
            say(&format!("    {name}"));
        }
    }
    say(&format!(
        "\ntest result: {}. {passed} passed; {} failed; {} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len(),
        skipped.len(),
        took.as_secs_f64(),
    ));
    !failed.is_empty()
}

/// Prints a line, and ignores a closed standard output.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
