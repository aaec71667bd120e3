//! The decisions, case by case; the comparison with the slow matcher is in `tests/reference.rs`.
