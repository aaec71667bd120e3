//! Positions in a list that changes: which row is chosen, and which rows are visible.

/// Returns the row that a move from `from` leads to, among `rows` rows and with `page` of them a page.
pub(crate) fn moved(from: usize, step: Step, rows: usize, page: usize) -> usize {
    let last = rows.saturating_sub(1);
    let page = page.max(1);
    match step {
        Step::Up => from.saturating_sub(1),
        Step::Down => from.saturating_add(1),
        Step::PageUp => from.saturating_sub(page),
        Step::PageDown => from.saturating_add(page),
        Step::First => 0,
        Step::Last => last,
    }
    .min(last)
}

/// A move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// Returns the first visible row, such that the chosen one is visible: in the middle, except at the list's
/// ends.
pub(crate) fn first_in_sight(chosen: usize, rows: usize, height: usize) -> usize {
    chosen.saturating_sub(height / 2).min(rows.saturating_sub(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_row_is_always_in_sight() {
        for rows in 0..12 {
            for height in 1..8 {
                for chosen in 0..rows {
                    let first = first_in_sight(chosen, rows, height);
                    assert!((first..first + height).contains(&chosen), "{chosen} of {rows} in {height}");
                    assert!(first == 0 || first + height <= rows);
                }
            }
        }
        assert_eq!(moved(3, Step::Down, 4, 9), 3);
        assert_eq!(moved(0, Step::Up, 0, 9), 0);
        assert_eq!(moved(0, Step::PageDown, 30, 9), 9);
    }
}
