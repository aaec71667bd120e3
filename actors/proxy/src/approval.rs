//! Beside the road: asks the operator about what no policy entry names, where the configuration says so.
//!
//! ```text
//! verdict: no entry names it ─┬─ a tunnel ── opened here, nothing resolved or dialled ── each request in it comes back here
//!                             └─ a request ─ held ── the operator's word ── who asks, and the policy, looked at again
//! ```
//! The operator is asked only about what no policy entry names: whether this program may go there at all.
//! What is refused by a rule of an entry, by identity or by address stays refused, whatever is approved. An
//! approval holds for the program and the policy generation that it was asked for; if either has changed
//! meanwhile, the operator is asked again.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use futures_util::future::BoxFuture;
use policy::{
    AddressRule, Denial, DomainName, Executable, Generation, Grant, Host, Layer, Party, PathOptions,
    Protocol, Share, Shares, Spent, Treatment,
};
use smol_str::SmolStr;

use crate::address;
use crate::answer::{Known, Refusal};
use crate::caller::{Claim, JudgedCaller};
use crate::conn::Deps;
use crate::intent::{Ask, Exchange, Intent};
use crate::limits::{MAX_ASKED_BYTES, MAX_HELD, MAX_TIMES_ASKED};
use crate::road::{self, Authorised};
use crate::verdict::{Granted, Unlisted};

/// Stands in for the entry's name in records and metrics.
pub const ENTRY: &str = "approvals";
/// Stands in for the rule in the record of a tunnel whose requests the operator is asked about.
pub const EACH_REQUEST: &str = "each request in it is asked about";

/// A question to the operator.
#[derive(Debug, Clone)]
pub struct Question {
    /// The destination host, canonical; an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method as sent.
    pub method: SmolStr,
    /// The canonical path, without the query.
    pub path: SmolStr,
    /// The calling program.
    pub program: Executable,
    /// Number of the policy generation in which no entry names the request.
    pub generation: u64,
    /// Whether the operator was asked about this request before, for the same program, under another
    /// generation.
    pub again: bool,
}

/// The operator's decision, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// This one request is allowed.
    Once,
    /// The policy has changed: it is to judge the request again.
    Again,
    /// Refused. Holds the question's id.
    Denied(String),
    /// No decision in time. Holds the question's id.
    Unanswered(String),
    /// Not asked: as many questions wait already as may.
    Full,
}

/// Puts questions to the operator. A decision takes at most as long as requests are held; dropping the future
/// withdraws the question.
pub trait Operator: Send + Sync + 'static {
    /// Asks, and waits for the decision.
    fn ask(&self, question: Question) -> BoxFuture<'_, Word>;
}

/// The requests that are held, and the operator who is asked about them; none if the configuration doesn't
/// say so.
pub struct Approvals {
    operator: Option<Arc<dyn Operator>>,
    places: Shares,
}

impl Approvals {
    /// With `None`, what no entry names is refused at once.
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
    pub(crate) caller: JudgedCaller,
    pub(crate) generation: Arc<Generation>,
    pub(crate) denial: Denial,
}

/// How the policy judges an intent.
pub(crate) enum Ruling {
    /// An entry, or an earlier approval, grants the destination.
    Granted(Granted),
    /// No entry names it, and the operator is to be asked.
    Unnamed(Denial),
}

/// Judges an intent by the policy. The operator is to be asked ([`Ruling::Unnamed`]) if no entry names the
/// destination for this program, or if approvals alone grant the destination and none of them allows this
/// request. The operator is never asked about what a question can't show: messages on a WebSocket, a request
/// that asks for more than its method and path say, a program with code of unknown origin in it.
///
/// # Errors
/// The policy's denial, if the operator is not to be asked.
pub(crate) fn rule(
    deps: &Deps,
    generation: &Generation,
    intent: &Intent,
    caller: &JudgedCaller,
) -> Result<Ruling, Denial> {
    let granted = Granted::judge(generation, intent, caller);
    // Only an entry can open what has no public name, the host's own loopback included. The gateway needs no
    // entry.
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

/// Whether `name` can be a name of the public Internet: an approval leads nowhere else. Programs probe for
/// other names (`wpad`, a cloud's metadata service), and would be kept waiting for an answer where there is
/// none.
pub(crate) fn is_public(name: &DomainName) -> bool {
    /// Top-level names that no public server answers for (RFC 6761, 6762, 7686, 8375, 9476, ICANN on
    /// `.internal`, `.home`, `.corp` and `.mail`), and those that routers invent. `.test` is not listed, for
    /// the sake of tests: nothing else uses it.
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

/// Whether a question can show all that the request asks for, and the calling program.
fn can_be_shown(exchange: &Exchange, caller: &JudgedCaller) -> bool {
    let length = exchange.path.as_str().len() + caller.executable.path.len();
    !exchange.websocket && !exchange.asks_for_more() && !caller.foreign_code && length <= MAX_ASKED_BYTES
}

/// Decides about what no entry names: opens a tunnel, whose requests are then asked about one by one, or
/// holds a request until the operator decides.
pub(crate) async fn ask(
    deps: &Deps,
    claim: &Arc<Claim>,
    intent: &Intent,
    known: &mut Known,
    unnamed: Unnamed,
) -> Result<Authorised, Refusal> {
    let Some(operator) = &deps.approvals.operator else { return Err(unnamed.denial.into()) };
    match intent.ask() {
        Ask::Tunnel => {
            let Unnamed { caller, generation, .. } = unnamed;
            let granted = granted(intent, &caller, &generation, Unlisted::Tunnel);
            Ok(Authorised { caller, generation, granted })
        }
        Ask::Exchange(exchange) => {
            if matches!(intent.destination().host, Host::Addr(_)) {
                // Don't ask about an address that no approval can open.
                let once = granted(intent, &unnamed.caller, &unnamed.generation, Unlisted::Once);
                address::JudgedAddresses::of(deps, &once).await?;
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
) -> Result<Authorised, Refusal> {
    let mut generations = deps.policy.subscribe();
    let mut asked_by: Option<Executable> = None;
    for _ in 0..MAX_TIMES_ASKED {
        let program = &unnamed.caller.executable;
        let again = asked_by.replace(program.clone()).is_some_and(|before| before == *program);
        let asked = operator.ask(Question { again, ..question(intent, exchange, &unnamed) });
        let since = Instant::now();
        let word = tokio::select! {
            word = asked => word,
            // The new generation may name the request.
            _ = newer(&mut generations, unnamed.generation.number) => Word::Again,
        };
        known.held += since.elapsed();
        if let Some(refusal) = refusal(&word, &unnamed.denial) {
            return Err(refusal);
        }
        let caller = road::identified(deps, claim, known).await?;
        let generation = deps.policy.load();
        known.generation = Some(generation.number);
        let denial = match rule(deps, &generation, intent, &caller)? {
            Ruling::Granted(granted) => return Ok(Authorised { caller, generation, granted }),
            Ruling::Unnamed(denial) => denial,
        };
        let as_asked = generation.number == unnamed.generation.number
            && caller.executable == unnamed.caller.executable
            && caller.foreign_code == unnamed.caller.foreign_code;
        if word == Word::Once && as_asked {
            let granted = granted(intent, &caller, &generation, Unlisted::Once);
            return Ok(Authorised { caller, generation, granted });
        }
        unnamed = Unnamed { caller, generation, denial };
    }
    Err(unnamed.denial.into())
}

/// Resolves when a generation later than `judged_by` is in force.
async fn newer(generations: &mut tokio::sync::watch::Receiver<u64>, judged_by: u64) {
    if generations.wait_for(|number| *number > judged_by).await.is_err() {
        // The publisher is gone: no later generation will come.
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

/// Makes the grant that stands in for an entry's: requests are read one by one, and no private address is
/// reached.
fn granted(intent: &Intent, caller: &JudgedCaller, generation: &Generation, unlisted: Unlisted) -> Granted {
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
