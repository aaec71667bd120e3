//! Every way in which a caller can be other than it seems, over real sockets and files with scripted
//! processes.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use policy::{Denial, Layer, Party};
use sha2::{Digest, Sha256};

use super::*;
use crate::identity::diag::diag_for_tests;
use crate::identity::{AcceptError, HoldersError, Maker};

/// Whose everything here is.
const OURS: Party = Party(3);

/// A process as a script tells it.
#[derive(Clone)]
struct Told {
    pid: i32,
    start_time: u64,
    exe: PathBuf,
    /// The file that really runs, if it isn't the one at the path.
    runs: Option<PathBuf>,
    ancestors: Vec<PathBuf>,
    deleted: bool,
    foreign_code: bool,
}

fn told(pid: i32, exe: &Path, ancestors: &[&Path]) -> Told {
    Told {
        pid,
        start_time: 100,
        exe: exe.to_owned(),
        runs: None,
        ancestors: ancestors.iter().map(|a| (*a).to_owned()).collect(),
        deleted: false,
        foreign_code: false,
    }
}

/// Answers look after look from a script, whose last entry stays.
struct Script {
    looks: Mutex<VecDeque<Result<Vec<Told>, HoldersError>>>,
    asked: AtomicU64,
    maker: Maker,
}

impl Processes for Script {
    fn holders(&self, socket_inode: u64) -> BoxFuture<'_, Result<Vec<Holder>, HoldersError>> {
        Box::pin(async move {
            self.asked.store(socket_inode, Ordering::SeqCst);
            let mut looks = self.looks.lock().unwrap();
            let told = if looks.len() > 1 { looks.pop_front().unwrap() } else { looks[0].clone() };
            told.map(|told| told.iter().map(holder).collect())
        })
    }

    fn holders_and_maker(&self, inode: u64) -> BoxFuture<'_, Result<(Vec<Holder>, Maker), HoldersError>> {
        Box::pin(async move { Ok((self.holders(inode).await?, self.maker)) })
    }
}

fn holder(told: &Told) -> Holder {
    let file = |path: &Path| ExecutableFile::present(path.to_str().unwrap(), File::open(path).unwrap());
    let mut exe = file(told.runs.as_ref().unwrap_or(&told.exe));
    exe.path = told.exe.to_str().unwrap().to_owned();
    exe.deleted = told.deleted;
    Holder {
        pid: told.pid,
        start_time: told.start_time,
        exe,
        foreign_code: told.foreign_code,
        ancestors: told.ancestors.iter().map(|a| file(a)).collect(),
    }
}

/// A real connection to ask about, some files to be executables, and an identifier over a script.
struct Bench {
    dir: tempfile::TempDir,
    client: TcpStream,
    server: TcpStream,
    pins: Pins,
}

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { dir: tempfile::tempdir().unwrap(), client, server, pins: Pins::new() }
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn ask(&self, identifier: &Identifier) -> Result<Caller, Unidentified> {
        identifier
            .judge(self.server.peer_addr().unwrap(), self.server.local_addr().unwrap(), Look::First)
            .await
    }

    fn identifier(&self, looks: Vec<Vec<Told>>) -> Identifier {
        let looks = Mutex::new(looks.into_iter().map(Ok).collect());
        let script = Arc::new(Script { looks, asked: AtomicU64::new(0), maker: Maker::Holds(OURS) });
        Identifier::new(script, diag_for_tests()).with_pins(self.pins.clone())
    }

    async fn judge(&self, looks: Vec<Vec<Told>>) -> Result<Caller, Unidentified> {
        self.ask(&self.identifier(looks)).await
    }
}

#[tokio::test]
async fn the_holder_of_the_very_socket_is_identified_by_content() {
    let b = Bench::new();
    let (curl, sh) = (b.file("curl", "curl's code"), b.file("sh", "sh's code"));
    let script = Arc::new(Script {
        looks: Mutex::new(VecDeque::from([Ok(vec![told(7, &curl, &[&sh])])])),
        asked: AtomicU64::new(0),
        maker: Maker::Holds(OURS),
    });
    let identifier = Identifier::new(script.clone(), diag_for_tests());
    let judged = b.ask(&identifier).await.unwrap();
    assert_eq!(script.asked.load(Ordering::SeqCst), nix::sys::stat::fstat(b.client.as_fd()).unwrap().st_ino);
    assert_eq!(&*judged.executable.path, curl.to_str().unwrap());
    assert_eq!(judged.executable.sha256, <[u8; 32]>::from(Sha256::digest("curl's code")));
    assert_eq!(&*judged.ancestors[0].path, sh.to_str().unwrap());
    assert!(!judged.foreign_code);
}

#[tokio::test]
async fn a_denial_is_of_the_identity_layer() {
    let b = Bench::new();
    let identifier = b.identifier(vec![vec![]]);
    let denial = Denial::from(b.ask(&identifier).await.unwrap_err());
    assert_eq!(denial.layer, Layer::Identity);
    assert!(denial.detail.contains("no process"), "{denial}");
}

#[tokio::test]
async fn no_holder_and_no_socket_are_denied() {
    let b = Bench::new();
    assert_eq!(b.judge(vec![vec![]]).await.unwrap_err(), Unidentified::NoHolder);
    let curl = b.file("curl", "x");
    let identifier = b.identifier(vec![vec![told(7, &curl, &[])]]);
    let nobody =
        identifier.judge("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap(), Look::First).await;
    assert_eq!(nobody.unwrap_err(), Unidentified::NoSocket);
}

#[tokio::test]
async fn whoever_cannot_be_asked_denies() {
    let b = Bench::new();
    for why in [
        HoldersError::Unavailable("restarting".into()),
        HoldersError::Unreadable("pid 9".into()),
        HoldersError::TooMany,
    ] {
        let looks = Mutex::new(VecDeque::from([Err(why.clone())]));
        let identifier = Identifier::new(
            Arc::new(Script { looks, asked: AtomicU64::new(0), maker: Maker::Holds(OURS) }),
            diag_for_tests(),
        );
        assert_eq!(b.ask(&identifier).await.unwrap_err(), Unidentified::Holders(why));
    }
}

#[tokio::test]
async fn holders_that_differ_are_denied() {
    let b = Bench::new();
    let (curl, evil, sh) = (b.file("curl", "c"), b.file("evil", "e"), b.file("sh", "s"));
    let differ =
        |looks| async { matches!(b.judge(vec![looks]).await, Err(Unidentified::DifferentHolders { .. })) };
    assert!(differ(vec![told(7, &curl, &[]), told(8, &evil, &[])]).await);
    assert!(differ(vec![told(7, &curl, &[&sh]), told(8, &curl, &[&evil])]).await);
    assert!(differ(vec![told(7, &curl, &[&sh]), told(8, &curl, &[&sh, &evil])]).await);
}

#[tokio::test]
async fn a_program_that_forked_is_still_one_program() {
    let b = Bench::new();
    let (python, sh) = (b.file("python", "p"), b.file("sh", "s"));
    let judged =
        b.judge(vec![vec![told(8, &python, &[&python, &sh]), told(7, &python, &[&sh])]]).await.unwrap();
    assert_eq!(&*judged.executable.path, python.to_str().unwrap());
}

#[tokio::test]
async fn too_many_holders_are_denied() {
    let b = Bench::new();
    let curl = b.file("curl", "c");
    let holders = (0..=i32::try_from(MAX_HOLDERS).unwrap()).map(|pid| told(pid, &curl, &[])).collect();
    assert_eq!(b.judge(vec![holders]).await.unwrap_err(), Unidentified::TooManyHolders);
}

#[tokio::test]
async fn files_without_a_trustworthy_path_are_denied() {
    let b = Bench::new();
    let curl = b.file("curl", "c");
    let deleted = Told { deleted: true, ..told(7, &curl, &[]) };
    assert!(matches!(b.judge(vec![vec![deleted]]).await, Err(Unidentified::Deleted { .. })));
    for path in ["/memfd:x (deleted)", "/memfd:x", "curl", "", "/tmp/curl (deleted)", "(unreachable)/x"] {
        let odd = Told { exe: path.into(), runs: Some(curl.clone()), ..told(7, &curl, &[]) };
        assert!(matches!(b.judge(vec![vec![odd]]).await, Err(Unidentified::Deleted { .. })), "{path}");
    }
    // A directory can't be an executable; and an ancestor counts like the program itself.
    let odd = told(7, &curl, &[b.dir.path()]);
    assert!(matches!(b.judge(vec![vec![odd]]).await, Err(Unidentified::Hash { .. })));
}

#[tokio::test]
async fn foreign_code_in_one_holder_is_told_of_the_caller() {
    let b = Bench::new();
    let curl = b.file("curl", "c");
    let preloaded = Told { foreign_code: true, ..told(8, &curl, &[]) };
    assert!(b.judge(vec![vec![told(7, &curl, &[]), preloaded]]).await.unwrap().foreign_code);
}

#[tokio::test]
async fn a_changed_program_is_denied_until_accepted() {
    let b = Bench::new();
    let curl = b.file("curl", "version 1");
    b.judge(vec![vec![told(7, &curl, &[])]]).await.unwrap();
    // Replaced as package managers do: another file, moved to the same path.
    let new = b.file("curl.new", "version 2");
    std::fs::rename(new, &curl).unwrap();
    let Err(Unidentified::Changed { changed, .. }) = b.judge(vec![vec![told(8, &curl, &[])]]).await else {
        panic!("an unnoticed change")
    };
    assert_eq!(changed.now, <[u8; 32]>::from(Sha256::digest("version 2")));
    let path = curl.to_str().unwrap();
    assert!(matches!(b.pins.accept(path, [0; 32]), Err(AcceptError::ChangedAgain { .. })));
    b.pins.accept(path, changed.now).unwrap();
    b.judge(vec![vec![told(8, &curl, &[])]]).await.unwrap();
}

#[tokio::test]
async fn a_changed_ancestor_is_denied_too() {
    let b = Bench::new();
    let (curl, sh) = (b.file("curl", "c"), b.file("sh", "version 1"));
    b.judge(vec![vec![told(7, &curl, &[&sh])]]).await.unwrap();
    std::fs::write(&sh, "version 2").unwrap();
    let refused = b.judge(vec![vec![told(7, &curl, &[&sh])]]).await;
    assert!(
        matches!(refused, Err(Unidentified::Changed { changed: c, .. }) if &*c.path == sh.to_str().unwrap())
    );
}

/// FIELD: RENAME_EXCHANGE puts good bytes at the path while evil runs. What runs is what is hashed.
#[tokio::test]
async fn good_bytes_at_the_path_do_not_help_the_file_that_runs() {
    let b = Bench::new();
    let (good, evil) = (b.file("good", "g"), b.file("evil", "e"));
    b.judge(vec![vec![told(7, &good, &[])]]).await.unwrap();
    let masked = Told { runs: Some(evil), ..told(8, &good, &[]) };
    assert!(matches!(b.judge(vec![vec![masked]]).await, Err(Unidentified::Changed { .. })));
}

#[tokio::test]
async fn what_changes_between_the_looks_is_looked_at_anew_and_in_the_end_denied() {
    let b = Bench::new();
    let (curl, evil) = (b.file("curl", "c"), b.file("evil", "e"));
    // A fork at the wrong moment: the second round settles.
    let one = vec![told(7, &curl, &[])];
    let two = vec![told(7, &curl, &[]), told(8, &curl, &[&curl])];
    b.judge(vec![one.clone(), two.clone()]).await.unwrap();
    // exec: same pid, same start time, another file. Another start time: another process.
    let exec = vec![Told { runs: Some(evil.clone()), ..told(7, &curl, &[]) }];
    let reused = vec![Told { start_time: 200, ..told(7, &curl, &[]) }];
    for other in [exec, reused, two] {
        let looks: Vec<_> = (0..ROUNDS).flat_map(|_| [one.clone(), other.clone()]).collect();
        assert_eq!(b.judge(looks).await.unwrap_err(), Unidentified::Unsettled);
    }
    // Gone by the second look.
    assert_eq!(b.judge(vec![one, vec![]]).await.unwrap_err(), Unidentified::NoHolder);
}

#[tokio::test(start_paused = true)]
async fn whoever_never_answers_denies_in_time() {
    struct Silent;
    impl Processes for Silent {
        fn holders(&self, _: u64) -> BoxFuture<'_, Result<Vec<Holder>, HoldersError>> {
            Box::pin(std::future::pending())
        }

        fn holders_and_maker(&self, _: u64) -> BoxFuture<'_, Result<(Vec<Holder>, Maker), HoldersError>> {
            Box::pin(std::future::pending())
        }
    }
    let b = Bench::new();
    let identifier = Identifier::new(Arc::new(Silent), diag_for_tests());
    assert_eq!(b.ask(&identifier).await.unwrap_err(), Unidentified::TimedOut);
}

#[tokio::test]
async fn only_the_maker_of_a_connection_may_hold_it_first() {
    let b = Bench::new();
    let curl = b.file("curl", "curl's code");
    let judge = async |maker, look| {
        let looks = Mutex::new(VecDeque::from([Ok(vec![told(7, &curl, &[])])]));
        let script = Arc::new(Script { looks, asked: AtomicU64::new(0), maker });
        let identifier = Identifier::new(script, diag_for_tests()).with_pins(b.pins.clone());
        identifier
            .judge(b.server.peer_addr().unwrap(), b.server.local_addr().unwrap(), look)
            .await
            .map(|judged| judged.party)
    };
    let path = curl.to_str().unwrap().to_owned();
    assert_eq!(judge(Maker::Holds(OURS), Look::First).await, Ok(OURS));
    assert_eq!(judge(Maker::Unwatched, Look::First).await, Ok(Party::UNKNOWN), "the operator's choice");
    let another = Err(Unidentified::NotItsMaker { path: path.clone() });
    assert_eq!(judge(Maker::Another, Look::First).await, another);
    assert_eq!(judge(Maker::Unknown, Look::First).await, Err(Unidentified::UnknownMaker { path }));
    assert_eq!(
        judge(Maker::Another, Look::Again).await,
        Ok(Party::UNKNOWN),
        "that is for the first look to say"
    );
}
