//! When a claim asks who holds its connection, and what it makes of the answers.

use std::sync::atomic::AtomicUsize;

use policy::{Executable, Layer, Party};

use super::*;

fn caller(foreign_code: bool, party: Party) -> Caller {
    let executable = Executable { path: "/a".into(), sha256: [0; 32] };
    Caller { executable, ancestors: Arc::from([]), foreign_code, party }
}

fn denial(detail: &str) -> Denial {
    Denial { layer: Layer::Identity, detail: detail.to_owned(), policy: None, hint: None }
}

/// Good when the connection is made and at its first request, then refused.
struct Twice(AtomicUsize);

impl Identify for Twice {
    fn identify(&self, _: SocketAddr, _: SocketAddr, look: Look) -> BoxFuture<'_, Result<Caller, Unjudged>> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(look == Look::First, before == 0, "who made it is asked once, first");
        let good = before < 2;
        Box::pin(async move {
            match good {
                true if look == Look::First => Ok(caller(true, Party(5))),
                true => Ok(caller(false, Party::UNKNOWN)),
                false => Err(Unjudged::Another(denial("several holders"))),
            }
        })
    }

    fn is_open(&self, _: SocketAddr, _: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn notes_makers(&self) -> bool {
        true
    }
}

fn claim() -> (Arc<Twice>, Arc<Claim>) {
    let address = "127.0.0.1:1".parse().unwrap();
    let twice = Arc::new(Twice(AtomicUsize::new(0)));
    (twice.clone(), Arc::new(Claim::new(twice, address, address)))
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_asked_for_again_and_never_fallen_back_on() {
    let (twice, claim) = claim();
    assert!(claim.judged().await.is_ok());
    assert!(claim.judged().await.is_ok(), "a burst asks once");
    assert_eq!(twice.0.load(Ordering::Relaxed), 1, "the first request asks both questions in one");
    tokio::time::advance(IDENTITY_FRESH).await;
    let caller = claim.judged().await.unwrap();
    assert!(caller.foreign_code, "a program that was executed anew doesn't take its foreign words back");
    assert_eq!(caller.party, Party(5), "and is whose it was");
    tokio::time::advance(IDENTITY_FRESH).await;
    assert!(claim.judged().await.is_err());
    assert!(claim.judged().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_is_asked_about_beside_its_requests() {
    let (twice, claim) = claim();
    assert!(claim.judged().await.is_ok());
    tokio::time::advance(RENEWED_AFTER).await;
    assert!(claim.judged().await.unwrap().foreign_code, "by the first answer, which is good still");
    tokio::task::yield_now().await;
    assert_eq!(twice.0.load(Ordering::Relaxed), 2, "and asked anew meanwhile");
    tokio::time::advance(RENEWED_AFTER).await;
    assert!(claim.judged().await.is_ok(), "by the second answer, no older than it may be");
    tokio::task::yield_now().await;
    assert_eq!(twice.0.load(Ordering::Relaxed), 3);
    assert!(claim.judged().await.is_err(), "a refusal that nobody waited for counts all the same");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_asked_about_and_its_first_request_once_more() {
    let (twice, claim) = claim();
    let served = {
        let claim = Arc::clone(&claim);
        tokio::spawn(async move { claim.watch(std::future::pending()).await.unwrap() })
    };
    tokio::task::yield_now().await;
    assert_eq!(twice.0.load(Ordering::Relaxed), 0);
    tokio::time::sleep(MAKER_ASKED_WITHIN * 2).await;
    assert_eq!(twice.0.load(Ordering::Relaxed), 1, "nobody can wait until the note is old");
    assert!(claim.judged().await.is_ok());
    assert_eq!(twice.0.load(Ordering::Relaxed), 2, "what was found before the head is fresh for no request");
    served.abort();
}

#[tokio::test(start_paused = true)]
async fn where_nobody_notes_makers_the_first_look_comes_before_everything() {
    struct Unnoted(Twice);
    impl Identify for Unnoted {
        fn identify(
            &self,
            client: SocketAddr,
            local: SocketAddr,
            look: Look,
        ) -> BoxFuture<'_, Result<Caller, Unjudged>> {
            self.0.identify(client, local, look)
        }
        fn is_open(&self, client: SocketAddr, local: SocketAddr) -> BoxFuture<'_, bool> {
            self.0.is_open(client, local)
        }
        fn notes_makers(&self) -> bool {
            false
        }
    }
    let address = "127.0.0.1:1".parse().unwrap();
    let unnoted = Arc::new(Unnoted(Twice(AtomicUsize::new(0))));
    let claim = Claim::new(unnoted.clone(), address, address);
    claim.watch(async { assert_eq!(unnoted.0.0.load(Ordering::Relaxed), 1) }).await.unwrap();
}

/// Known when the connection is made; afterwards only where `told` says so.
struct Seldom {
    told: fn(usize) -> bool,
    asked: AtomicUsize,
}

impl Identify for Seldom {
    fn identify(&self, _: SocketAddr, _: SocketAddr, _: Look) -> BoxFuture<'_, Result<Caller, Unjudged>> {
        let told = (self.told)(self.asked.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            match told {
                true => Ok(caller(false, Party(5))),
                false => Err(Unjudged::Untold(denial("no holder"))),
            }
        })
    }

    fn is_open(&self, _: SocketAddr, _: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn notes_makers(&self) -> bool {
        true
    }
}

/// Whether a stream on which something always moves is held after so many looks.
async fn is_held(told: fn(usize) -> bool, looks: u32) -> bool {
    let address = "127.0.0.1:1".parse().unwrap();
    let claim = Arc::new(Claim::new(Arc::new(Seldom { told, asked: AtomicUsize::new(0) }), address, address));
    claim.judged().await.unwrap();
    let moved = AtomicU64::new(0);
    let held = AtomicBool::new(false);
    let hold = |untold: Option<Denial>| held.store(untold.is_some(), Ordering::Relaxed);
    let watching = claim.changes_hands(|| moved.fetch_add(1, Ordering::Relaxed), hold);
    let ended = tokio::time::timeout(HOLDER_LOOK * looks, watching).await;
    assert!(ended.is_err(), "nobody else holds it, and its client is there");
    held.into_inner()
}

#[tokio::test(start_paused = true)]
async fn looks_that_tell_nobody_are_borne_for_a_while() {
    assert!(!is_held(|_| true, 100).await);
    assert!(!is_held(|asked| asked % MAX_UNTOLD_LOOKS as usize == 0, 100).await);
    assert!(!is_held(|asked| asked == 0, MAX_UNTOLD_LOOKS - 1).await);
    assert!(
        is_held(|asked| asked == 0, MAX_UNTOLD_LOOKS + 1).await,
        "it goes on though nobody is known to speak"
    );
    assert!(is_held(|asked| asked == 0, 100).await, "for as long as it isn't told");
    assert!(!is_held(|asked| asked == 0 || asked > 50, 100).await, "and no longer");
}
