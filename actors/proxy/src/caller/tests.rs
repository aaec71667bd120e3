//! When a claim asks who holds its connection, and what it makes of the answers.

use std::sync::atomic::AtomicUsize;

use policy::{Executable, Layer, Party};

use super::*;

/// Good when the connection is made and at its first request, then refused.
struct Twice(AtomicUsize);

impl Identify for Twice {
    fn identify(&self, _: SocketAddr, _: SocketAddr, look: Look) -> BoxFuture<'_, Result<Caller, Unjudged>> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(look == Look::First, before == 0, "who made it is asked once, first");
        let good = before < 2;
        Box::pin(async move {
            match good {
                true => Ok(Caller {
                    executable: Executable { path: "/a".into(), sha256: [0; 32] },
                    ancestors: Arc::from([]),
                    foreign_code: look == Look::First,
                    party: if look == Look::First { Party(5) } else { Party::UNKNOWN },
                }),
                false => Err(Unjudged::Another(Denial {
                    layer: Layer::Identity,
                    detail: "several holders".to_owned(),
                    policy: None,
                    hint: None,
                })),
            }
        })
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
        fn notes_makers(&self) -> bool {
            false
        }
    }
    let address = "127.0.0.1:1".parse().unwrap();
    let unnoted = Arc::new(Unnoted(Twice(AtomicUsize::new(0))));
    let claim = Claim::new(unnoted.clone(), address, address);
    claim.watch(async { assert_eq!(unnoted.0.0.load(Ordering::Relaxed), 1) }).await.unwrap();
}
