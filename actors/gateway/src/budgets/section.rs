//! `inference.budgets` as written, and its check. Counting is done elsewhere.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{
    table::{Limits, Which},
    window::Per,
};
use crate::{config::Inference, glob::Glob};

/// Most budgets in one file: each request is checked against all.
pub const MAX_BUDGETS: usize = 32;
/// Largest limit, of tokens or requests: 10^15. A larger one is taken for a typing error.
pub const MAX_LIMIT: u64 = 1_000_000_000_000_000;

/// A budget: how much may be used in each window of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Its windows, aligned to UTC.
    pub per: Per,
    /// Tokens in each window, of requests and answers together, from 1 to [`MAX_LIMIT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Requests in each window that are sent to a provider, from 1 to [`MAX_LIMIT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Only this provider's requests count; a key of `providers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<SmolStr>,
    /// Only requests for these models count, by the agent's name for them: literal, or with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl Budget {
    fn which(&self) -> Which {
        Which {
            per: self.per,
            provider: self.provider.clone(),
            model: self.model.as_deref().map(SmolStr::new),
        }
    }
}

/// The budgets of a section that was checked.
pub(crate) fn limits(inference: &Inference) -> Vec<(Which, Limits)> {
    let limits = |budget: &Budget| {
        let model = budget.model.as_deref().and_then(|model| Glob::parse(model).ok());
        (budget.which(), Limits { tokens: budget.tokens, requests: budget.requests, model })
    };
    inference.budgets.iter().map(limits).collect()
}

/// Judges the budgets of a section.
pub(crate) fn check(inference: &Inference, fault: &mut impl FnMut(String, String)) {
    let budgets = &inference.budgets;
    if budgets.len() > MAX_BUDGETS {
        fault("budgets".into(), format!("more than {MAX_BUDGETS} budgets"));
    }
    for (n, budget) in budgets.iter().enumerate() {
        let at = |field: &str| format!("budgets[{n}]{field}");
        if let Some(first) = budgets.iter().take(n).position(|other| other.which() == budget.which()) {
            let what = "the same `per`, `provider` and `model`: write `tokens` and `requests` into one";
            fault(at(""), format!("is already budgets[{first}], with {what}"));
        }
        if budget.tokens.is_none() && budget.requests.is_none() {
            fault(at(""), "limits nothing: write `tokens: N`, `requests: N` or both".into());
        }
        for (field, limit) in [(".tokens", budget.tokens), (".requests", budget.requests)] {
            if limit.is_some_and(|limit| limit == 0 || limit > MAX_LIMIT) {
                let none = "to allow nothing, leave the route out";
                fault(at(field), format!("must lie between 1 and {MAX_LIMIT}; {none}"));
            }
        }
        if let Some(provider) = &budget.provider
            && !inference.providers.contains_key(provider)
        {
            fault(at(".provider"), inference.no_provider(provider));
        }
        match budget.model.as_deref().map(Glob::parse) {
            None => {}
            Some(Err(reason)) => fault(at(".model"), reason.into()),
            Some(Ok(model)) if model.is_literal() && !has_route(inference, model.as_str()) => {
                fault(at(".model"), format!("no route serves the model \"{}\"", model.as_str()));
            }
            Some(Ok(_)) => {}
        }
    }
}

/// Whether a request for a model would find a route.
fn has_route(inference: &Inference, model: &str) -> bool {
    let fits = |pattern: &str| Glob::parse(pattern).is_ok_and(|pattern| pattern.matches(model));
    inference.routes.iter().any(|route| fits(&route.model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(budgets: &str) -> Vec<String> {
        let text = format!(
            r#"{{"providers":{{"local":{{"kind":"openai","base_url":"http://127.0.0.1:1/v1"}}}},
                "routes":[{{"model":"gpt-*","to":[{{"provider":"local"}}]}}],"budgets":{budgets}}}"#
        );
        let inference: Inference = serde_json::from_str(&text).unwrap();
        let again: Inference = serde_json::from_str(&serde_json::to_string(&inference).unwrap()).unwrap();
        assert_eq!(again.budgets, inference.budgets);
        inference.check().err().map_or_else(Vec::new, |all| all.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_limits_something_is_taken() {
        let all = r#"[{"per":"day","tokens":2000000},{"per":"minute","requests":30},
            {"per":"hour","tokens":1,"requests":1000000000000000,"provider":"local","model":"gpt-4"},
            {"per":"hour","tokens":5,"provider":"local"},{"per":"hour","tokens":5,"model":"claude-*"}]"#;
        assert_eq!(faults(all), [""; 0]);
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        for (budgets, wanted) in [
            (r#"[{"per":"day"}]"#, "inference.budgets[0]: limits nothing"),
            (r#"[{"per":"day","tokens":0}]"#, "inference.budgets[0].tokens: must lie between 1 and"),
            (r#"[{"per":"day","requests":1000000000000001}]"#, "inference.budgets[0].requests: must lie"),
            (r#"[{"per":"day","tokens":5},{"per":"day","requests":5}]"#, "budgets[1]: is already budgets[0]"),
            (r#"[{"per":"day","tokens":5,"provider":"lcal"}]"#, "budgets[0].provider: no provider is called"),
            (r#"[{"per":"day","tokens":5,"model":"two words"}]"#, "budgets[0].model: a model name holds"),
            (r#"[{"per":"day","tokens":5,"model":"gtp-4"}]"#, "budgets[0].model: no route serves"),
        ] {
            let told = faults(budgets);
            assert!(told.len() == 1 && told[0].contains(wanted), "{told:?}");
        }
        let many: Vec<String> =
            (0..=MAX_BUDGETS).map(|n| format!(r#"{{"per":"day","tokens":5,"model":"x{n}-*"}}"#)).collect();
        assert!(faults(&format!("[{}]", many.join(",")))[0].contains("more than 32 budgets"));
    }

    #[test]
    fn what_is_no_number_is_refused_as_it_is_read() {
        for odd in [
            r#"{"per":"week","tokens":5}"#,
            r#"{"tokens":5}"#,
            r#"{"per":"day","tokens":-5}"#,
            r#"{"per":"day","tokens":1.5}"#,
            r#"{"per":"day","tokens":"5"}"#,
            r#"{"per":"day","tokens":99999999999999999999}"#,
            r#"{"per":"day","token":5}"#,
        ] {
            assert!(serde_json::from_str::<Budget>(odd).is_err(), "{odd}");
        }
    }
}
