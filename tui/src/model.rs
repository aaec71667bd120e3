//! The whole state of the terminal UI. It changes by [`Model::update`] alone.

use crate::facts::Candidate;
use crate::theme::Theme;
use crate::watch::Watch;

/// The largest size that is drawn, in columns and rows: what lies beyond stays empty. Any program on the
/// terminal may set any size, and each cell costs memory.
pub const LARGEST: (u16, u16) = (1000, 400);

/// The state.
#[derive(Debug, Clone)]
pub struct Model {
    /// Columns and rows.
    pub(crate) size: (u16, u16),
    pub(crate) theme: Theme,
    pub(crate) stage: Stage,
}

/// What is shown.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Several sandboxes run.
    Choosing(Choice),
    /// One of them.
    Watching(Box<Watch>),
}

/// The sandboxes to choose from.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub candidates: Vec<Candidate>,
    /// Name of the chosen sandbox, and not its row: rows come and go.
    pub chosen: Option<String>,
    pub help: Option<crate::dialog::Sheet>,
}

impl Choice {
    pub(crate) fn row(&self) -> usize {
        self.candidates.iter().position(|it| Some(&it.name) == self.chosen.as_ref()).unwrap_or(0)
    }
}

impl Model {
    /// Lets the operator choose among sandboxes.
    #[must_use]
    pub fn choosing(candidates: Vec<Candidate>, colours: bool) -> Self {
        let chosen = candidates.first().map(|candidate| candidate.name.clone());
        Self::new(Stage::Choosing(Choice { candidates, chosen, help: None }), colours)
    }

    /// Watches a sandbox.
    #[must_use]
    pub fn watching(name: &str, colours: bool) -> Self {
        Self::new(Stage::Watching(Box::new(Watch::new(name))), colours)
    }

    fn new(stage: Stage, colours: bool) -> Self {
        Self { size: (80, 24), theme: Theme { colours }, stage }
    }
}
