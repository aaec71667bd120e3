//! The counts while requests, budgets and windows come and go.

use super::*;
use proptest::prelude::*;

const NOON: u64 = 1_796_040_000;

fn which(per: Per, provider: Option<&str>, model: Option<&str>) -> Which {
    Which { per, provider: provider.map(SmolStr::new), model: model.map(SmolStr::new) }
}

fn limits(which: &Which, tokens: Option<u64>, requests: Option<u64>) -> Limits {
    let model = which.model.as_deref().map(|m| Glob::parse(m).unwrap());
    Limits { tokens, requests, model }
}

fn table(budgets: &[(Which, Option<u64>, Option<u64>)], now: u64) -> Table {
    let mut table = Table::default();
    let rows = budgets.iter().map(|(w, t, r)| (w.clone(), limits(w, *t, *r))).collect();
    table.configure(rows, now);
    table
}

fn day(tokens: u64) -> Table {
    table(&[(which(Per::Day, None, None), Some(tokens), None)], NOON)
}

fn of(tokens: u64) -> Estimate {
    Estimate { input: tokens, ..Estimate::default() }
}

fn used(table: &Table) -> (u64, u64) {
    let row = &table.standing()[0];
    (row.tokens.0, row.requests.0)
}

#[test]
fn many_at_a_time_never_pass_a_limit_together() {
    let mut table = day(1000);
    let held: Vec<_> = (0..100).filter_map(|_| table.admit("p", "m", of(300), NOON).ok()).collect();
    assert_eq!((held.len(), used(&table)), (3, (900, 3)));
    let refused = table.admit("p", "m", of(300), NOON).unwrap_err();
    assert!(refused.crowded && refused.limit == 1000 && refused.ends == NOON + 43_200);
    // What was held becomes what was used; then there is room again.
    held.iter().for_each(|hold| table.settle(hold, of(300), 10));
    assert_eq!(used(&table), (30, 3));
    assert!(table.admit("p", "m", of(900), NOON).is_ok());
}

#[test]
fn one_alone_may_have_what_is_left_and_pass_the_limit_by_itself() {
    let mut table = day(1000);
    let first = table.admit("p", "m", of(999), NOON).unwrap();
    table.settle(&first, of(999), 999);
    let last = table.admit("p", "m", of(50_000), NOON).unwrap();
    assert!(table.admit("p", "m", of(1), NOON).unwrap_err().crowded);
    table.settle(&last, of(50_000), 20_000);
    assert_eq!(used(&table), (20_999, 2));
    assert!(!table.admit("p", "m", of(1), NOON).unwrap_err().crowded);
    // A request that uses no tokens isn't refused.
    assert!(table.admit("p", "m", of(0), NOON).is_ok());
}

#[test]
fn what_may_use_more_than_is_counted_has_room_for_it_beside_others() {
    let mut table = day(1000);
    let open = Estimate { output: 50, beyond: 400, ..of(50) };
    let held: Vec<_> = (0..12).filter_map(|_| table.admit("p", "m", open, NOON).ok()).collect();
    // Two at the same time are fine, and only what is held counts.
    assert_eq!((held.len(), used(&table)), (2, (200, 2)));
    assert!(table.admit("p", "m", of(1), NOON).unwrap_err().crowded);
    table.settle(&held[0], open, 500);
    assert!(table.admit("p", "m", of(1), NOON).unwrap_err().crowded, "the other may use 500, too");
    table.cancel(&held[1], open);
    assert_eq!(used(&table), (500, 1));
    // With less than that left, such a request goes alone or not at all.
    let small = table.admit("p", "m", of(100), NOON).unwrap();
    assert!(table.admit("p", "m", open, NOON).unwrap_err().crowded);
    table.settle(&small, of(100), 100);
    assert!(table.admit("p", "m", open, NOON).is_ok());
    assert!(table.admit("p", "m", of(1), NOON).unwrap_err().crowded);
}

#[test]
fn what_was_never_sent_counts_nowhere() {
    let mut table = table(&[(which(Per::Minute, None, None), Some(10), Some(1))], NOON);
    let hold = table.admit("p", "m", of(5), NOON).unwrap();
    assert_eq!(table.admit("p", "m", of(1), NOON).unwrap_err().counts, Counts::Requests);
    table.cancel(&hold, of(5));
    assert_eq!(used(&table), (0, 0));
    assert!(table.admit("p", "m", of(5), NOON).is_ok());
}

#[test]
fn a_budget_counts_what_it_names_and_all_must_have_room() {
    let rows = [
        (which(Per::Day, Some("a"), None), Some(100), None),
        (which(Per::Day, None, Some("big-*")), None, Some(1)),
        (which(Per::Hour, None, None), Some(500), None),
    ];
    let mut table = table(&rows, NOON);
    assert_eq!(table.admit("a", "small", of(90), NOON).unwrap().len(), 2);
    assert_eq!(table.admit("b", "small", of(90), NOON).unwrap().len(), 1);
    // A provider may take a name in any case.
    assert_eq!(table.admit("b", "BIG-x", of(90), NOON).unwrap().len(), 2);
    // One without room holds nothing of the others.
    let before = table.standing();
    assert_eq!(table.admit("a", "big-y", of(1), NOON).unwrap_err().which, rows[1].0);
    assert_eq!(table.admit("a", "x", of(50), NOON).unwrap_err().which, rows[0].0);
    assert_eq!(table.standing(), before);
}

#[test]
fn a_window_gives_way_to_a_later_one_only() {
    let mut table = table(&[(which(Per::Minute, None, None), Some(100), Some(2))], NOON);
    let long = table.admit("p", "m", of(60), NOON + 5).unwrap();
    // Set back by a day: the same window, with its count.
    assert!(table.admit("p", "m", of(60), NOON - 86_400).unwrap_err().crowded);
    assert_eq!(table.standing()[0].ends, NOON + 60);
    assert!(table.admit("p", "m", of(60), NOON + 59).is_err());
    assert!(table.admit("p", "m", of(60), NOON + 60).is_ok());
    // A request that began in the minute before counts there.
    table.settle(&long, of(60), 60);
    assert_eq!(used(&table), (60, 1));
    assert!(table.admit("p", "m", of(60), NOON + 30).unwrap_err().crowded);
}

#[test]
fn other_limits_keep_the_count_and_so_does_one_that_comes_back() {
    let (one, two) = (which(Per::Day, None, None), which(Per::Day, Some("a"), None));
    let mut table = table(&[(one.clone(), Some(100), None), (two.clone(), Some(10), None)], NOON);
    let hold = table.admit("a", "m", of(8), NOON).unwrap();
    table.configure(vec![(one.clone(), limits(&one, Some(200), Some(5)))], NOON);
    assert_eq!((table.standing().len(), used(&table)), (1, (8, 1)));
    table.settle(&hold, of(8), 9);
    table.configure(vec![(two.clone(), limits(&two, Some(10), None))], NOON);
    assert_eq!(used(&table), (9, 1));
    // By the next day the removed budget's count is dropped.
    table.roll(NOON + 86_400);
    assert_eq!((table.kept().len(), used(&table)), (1, (0, 0)));
    assert!(!table.is_empty());
    table.configure(Vec::new(), NOON + 86_400);
    assert!(table.is_empty());
}

#[test]
fn what_was_held_when_it_was_killed_is_used() {
    let mut first = day(100);
    first.admit("p", "m", of(70), NOON).unwrap();
    let mut second = day(100);
    second.restore(first.kept(), NOON);
    assert_eq!(used(&second), (70, 1));
    // It may have come to more than was counted.
    let mut open = day(100);
    open.admit("p", "m", Estimate { beyond: 20, ..of(70) }, NOON).unwrap();
    assert_eq!((used(&open), open.kept()[0].tokens), ((70, 1), 90));
    // Nobody is in flight: one alone may have the rest.
    assert!(second.admit("p", "m", of(70), NOON).is_ok());
    let mut later = day(100);
    later.restore(first.kept(), NOON + 86_400);
    assert_eq!(used(&later), (0, 0));
    // Killed, and the clock set back meanwhile.
    let mut back = table(&[(which(Per::Day, None, None), Some(100), None)], NOON - 86_400);
    back.restore(first.kept(), NOON - 86_400);
    assert_eq!(used(&back), (70, 1));
}

proptest! {
    /// Whatever comes and goes, used and held tokens exceed a limit by those of one request at most, which
    /// was alone when it was admitted.
    #[test]
    fn limits_hold(steps in proptest::collection::vec((0u8..4, 1u64..400), 1..200)) {
        let mut table = day(1000);
        let mut flying: Vec<(Vec<Hold>, u64)> = Vec::new();
        for (step, tokens) in steps {
            if step < 2 {
                let before = used(&table).0;
                let alone = flying.is_empty();
                if let Ok(hold) = table.admit("p", "m", of(tokens), NOON) {
                    prop_assert!(before < 1000);
                    prop_assert!(alone || before + tokens <= 1000);
                    flying.push((hold, tokens));
                }
            } else if let Some((hold, held)) = flying.pop() {
                if step == 2 { table.settle(&hold, of(held), tokens.min(held)) } else { table.cancel(&hold, of(held)) }
            }
        }
        for (hold, held) in flying { table.settle(&hold, of(held), held) }
        let left: u64 = table.rows.iter().map(|row| row.held + row.in_flight + row.beyond).sum();
        prop_assert_eq!(left, 0);
    }
}
