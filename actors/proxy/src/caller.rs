//! Step four of the road: who asks.
//!
//! A [`Judged`] caller is made here and nowhere else, by asking the identifier who holds the agent's end of the
//! connection. A kept connection can change hands between two requests (fork, SCM_RIGHTS), so an answer is good
//! for [`IDENTITY_FRESH`] only and asked for again after it; a new connection always asks. Must never fall back
//! on an older answer when the new one is a refusal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use policy::{Caller, Denial, Layer};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::identity::{Changed, Identifier, Look, Unidentified};
use crate::limits::IDENTITY_FRESH;

/// Who can say which program holds a connection. [`Identities`] does; tests bring their own.
pub trait Identify: Send + Sync + 'static {
    /// The caller that holds the agent's end: `client` is its address, `local` is ours.
    fn identify(
        &self,
        client: SocketAddr,
        local: SocketAddr,
        look: Look,
    ) -> BoxFuture<'_, Result<Caller, Denial>>;
}

/// The real one: the identifier, and where a changed binary is told.
pub struct Identities {
    identifier: Identifier,
    changed: Box<dyn Fn(&Changed) + Send + Sync>,
}

impl Identities {
    /// `changed` is told of each binary that is not what it was at first use (audit record, event). Must not block.
    pub fn new(identifier: Identifier, changed: impl Fn(&Changed) + Send + Sync + 'static) -> Self {
        Self { identifier, changed: Box::new(changed) }
    }
}

impl Identify for Identities {
    fn identify(
        &self,
        client: SocketAddr,
        local: SocketAddr,
        look: Look,
    ) -> BoxFuture<'_, Result<Caller, Denial>> {
        Box::pin(async move {
            match self.identifier.judge(client, local, look).await {
                Ok(judged) => Ok(judged.caller().clone()),
                Err(why) => {
                    if let Unidentified::Changed(change) = &why {
                        (self.changed)(change);
                    }
                    Err(why.into())
                }
            }
        })
    }
}

/// A caller whose identity was established for the request at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged(Arc<Caller>);

impl Judged {
    /// The caller, to keep.
    pub fn shared(&self) -> Arc<Caller> {
        Arc::clone(&self.0)
    }
}

impl std::ops::Deref for Judged {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.0
    }
}

/// One connection of the agent, as far as identity goes: its tuple and the last answer.
pub struct Claim {
    identify: Arc<dyn Identify>,
    client: SocketAddr,
    local: SocketAddr,
    first: OnceCell<Result<Judged, Denial>>,
    /// Whether code of unknown origin ran in a holder at any look: it may have spoken before its program was executed
    /// anew, and clean.
    foreign_code: AtomicBool,
    last: ArcSwapOption<(Judged, Instant)>,
}

impl Claim {
    /// A connection of which nothing is known yet.
    pub fn new(identify: Arc<dyn Identify>, client: SocketAddr, local: SocketAddr) -> Self {
        Self {
            identify,
            client,
            local,
            first: OnceCell::new(),
            foreign_code: AtomicBool::new(false),
            last: ArcSwapOption::empty(),
        }
    }

    /// The agent's end.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Establishes who made the connection. Called as soon as it is accepted, before a byte of it is read: who holds it
    /// later must be the same, or a program could speak and then lend its words another's name (exec after connect).
    pub async fn establish(&self) {
        self.first().await;
    }

    /// Not fresh for any request: who else holds the socket by then must be seen.
    async fn first(&self) -> &Result<Judged, Denial> {
        self.first.get_or_init(|| self.ask(Look::First)).await
    }

    async fn ask(&self, look: Look) -> Result<Judged, Denial> {
        let mut caller = self.identify.identify(self.client, self.local, look).await?;
        caller.foreign_code |= self.foreign_code.fetch_or(caller.foreign_code, Ordering::Relaxed);
        Ok(Judged(Arc::new(caller)))
    }

    /// The caller now: the one that made the connection, still.
    ///
    /// # Errors
    /// The identifier's denial, or that the connection has changed hands since it was made. Neither passes again.
    pub async fn judged(&self) -> Result<Judged, Denial> {
        let first = self.first().await.clone()?;
        if let Some(last) = self.last.load_full()
            && last.1.elapsed() < IDENTITY_FRESH
        {
            return Ok(last.0.clone());
        }
        self.last.store(None);
        let now = self.ask(Look::Again).await?;
        // Its program, that is: ancestors end, and the policy judges those that are left.
        if now.executable != first.executable {
            return Err(Denial {
                layer: Layer::Identity,
                detail: format!(
                    "the connection was made by {} and is held by {} now",
                    first.executable.path, now.executable.path
                ),
                policy: None,
                hint: Some("a program must make its connections itself".to_owned()),
            });
        }
        self.last.store(Some(Arc::new((now.clone(), Instant::now()))));
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use policy::{Executable, Layer};

    use super::*;

    /// Good when the connection is made and at its first request, then refused.
    struct Twice(AtomicUsize);

    impl Identify for Twice {
        fn identify(
            &self,
            _: SocketAddr,
            _: SocketAddr,
            look: Look,
        ) -> BoxFuture<'_, Result<Caller, Denial>> {
            let before = self.0.fetch_add(1, Ordering::Relaxed);
            assert_eq!(look == Look::First, before == 0, "who made it is asked once, first");
            let good = before < 2;
            Box::pin(async move {
                match good {
                    true => Ok(Caller {
                        executable: Executable { path: "/a".into(), sha256: [0; 32] },
                        ancestors: Arc::from([]),
                        foreign_code: look == Look::First,
                    }),
                    false => Err(Denial {
                        layer: Layer::Identity,
                        detail: "several holders".to_owned(),
                        policy: None,
                        hint: None,
                    }),
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_is_asked_for_again_and_never_fallen_back_on() {
        let address = "127.0.0.1:1".parse().unwrap();
        let claim = Claim::new(Arc::new(Twice(AtomicUsize::new(0))), address, address);
        claim.establish().await;
        let caller = claim.judged().await.unwrap();
        assert!(caller.foreign_code, "a program that was executed anew doesn't take its foreign words back");
        assert!(claim.judged().await.is_ok(), "a burst asks once");
        tokio::time::advance(IDENTITY_FRESH).await;
        assert!(claim.judged().await.is_err());
        assert!(claim.judged().await.is_err());
    }
}
