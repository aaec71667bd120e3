//! The documentation has what the code does: docs/limits.md has a row for each limit of this crate that
//! stands in no table of docs/inference.md.

use crate::{MAX_REST, REST, TEXT_WITHIN, budgets, probe};

macro_rules! rows {
    ($($path:path),* $(,)?) => {
        [$((stringify!($path).replace(' ', ""), format!("{:?}", $path))),*]
    };
}

#[test]
fn the_limits_have_their_rows() {
    let page = include_str!("../../../docs/limits.md");
    for (name, value) in rows![
        MAX_REST,
        REST,
        TEXT_WITHIN,
        probe::MAX_ANSWER,
        probe::MAX_NAMES,
        budgets::MAX_BUDGETS,
        budgets::MAX_LIMIT,
        budgets::MAX_KEPT,
        budgets::MAX_FILE,
        budgets::BYTES_A_TOKEN,
        budgets::UNTOLD_INPUT,
        budgets::UNTOLD_MOST,
        budgets::UNTOLD_OUTPUT,
    ] {
        let row = format!("| `{name}` | {value} |");
        assert!(page.contains(&row), "docs/limits.md lacks {row}");
    }
}

#[test]
fn inference_has_the_counts() {
    use crate::config::{MAX_PROVIDERS, MAX_ROUTES, MAX_TARGETS};
    let page = include_str!("../../../docs/inference.md");
    let counts = format!("| {MAX_PROVIDERS}, {MAX_ROUTES}, {MAX_TARGETS}, {} |", budgets::MAX_BUDGETS);
    for wanted in [
        format!("providers, routes, targets a route, budgets {counts}"),
        format!("a token for every {} bytes", budgets::BYTES_A_TOKEN),
        format!("{} more where", budgets::UNTOLD_INPUT),
        format!("are kept free instead, of which {} are counted", budgets::UNTOLD_OUTPUT),
        format!("names no maximum, {} tokens", budgets::UNTOLD_MOST),
        format!("| rest of a target that failed | {} s |", MAX_REST.as_secs()),
        format!("| error of a target that is passed over | 64 KiB, {} s |", TEXT_WITHIN.as_secs()),
    ] {
        assert!(page.contains(&wanted), "docs/inference.md lacks {wanted}");
    }
}
