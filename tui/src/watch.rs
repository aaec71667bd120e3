//! The state of watching one sandbox: what the sandbox reported, and what the operator has chosen. Keeps a
//! bounded number of events.

use std::collections::VecDeque;

use crate::dialog::Dialog;
use crate::facts::{Condition, Figure, Happening, Part, Question, Standing};
use crate::list::{Step, moved};
use crate::text::Text;

/// Maximal number of events that are kept: some pages of them. Older ones are in the audit log.
pub const EVENTS_KEPT: usize = 500;

/// The panes, in the order that Tab goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pane {
    Approvals,
    Events,
    Tree,
    Agents,
    Figures,
}

pub(crate) const PANES: [Pane; 5] = [Pane::Approvals, Pane::Events, Pane::Tree, Pane::Agents, Pane::Figures];

impl Pane {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Approvals => "approvals",
            Self::Events => "events",
            Self::Tree => "actors",
            Self::Agents => "agents",
            Self::Figures => "metrics",
        }
    }

    /// Returns the pane that is `by` places further on.
    pub(crate) fn further(self, by: usize) -> Self {
        let at = PANES.iter().position(|pane| *pane == self).unwrap_or(0);
        *PANES.get((at + by) % PANES.len()).unwrap_or(&self)
    }
}

/// A note on the bottom line: the outcome of what was done last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub text: String,
    pub is_bad: bool,
}

/// A sandbox that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub name: Text,
    /// `None` until the sandbox has reported it once.
    pub condition: Option<Condition>,
    /// Why the sandbox can't be reached at the moment.
    pub away: Option<Text>,
    pub tree: Vec<Part>,
    /// Sorted: those that want an answer come first.
    pub questions: Vec<Question>,
    pub figures: Vec<Figure>,
    /// The newest last.
    pub events: VecDeque<Happening>,
    /// How many events there were before those that are kept.
    pub forgotten: u64,
    pub missed: u64,
    pub pane: Pane,
    /// The chosen question's id: rows come and go, what was chosen stays.
    pub question: Option<String>,
    /// The chosen event, counted from the first that ever came; none: always the newest.
    pub event: Option<u64>,
    pub part: usize,
    pub agent: usize,
    pub figure: usize,
    pub dialog: Option<Dialog>,
    pub note: Option<Note>,
    /// The question that we have answered last.
    pub answered: Option<String>,
}

impl Watch {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: Text::new(name),
            condition: None,
            away: None,
            tree: Vec::new(),
            questions: Vec::new(),
            figures: Vec::new(),
            events: VecDeque::new(),
            forgotten: 0,
            missed: 0,
            pane: Pane::Approvals,
            question: None,
            event: None,
            part: 0,
            agent: 0,
            figure: 0,
            dialog: None,
            note: None,
            answered: None,
        }
    }

    pub(crate) fn agents(&self) -> &[crate::facts::Agent] {
        self.condition.as_ref().map_or(&[], |condition| &condition.agents)
    }

    pub(crate) fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Approvals => self.questions.len(),
            Pane::Events => self.events.len(),
            Pane::Tree => self.tree.len(),
            Pane::Agents => self.agents().len(),
            Pane::Figures => self.figures.len(),
        }
    }

    /// The chosen row of a pane.
    pub(crate) fn chosen(&self, pane: Pane) -> usize {
        let last = self.rows(pane).saturating_sub(1);
        match pane {
            Pane::Approvals => {
                self.questions.iter().position(|q| Some(&q.id) == self.question.as_ref()).unwrap_or(0)
            }
            Pane::Events => self
                .event
                .map_or(last, |event| usize::try_from(event.saturating_sub(self.forgotten)).unwrap_or(last)),
            Pane::Tree => self.part,
            Pane::Agents => self.agent,
            Pane::Figures => self.figure,
        }
        .min(last)
    }

    pub(crate) fn choose(&mut self, step: Step, page: usize) {
        let (pane, rows) = (self.pane, self.rows(self.pane));
        let row = moved(self.chosen(pane), step, rows, page);
        match pane {
            Pane::Approvals => self.question = self.questions.get(row).map(|question| question.id.clone()),
            // At the end, the choice follows new events.
            Pane::Events => self.event = (row + 1 < rows).then(|| self.forgotten + row as u64),
            Pane::Tree => self.part = row,
            Pane::Agents => self.agent = row,
            Pane::Figures => self.figure = row,
        }
    }

    pub(crate) fn chosen_question(&self) -> Option<&Question> {
        self.questions.get(self.chosen(Pane::Approvals))
    }

    /// Adds an event, and forgets the oldest if there are too many.
    pub(crate) fn hear(&mut self, event: Happening) {
        if self.events.len() >= EVENTS_KEPT {
            self.events.pop_front();
            self.forgotten += 1;
        }
        self.events.push_back(event);
    }

    /// Replaces all questions.
    pub(crate) fn ask(&mut self, mut questions: Vec<Question>) {
        // A stable sort: within a rank, the sandbox's order is kept.
        questions.sort_by_key(|question| question.standing.rank());
        self.questions = questions;
        self.move_on();
    }

    /// Chooses the first question if the chosen one is gone, or if we have answered it and no request waits
    /// for it any more.
    pub(crate) fn move_on(&mut self) {
        let chosen = self.question.as_ref().and_then(|id| self.questions.iter().find(|q| q.id == *id));
        if chosen.is_none_or(|q| q.standing != Standing::Held && self.answered.as_ref() == Some(&q.id)) {
            self.answered = None;
            self.question = self.questions.first().map(|question| question.id.clone());
        }
    }

    /// How many questions want an answer.
    pub(crate) fn open(&self) -> usize {
        self.questions.iter().filter(|question| question.standing.is_open()).count()
    }

    pub(crate) fn say(&mut self, text: impl Into<String>) {
        self.note = Some(Note { text: text.into(), is_bad: false });
    }

    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        self.note = Some(Note { text: text.into(), is_bad: true });
    }
}
