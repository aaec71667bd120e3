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
    /// All that there is by now is being drawn.
    Drawing,
    /// What was being drawn stands on the terminal: what is confirmed must have been in sight.
    Drawn,
    /// These sandboxes run.
    Candidates(Vec<Candidate>),
    /// The sandbox told its condition: it is there.
    Condition(Condition),
    /// Its actors, from the root on.
    Tree(Vec<Part>),
    /// All its questions.
    Questions(Vec<Question>),
    /// Its figures.
    Figures(Vec<Figure>),
    /// Something happened in it.
    Happened(Happening),
    /// So many things happened that we were too slow to hear of.
    Missed(u64),
    /// It tells nothing any more, for this reason; it is asked again.
    Away(Text),
    /// The operator's word has arrived, and this is what came of it.
    Answered {
        /// Of which question.
        id: String,
        /// What it is now in words, or why not.
        outcome: Result<Text, Text>,
    },
}

/// Something is to be done outside the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Watch this sandbox.
    Watch(String),
    /// Tell the sandbox the operator's word.
    Answer {
        /// On which question.
        id: String,
        /// What it is.
        answer: Answer,
    },
    /// Draw again: what has been drawn changes what is said of it.
    Redraw,
    /// Give the terminal back to the shell until we are told to go on.
    Suspend,
    /// End.
    Quit,
}
