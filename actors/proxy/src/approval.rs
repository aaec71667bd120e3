//! Beside the road: what the policy doesn't name, where the operator is asked.
//!
//! ```text
//! verdict: no entry names it ─┬─ a tunnel ── opened here, nothing resolved or dialled ── each request in it comes back here
//!                             └─ a request ─ held ── the operator's word ── who asks, and the policy, looked at again
//! ```
//! Only what no entry of the policy names is asked for: whether this program may go there at all. What a rule
//! of an entry, an identity or an address refuses stays refused, whatever anybody approves. A word is for the
//! program and the generation that it was asked for; where either has changed meanwhile, it is asked again.

use std::sync::{Arc, LazyLock};

use futures_util::future::BoxFuture;
use policy::{
    AddressRule, Denial, DomainName, Executable, Generation, Grant, Host, Layer, Party, PathOptions,
    Protocol, Share, Shares, Spent, Treatment,
};
use smol_str::SmolStr;

use crate::address;
use crate::answer::{Known, Refusal};
use crate::caller::{Claim, Judged};
use crate::conn::Deps;
use crate::intent::{Ask, Exchange, Intent};
use crate::limits::{MAX_ASKED_BYTES, MAX_HELD, MAX_TIMES_ASKED};
use crate::road;
use crate::verdict::{Granted, Unlisted};

/// What stands for an entry in records and metrics.
pub const ENTRY: &str = "approvals";
/// What stands for the rule of a tunnel whose requests the operator is asked about.
pub const EACH_REQUEST: &str = "each request in it is asked about";

/// What an operator is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Where it goes, canonical; an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method as sent.
    pub method: SmolStr,
    /// The canonical path, without the query.
    pub path: SmolStr,
    /// Who asks.
    pub program: Executable,
    /// The policy's generation that doesn't name it.
    pub generation: u64,
    /// Whether it is the same request as before, under another generation.
    pub again: bool,
}

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// This request may go.
    Once,
    /// The policy was told: it is to be asked again.
    Again,
    /// No, by the question's id.
    Denied(String),
    /// Nothing in time, by the question's id.
    Unanswered(String),
    /// As many questions wait as may.
    Full,
}

/// Whoever puts questions to the operator. An answer takes as long as requests are held at most; dropping it
/// takes the question back.
pub trait Operator: Send + Sync + 'static {
    /// Asks.
    fn ask(&self, question: Question) -> BoxFuture<'_, Word>;
}

/// What is held, and who is asked for it; nobody is where the configuration doesn't say so.
pub struct Approvals {
    operator: Option<Arc<dyn Operator>>,
    places: Shares,
}

impl Approvals {
    /// `None`: what no entry names is refused at once.
    pub fn new(operator: Option<Arc<dyn Operator>>) -> Self {
        Self { operator, places: Shares::new(MAX_HELD) }
    }

    fn place(&self, party: Party) -> Result<Share, Refusal> {
        self.places.take(party, 1).map_err(|spent| {
            let whose = if spent == Spent::Share { "this agent" } else { "this sandbox" };
            Refusal::Unavailable(format!(
                "{whose} already has as many requests waiting for the operator as it may"
            ))
        })
    }
}

/// A request that no entry names, as it was judged.
pub(crate) struct Unnamed {
    pub(crate) caller: Judged,
    pub(crate) generation: Arc<Generation>,
    pub(crate) denial: Denial,
}

/// What the policy says.
pub(crate) enum Ruling {
    /// It may go there.
    Granted(Granted),
    /// No entry names it, and somebody is asked about that.
    Unnamed(Denial),
}

/// The policy's word, where somebody is asked about what it doesn't name: a destination that no entry has for
/// this program; or a request that nothing but other approvals has a rule near. Nobody is asked about what a
/// question doesn't show: what is said on a WebSocket, a request that asks for more than its method and path
/// say, a program with code of unknown origin in it.
///
/// # Errors
/// The policy's denial, about which nobody is asked.
pub(crate) fn rule(
    deps: &Deps,
    generation: &Generation,
    intent: &Intent,
    caller: &Judged,
) -> Result<Ruling, Denial> {
    let granted = Granted::judge(generation, intent, caller);
    // The host's own loopback is opened by an entry alone, as all that has no public name, and the gateway by
    // none.
    let is_private = intent.destination().host.name().is_some_and(|name| !is_public(name));
    if deps.approvals.operator.is_none() || intent.is_inference() || is_private {
        return granted.map(Ruling::Granted);
    }
    let exchange = match intent.ask() {
        Ask::Exchange(exchange) if !can_be_shown(exchange, caller) => return granted.map(Ruling::Granted),
        Ask::Exchange(exchange) => Some(exchange),
        Ask::Tunnel => None,
    };
    let granted = match granted {
        Err(denial) if denial.layer == Layer::L4 => return Ok(Ruling::Unnamed(denial)),
        other => other?,
    };
    let (compiled, to) = (&generation.compiled, granted.destination());
    if let (Some(exchange), Some(grant)) = (exchange, granted.grant())
        && compiled.grants_by_approval_alone(to, caller)
        && let Err(denial) = exchange.judge(compiled, (to, grant.treatment), caller)
    {
        return Ok(Ruling::Unnamed(Denial { policy: None, hint: None, ..denial }));
    }
    Ok(Ruling::Granted(granted))
}

/// Whether it can be a name of the public Internet, which is all that a word of the operator's leads to.
/// Others are probed for (`wpad`, a cloud's metadata service), by programs that would wait for an answer
/// where there is none.
pub(crate) fn is_public(name: &DomainName) -> bool {
    /// Top-level names that no public server answers for (RFC 6761, 6762, 7686, 8375, 9476, ICANN on
    /// `.internal`, `.home`, `.corp` and `.mail`), and those that routers invent. `.test` is left for tests:
    /// nobody has one else.
    const PRIVATE: [&str; 14] = [
        "alt",
        "arpa",
        "corp",
        "example",
        "home",
        "internal",
        "intranet",
        "invalid",
        "lan",
        "local",
        "localdomain",
        "localhost",
        "mail",
        "onion",
    ];
    let mut labels = name.labels().rev();
    let top = labels.next().unwrap_or_default();
    labels.next().is_some() && !PRIVATE.contains(&top)
}

/// Whether a question shows all that is asked for, and who asks.
fn can_be_shown(exchange: &Exchange, caller: &Judged) -> bool {
    let length = exchange.path.as_str().len() + caller.executable.path.len();
    !exchange.websocket && !exchange.asks_for_more() && !caller.foreign_code && length <= MAX_ASKED_BYTES
}

/// What becomes of it.
pub(crate) async fn ask(
    deps: &Deps,
    claim: &Arc<Claim>,
    intent: &Intent,
    known: &mut Known,
    unnamed: Unnamed,
) -> Result<(Judged, Arc<Generation>, Granted), Refusal> {
    let Some(operator) = &deps.approvals.operator else { return Err(unnamed.denial.into()) };
    match intent.ask() {
        Ask::Tunnel => {
            let Unnamed { caller, generation, .. } = unnamed;
            let granted = granted(intent, &caller, &generation, Unlisted::Tunnel);
            Ok((caller, generation, granted))
        }
        Ask::Exchange(exchange) => {
            if matches!(intent.destination().host, Host::Addr(_)) {
                // Nobody is asked for what no word opens.
                let once = granted(intent, &unnamed.caller, &unnamed.generation, Unlisted::Once);
                address::Judged::of(deps, &once).await?;
            }
            let _place = deps.approvals.place(unnamed.caller.party)?;
            held((deps, &**operator), claim, (intent, exchange), known, unnamed).await
        }
    }
}

async fn held(
    (deps, operator): (&Deps, &dyn Operator),
    claim: &Arc<Claim>,
    (intent, exchange): (&Intent, &Exchange),
    known: &mut Known,
    mut unnamed: Unnamed,
) -> Result<(Judged, Arc<Generation>, Granted), Refusal> {
    let mut generations = deps.policy.subscribe();
    let mut asked_by: Option<Executable> = None;
    for _ in 0..MAX_TIMES_ASKED {
        let program = &unnamed.caller.executable;
        let again = asked_by.replace(program.clone()).is_some_and(|before| before == *program);
        let asked = operator.ask(Question { again, ..question(intent, exchange, &unnamed) });
        let word = tokio::select! {
            word = asked => word,
            // It may name it now.
            _ = newer(&mut generations, unnamed.generation.number) => Word::Again,
        };
        if let Some(refusal) = refusal(&word, &unnamed.denial) {
            return Err(refusal);
        }
        let caller = road::identified(deps, claim, known).await?;
        let generation = deps.policy.load();
        known.generation = Some(generation.number);
        let denial = match rule(deps, &generation, intent, &caller)? {
            Ruling::Granted(granted) => return Ok((caller, generation, granted)),
            Ruling::Unnamed(denial) => denial,
        };
        let as_asked = generation.number == unnamed.generation.number
            && caller.executable == unnamed.caller.executable
            && caller.foreign_code == unnamed.caller.foreign_code;
        if word == Word::Once && as_asked {
            let granted = granted(intent, &caller, &generation, Unlisted::Once);
            return Ok((caller, generation, granted));
        }
        unnamed = Unnamed { caller, generation, denial };
    }
    Err(unnamed.denial.into())
}

/// Resolves when another generation is in force than the one that judged it.
async fn newer(generations: &mut tokio::sync::watch::Receiver<u64>, judged_by: u64) {
    if generations.wait_for(|number| *number > judged_by).await.is_err() {
        // Nobody publishes any more.
        std::future::pending::<()>().await;
    }
}

fn question(intent: &Intent, exchange: &Exchange, unnamed: &Unnamed) -> Question {
    Question {
        host: intent.destination().host.bare().to_string(),
        port: intent.destination().port,
        method: exchange.method.as_str().into(),
        path: exchange.path.shared().into(),
        program: unnamed.caller.executable.clone(),
        generation: unnamed.generation.number,
        again: false,
    }
}

fn refusal(word: &Word, denial: &Denial) -> Option<Refusal> {
    let (what, hint) = match word {
        Word::Once | Word::Again => return None,
        Word::Denied(id) => ("the operator refused it", format!("it was asked for as {id}")),
        Word::Unanswered(id) => (
            "the operator was asked and has not approved it",
            format!("`cofferdam approvals approve {id}` lets the next one through"),
        ),
        Word::Full => (
            "the operator is asked for as much as may be already",
            "answer what `cofferdam approvals list` shows".to_owned(),
        ),
    };
    let detail = format!("{}, and {what}", denial.detail);
    Some(Refusal::Denied(Denial { detail, hint: Some(hint), ..denial.clone() }))
}

/// In the place of an entry: requests are read one by one, and no private address is reached.
fn granted(intent: &Intent, caller: &Judged, generation: &Generation, unlisted: Unlisted) -> Granted {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| ENTRY.into());
    static TUNNEL: LazyLock<Arc<str>> = LazyLock::new(|| EACH_REQUEST.into());
    static ONCE: LazyLock<Arc<str>> = LazyLock::new(|| "approved once".into());
    let rule = match unlisted {
        Unlisted::Tunnel => &TUNNEL,
        Unlisted::Once => &ONCE,
    };
    let grant = Grant {
        policy: Arc::clone(&NAME),
        rule: Arc::clone(rule),
        treatment: Treatment::Inspect { protocol: Protocol::Rest },
        addresses: AddressRule { allowed_ips: Arc::from([]), exact_host: false },
        unnamed: false,
        path_options: PathOptions::default(),
        reads_bodies: false,
    };
    Granted::asked_for(intent.destination().clone(), caller, grant, generation.number, unlisted)
}
