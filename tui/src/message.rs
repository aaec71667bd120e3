//! What can happen to the model, and what it can want done.

use crate::facts::{Answer, Candidate, Condition, Figure, Happening, Part, Question};
use crate::keys::Press;
use crate::text::Text;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A key was pressed.
    Press(Press),
    /// The terminal has this size from now on.
    Resize {
        /// Characters a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// The present state is being drawn.
    Drawing,
    /// What was being drawn is on the terminal. An answer can be confirmed only after what it is for has been
    /// visible.
    Drawn,
    /// These sandboxes run.
    Candidates(Vec<Candidate>),
    /// The sandbox reported its condition, so it can be reached.
    Condition(Condition),
    /// Its actors, from the root on.
    Tree(Vec<Part>),
    /// All its questions.
    Questions(Vec<Question>),
    /// Its figures.
    Figures(Vec<Figure>),
    /// Something happened in it.
    Happened(Happening),
    /// This many events were missed, since we read too slowly.
    Missed(u64),
    /// The sandbox can't be reached, for this reason; it is tried again.
    Away(Text),
    /// The outcome of an answer that was given.
    Answered {
        /// Id of the question.
        id: String,
        /// The question's new state in words, or why the answer wasn't accepted.
        outcome: Result<Text, Text>,
    },
}

/// Something is to be done outside the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Watch this sandbox.
    Watch(String),
    /// Give the sandbox the operator's answer.
    Answer {
        /// Id of the question.
        id: String,
        /// The answer.
        answer: Answer,
    },
    /// Draw again: what is to be shown has changed by what has been drawn.
    Redraw,
    /// Give the terminal back to the shell until we are told to go on.
    Suspend,
    /// End.
    Quit,
}
