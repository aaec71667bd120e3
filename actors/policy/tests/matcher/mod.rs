//! The compiled matcher against the slow one: one question to both. Also what the fuzz target `matcher` runs,
//! which includes this by its path.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may stop")]

pub mod generated;
pub mod slow;

use cofferdam_policy as policy;
use cofferdam_policy::content::{Reading, SaidText, Unreadable};
use cofferdam_policy::{
    Caller, CanonicalPath, Compiled, Content, Destination, Host, Policy, Protocol, Query, RequestFacts,
    Treatment,
};

use generated::{Dice, Question};
use slow::{Answer, Asked, Part, granting, slow};

/// Questions of one throw of bytes.
const QUESTIONS: usize = 16;

/// The property: bytes are dice, which throw a policy and questions to it, and both matchers answer the same.
/// A policy is also the same when it is written out and read back.
pub fn holds(bytes: &[u8]) {
    let mut dice = Dice::loaded(bytes);
    let text = dice.policy();
    // Contradicting policies are refused.
    let Ok(parsed) = policy::parse("generated", &text) else { return };
    let compiled = Compiled::new(&parsed.policy).unwrap();
    for _ in 0..QUESTIONS {
        let question = dice.question();
        if let Err(differ) = compare(&parsed.policy, &compiled, &mut dice, &question) {
            panic!("{differ}\n{text}");
        }
    }
}

fn fast(compiled: &Compiled, to: &Destination, caller: &Caller, facts: &RequestFacts<'_>) -> Answer {
    match compiled.request(to, caller, facts) {
        Err(denial) if denial.layer == policy::Layer::L7 => Answer::Refused,
        Err(_) => Answer::NotConnected,
        Ok(allowed) if allowed.audit_only.is_some() => Answer::Recorded,
        Ok(_) => Answer::Sent,
    }
}

/// Puts one question, with content thrown for it, to both matchers; the answer, or how they differ.
pub fn compare(
    policy: &Policy,
    compiled: &Compiled,
    dice: &mut Dice,
    question: &Question,
) -> Result<Answer, String> {
    let Question { caller, host, port, method, path, query, websocket } = question;
    let to = Destination { host: Host::parse(host).unwrap(), port: *port };
    let raw: Vec<String> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let facts_query = Query::parse(Some(&raw.join("&"))).unwrap();
    let path = CanonicalPath::parse(path, policy::PathOptions { allow_encoded_slash: true }).unwrap();
    let granting = granting(policy, &to, caller);

    let connected = compiled.connect(&to, caller);
    let differ = |what: &str| Err(format!("{what}: {to} {caller:?} {method} {path} {query:?} {websocket}"));
    if connected.is_err() != granting.is_empty() {
        return differ("connect");
    }
    if let Ok(grant) = &connected {
        let inspects = matches!(grant.treatment, Treatment::Inspect { .. });
        let reads = granting.iter().any(|e| e.protocol.is_some_and(Protocol::reads_bodies));
        if inspects != granting.iter().any(|e| e.protocol.is_some())
            || grant.path_options.allow_encoded_slash != granting.iter().any(|e| e.allow_encoded_slash)
            || grant.reads_bodies != reads
        {
            return differ("grant");
        }
    }
    let head = RequestFacts {
        method,
        path: &path,
        query: &facts_query,
        websocket: *websocket,
        content: Content::Unread,
    };
    let body = compiled.body_of(&to, caller, &head).map(|(protocol, _)| protocol);
    let (parts, written) = dice.content(body, *websocket);
    let said = matches!(parts[0], Part::Text { .. } | Part::Binary);
    let method = if said { policy::WEBSOCKET_TEXT } else { method };
    let asked = Asked { method, path: &path, query, websocket: *websocket };
    let expected = slow(&granting, &asked, &parts);

    let too_long = Unreadable::TooLong(1);
    let (reading, text);
    let content = match &parts[0] {
        Part::Head => Content::Unread,
        Part::Text { .. } => {
            text = SaidText::read(&written, compiled.asks_of_messages(&to, caller, &path));
            text.content()
        }
        Part::Binary => Content::Binary,
        Part::Unreadable => Content::Unreadable(&too_long),
        Part::Operation { .. } => {
            reading = Reading::of(Protocol::Graphql, written.as_bytes());
            reading.content()
        }
        Part::Call { .. } | Part::Answer => {
            let protocol = if body == Some(Protocol::JsonRpc) { Protocol::JsonRpc } else { Protocol::Mcp };
            reading = Reading::of(protocol, written.as_bytes());
            reading.content()
        }
    };
    if matches!(content, Content::Unreadable(_)) != matches!(parts[0], Part::Unreadable) {
        return Err(format!("{content:?}: {written}"));
    }
    let answer = fast(compiled, &to, caller, &RequestFacts { method, content, ..head });
    if answer != expected {
        return Err(format!(
            "compiled {answer:?}, slow {expected:?}: {to} {caller:?} {method} {path} {query:?} {websocket} {written}"
        ));
    }
    Ok(answer)
}
