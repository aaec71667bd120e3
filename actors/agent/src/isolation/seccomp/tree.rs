//! The quick way in: a binary search over the calls that have one answer whatever their arguments.
//!
//! `seccompiler` compares call numbers one after the other; with three hundred of them the kernel takes over
//! a millisecond to load the program at every start of a process, and every `open` walks most of it. Numbers
//! lie in a few dozen ranges, so a tree of comparisons finds an unconditional call in six steps. What it
//! doesn't find falls through to the program behind it.

use seccompiler::{BpfProgram, SeccompAction, sock_filter};

/// The numbers from `start` up to the next segment: all of them given, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    start: u32,
    given: bool,
}

const IF_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// Stands for "to the end of the tree" until the end is known; no true jump is that long.
const TO_THE_END: u32 = u32::MAX;

/// A program that expects the call's number in the accumulator, leaves it there, and either answers for the
/// given numbers or falls through.
pub(super) fn answer(numbers: impl IntoIterator<Item = u32>, action: SeccompAction) -> BpfProgram {
    let mut program = BpfProgram::new();
    emit(&mut program, &segments(numbers), u32::from(action));
    let length = program.len();
    for (index, step) in program.iter_mut().enumerate() {
        if step.code == JUMP && step.k == TO_THE_END {
            step.k = u32::try_from(length - index - 1).unwrap_or(0);
        }
    }
    program
}

fn segments(numbers: impl IntoIterator<Item = u32>) -> Vec<Segment> {
    let mut numbers: Vec<u32> = numbers.into_iter().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut segments = vec![Segment { start: 0, given: false }];
    for number in numbers {
        match segments.last_mut() {
            // The range goes on: its end, made for the number before, moves on by one.
            Some(end) if !end.given && end.start == number && number > 0 => end.start = number + 1,
            _ => {
                segments.push(Segment { start: number, given: true });
                segments.push(Segment { start: number + 1, given: false });
            }
        }
    }
    segments
}

/// Adds the program for these segments. Within it all jumps but [`TO_THE_END`] are relative, so that it can
/// be moved.
fn emit(program: &mut BpfProgram, segments: &[Segment], action: u32) {
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    match segments {
        [] => {}
        [one] if one.given => program.push(step(RETURN, 0, 0, action)),
        [_] => program.push(step(JUMP, 0, 0, TO_THE_END)),
        many => {
            let (low, high) = many.split_at(many.len() / 2);
            let boundary = high.first().map_or(0, |segment| segment.start);
            let comparison = program.len();
            emit(program, low, action);
            let over = program.len() - comparison;
            // Conditional jumps reach 255 steps; beyond that an unconditional one is jumped over.
            let (compared, jumped) = match u8::try_from(over) {
                Ok(over) => (step(IF_GREATER_OR_EQUAL, over, 0, boundary), None),
                Err(_) => {
                    let jump = step(JUMP, 0, 0, u32::try_from(over).unwrap_or(0));
                    (step(IF_GREATER_OR_EQUAL, 0, 1, boundary), Some(jump))
                }
            };
            program.splice(comparison..comparison, [compared].into_iter().chain(jumped));
            emit(program, high, action);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Runs the few instructions that a tree has; true = answered, false = fell off its end.
    fn run(program: &BpfProgram, number: u32) -> bool {
        let mut at = 0;
        while let Some(step) = program.get(at) {
            at += 1;
            match step.code {
                IF_GREATER_OR_EQUAL => at += usize::from(if number >= step.k { step.jt } else { step.jf }),
                JUMP => at += step.k as usize,
                RETURN => return true,
                other => panic!("{other}"),
            }
        }
        assert_eq!(at, program.len(), "a jump beyond the end");
        false
    }

    proptest! {
        #[test]
        fn exactly_the_given_numbers_are_answered(numbers in proptest::collection::btree_set(0_u32..600, 0..300)) {
            let program = answer(numbers.iter().copied(), SeccompAction::Allow);
            for number in (0..700).chain([u32::MAX, u32::MAX - 1]) {
                prop_assert_eq!(run(&program, number), numbers.contains(&number), "{}", number);
            }
        }
    }

    #[test]
    fn scattered_numbers_need_long_jumps_and_still_hold() {
        let numbers: BTreeSet<u32> = (0..2000).map(|n| n * 2).collect();
        let program = answer(numbers.iter().copied(), SeccompAction::Allow);
        for number in 0..4100 {
            assert_eq!(run(&program, number), numbers.contains(&number), "{number}");
        }
    }
}
