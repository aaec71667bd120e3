//! What rules said already of a request's path and query, where it is judged more than once.
//!
//! A request is judged by each method that its query names, and each member of a batch by itself; its path
//! and query are the same every time, and are as long as the agent likes. Never here: methods, and what a
//! body says.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::model::{HttpRule, PathPattern};
use crate::{Content, RequestFacts};

/// A rule or pattern of this policy, by where it lies, and whether it is asked as one that denies.
type Asked = (usize, bool);

/// See the module. For one path and query only.
pub(crate) struct Answers(Option<RefCell<HashMap<Asked, bool>>>);

impl Answers {
    /// Keeps nothing, and so allocates nothing: for what is judged once.
    pub(crate) fn unkept() -> Self {
        Self(None)
    }

    pub(crate) fn kept() -> Self {
        Self(Some(RefCell::default()))
    }

    /// For a request that is judged by one method.
    pub(crate) fn for_parts(content: Content<'_>) -> Self {
        match content {
            Content::Rpc(messages) if messages.len() > 1 => Self::kept(),
            Content::Graphql(operations) if operations.len() > 1 => Self::kept(),
            _ => Self::unkept(),
        }
    }

    pub(super) fn allows(&self, rule: &HttpRule, facts: &RequestFacts<'_>) -> bool {
        rule.method.covers(facts.method)
            && self.once(rule, false, || rule.allows_place(facts.path, facts.query))
    }

    pub(super) fn denies(&self, rule: &HttpRule, facts: &RequestFacts<'_>) -> bool {
        rule.method.hits(facts.method) && self.once(rule, true, || rule.denies_place(facts.path, facts.query))
    }

    pub(super) fn matches(&self, pattern: &PathPattern, facts: &RequestFacts<'_>) -> bool {
        self.once(pattern, false, || pattern.matches(facts.path))
    }

    pub(super) fn may_match(&self, pattern: &PathPattern, facts: &RequestFacts<'_>) -> bool {
        self.once(pattern, true, || pattern.may_match(facts.path))
    }

    fn once<T>(&self, what: &T, denying: bool, ask: impl FnOnce() -> bool) -> bool {
        let Some(kept) = &self.0 else { return ask() };
        *kept.borrow_mut().entry((std::ptr::from_ref(what).addr(), denying)).or_insert_with(ask)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_is_asked_once_where_answers_are_kept() {
        let asked = Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            true
        };
        let rules = [1, 2];
        for (said, wanted) in [(Answers::kept(), 4), (Answers::unkept(), 12)] {
            asked.set(0);
            for (rule, denying) in rules.iter().flat_map(|rule| [(rule, true), (rule, false)]) {
                assert!((0..3).all(|_| said.once(rule, denying, ask)));
            }
            assert_eq!(asked.get(), wanted);
        }
        // One that denies may hit what the same one doesn't allow.
        let said = Answers::kept();
        assert!(said.once(&rules, true, || true) && !said.once(&rules, false, || false));
    }
}
