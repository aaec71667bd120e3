//! The compiled matcher against a slow, obvious one that reads the policy's model in plain loops, on a
//! million generated pairs of policy and request: heads, JSON-RPC and MCP calls, GraphQL operations,
//! WebSocket messages, batches.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::Write;

use cofferdam_policy as policy;
use cofferdam_policy::{Compiled, Destination, Host, Rule};
use serde_json::{Value, json};

mod matcher;
#[path = "../../../fuzz/replay.rs"]
mod replay;

use matcher::generated::Dice;
use matcher::slow::{Part, rpc_matches};

/// Policies, and questions to each.
const POLICIES: usize = 1000;
const QUESTIONS: usize = 1000;

#[test]
fn compiled_and_slow_agree_on_a_million_pairs() {
    let mut dice = Dice::new(0x5eed);
    let (mut pairs, mut told) = (0_usize, std::collections::BTreeMap::new());
    let mut policies = 0;
    while policies < POLICIES {
        let text = dice.policy();
        // Contradicting policies are refused; that is another test's matter.
        let Ok(parsed) = policy::parse("generated", &text) else { continue };
        policies += 1;
        let policy = parsed.policy;
        let compiled = Compiled::new(&policy).unwrap();
        if policies % 25 == 0 {
            let again = policy::parse("again", &policy.to_yaml()).unwrap_or_else(|e| panic!("{e}")).policy;
            assert_eq!(again, policy, "written out and read back");
        }
        for _ in 0..QUESTIONS {
            // Most throws meet no endpoint: a few more make it likelier that there is something to judge.
            let mut question = dice.question();
            for _ in 0..3 {
                let to = Destination { host: Host::parse(question.host).unwrap(), port: question.port };
                if compiled.connect(&to, &question.caller).is_ok() {
                    break;
                }
                question = dice.question();
            }
            let answer = matcher::compare(&policy, &compiled, &mut dice, &question)
                .unwrap_or_else(|differ| panic!("{differ}\n{text}"));
            *told.entry(format!("{answer:?}")).or_insert(0_usize) += 1;
            pairs += 1;
        }
    }
    // Past the capture of output: the figure is to be seen in every run.
    let line = format!("{pairs} pairs of policy and request, no difference: {told:?}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(pairs >= 1_000_000);
    assert!(told.len() == 4 && told.values().all(|count| *count > 10_000), "{told:?}");
}

/// The first of these that has anything to say is enough to see that values are compared at all.
#[test]
fn the_slow_matcher_compares_values() {
    let text = "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 443, protocol: mcp, rules: [ { allow: { method: tools/call, tool: t, arguments: { n: 5 } } } ] } ] } }\n";
    let policy = policy::parse("p", text).unwrap().policy;
    let endpoint = &policy.network()[0].endpoints[0];
    let Rule::Rpc(rule) = &endpoint.rules[0].rule else { panic!() };
    let call = |value: Value| Part::Call {
        method: "tools/call".into(),
        tool: Some("t".into()),
        params: Some(json!({ "name": "t", "arguments": { "n": value } })),
    };
    assert!(rpc_matches(rule, &call(json!(5.0)), false) && !rpc_matches(rule, &call(json!("5")), false));
    assert!(rpc_matches(rule, &call(json!("5")), true));
}

#[test]
fn matcher_corpus() {
    replay::corpus("matcher", matcher::holds);
}
