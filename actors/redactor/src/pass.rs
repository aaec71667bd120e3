//! One pass over one window, from left to right: masks decided secrets in groups, shows what lies between
//! them as it is, and stops at the first place that only further bytes can decide. Knows nothing of streams,
//! sinks or time.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::{Context, Hit, Redactor, Scan};
use crate::known::{Found, Tail};
use crate::tokens::{self, Candidate, End, TAIL_MIN};

/// Overlapping secrets are masked as one up to this length; the next one starts a new mark.
const GROUP_MAX: usize = 16 * 1024;

/// A masked range of one group.
struct Mask {
    range: Range<usize>,
    kind: Arc<str>,
}

/// Secrets that overlap, masked together: `at..end` is decided as one.
struct Group {
    end: usize,
    masks: Vec<Mask>,
}

/// One pass over one window.
pub(crate) struct Pass<'a> {
    redactor: &'a Redactor,
    context: Context,
    window: &'a [u8],
    end: End,
    /// Beginnings of known secrets at the window's end.
    tails: Vec<Tail>,
    /// The next finds, kept as long as they lie ahead.
    known: Option<Found>,
    token: Option<Candidate>,
    scan: Scan,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(redactor: &'a Redactor, context: Context, window: &'a [u8], end: End) -> Self {
        let mut tails = redactor.known.tails(window);
        if end != End::More {
            // No more bytes: a beginning that is long enough to tell something is masked as if it were whole.
            tails.retain(|tail| window.len() - tail.at >= TAIL_MIN);
        }
        let token = tokens::find(window, 0, context.before, end);
        let mut pass =
            Self { redactor, context, window, end, tails, known: None, token, scan: Scan::default() };
        pass.known = pass.next_known(0);
        pass
    }

    /// Whether a text that is complete is shown as it is.
    pub(crate) fn finds_nothing(&self) -> bool {
        self.known.is_none() && self.token.is_none()
    }

    /// The whole window, from left to right.
    pub(crate) fn run(mut self) -> Scan {
        let mut at = 0;
        self.scan.out.reserve_exact(self.window.len());
        let decided = loop {
            let start = self.next_start(at);
            let hold = self.next_hold(at);
            match (start, hold) {
                (None, None) => break self.window.len(),
                (None, Some(hold)) => break hold,
                (Some(start), Some(hold)) if hold <= start => break hold,
                (Some(start), _) => {
                    let Some(group) = self.group(start) else { break start };
                    self.show(at..start);
                    self.mask(start, &group);
                    at = group.end;
                    self.skip_to(at);
                }
            }
        };
        self.show(at.min(decided)..decided);
        self.scan.consumed = decided;
        self.scan.held = self.window.len() - decided;
        self.scan
    }

    /// Where the next decided secret starts.
    fn next_start(&self, from: usize) -> Option<usize> {
        let token = match self.token {
            Some(Candidate::Token { at, .. }) => Some(at),
            _ => None,
        };
        let starts = [self.known.map(|found| found.start), token];
        starts.into_iter().flatten().filter(|start| *start >= from).min()
    }

    /// Where the next undecided place starts. There is none once the text has ended.
    fn next_hold(&self, from: usize) -> Option<usize> {
        if self.end != End::More {
            return None;
        }
        let undecided = match self.token {
            Some(Candidate::Undecided { at }) => Some(at),
            _ => None,
        };
        let known = self.tails.iter().map(|tail| tail.at).find(|at| *at >= from);
        let prefix = tokens::tail(self.window, from, self.context.before);
        [undecided, known, prefix].into_iter().flatten().min()
    }

    /// The next known secret, a masked tail included.
    fn next_known(&self, from: usize) -> Option<Found> {
        let whole = self.redactor.known.find(self.window, from);
        if self.end == End::More {
            return whole;
        }
        let tail = self.tails.iter().find(|tail| tail.at >= from);
        match (whole, tail) {
            (Some(whole), Some(tail)) if whole.start <= tail.at => Some(whole),
            (whole, None) => whole,
            (_, Some(tail)) => Some(Found::cut(tail.at, self.window.len())),
        }
    }

    fn kind_of(&self, found: Found) -> Arc<str> {
        if let Some(kind) = self.redactor.known.kind(found) {
            return kind;
        }
        let tail = self.tails.iter().find(|tail| tail.at == found.start);
        tail.map_or_else(|| Arc::from("secret"), |tail| Arc::clone(&tail.kind))
    }

    /// All that overlaps from `start` on; `None` if some of it is undecided.
    fn group(&self, start: usize) -> Option<Group> {
        let mut group = Group { end: start, masks: Vec::new() };
        let mut from = start;
        let token = match self.token {
            Some(Candidate::Token { at, start: masked, end, kind }) if at == start => {
                Some((masked..end, kind))
            }
            _ => None,
        };
        if let Some((range, _)) = &token {
            group.end = range.end;
        }
        let mut next = self.known.filter(|found| found.start >= start);
        while let Some(found) = next {
            let overlaps = found.start < group.end || found.start == start;
            if !overlaps || found.start - start >= GROUP_MAX {
                break;
            }
            group.end = group.end.max(found.end);
            group.masks.push(Mask { range: found.start..found.end, kind: self.kind_of(found) });
            from = from.max(found.start) + 1;
            next = self.next_known(from);
        }
        // Last, so that where both start at one place the name of the known secret is shown.
        group.masks.extend(token.map(|(range, kind)| Mask { range, kind: Arc::from(kind) }));
        let limit = group.end.min(start + GROUP_MAX);
        let open = self.end == End::More && self.tails.iter().any(|tail| (start..limit).contains(&tail.at));
        if open { None } else { Some(group) }
    }

    /// Drops finds that lie inside what is done.
    fn skip_to(&mut self, at: usize) {
        if self.known.is_some_and(|found| found.start < at) {
            self.known = self.next_known(at);
        }
        if self.token.is_some_and(|token| token.at() < at) {
            self.token = tokens::find(self.window, at, self.context.before, self.end);
        }
    }

    /// Shows a range, less what was shown before.
    fn show(&mut self, range: Range<usize>) {
        let start = range.start.max(self.context.shown);
        self.scan.out.extend_from_slice(self.window.get(start..range.end).unwrap_or_default());
    }

    /// Shows a group: its masked ranges as marks, what lies between them as it is.
    fn mask(&mut self, start: usize, group: &Group) {
        let mut masks: Vec<&Mask> = group.masks.iter().collect();
        masks.sort_by_key(|mask| mask.range.start);
        let mut at = start;
        let mut index = 0;
        while let Some(first) = masks.get(index) {
            let mut range = first.range.clone();
            index += 1;
            while let Some(next) = masks.get(index).filter(|next| next.range.start < range.end) {
                range.end = range.end.max(next.range.end);
                index += 1;
            }
            self.show(at..range.start);
            if range.end > self.context.shown {
                self.scan.out.extend_from_slice(b"[REDACTED:");
                self.scan.out.extend_from_slice(first.kind.as_bytes());
                self.scan.out.push(b']');
            }
            self.scan.hits.push(Hit { kind: Arc::clone(&first.kind), bytes: range.len() });
            at = range.end;
        }
        self.show(at..group.end);
    }
}
