//! The update: a pure function from a message and the state to the next state and an effect.

use crate::dialog::{Confirm, Dialog, Sheet, inside, times};
use crate::facts::{Answer, Candidate, Question};
use crate::keys::{Action, Press, action};
use crate::list::{Step, moved};
use crate::message::{Effect, Message};
use crate::model::{Choice, LARGEST, Model, Stage};
use crate::text::Text;
use crate::watch::{PANES, Pane, Watch};

/// Lines of the terminal that hold no rows: borders, headings, the lines above and below.
const NO_ROWS: u16 = 8;

impl Model {
    /// Applies a message, and returns what is to be done.
    pub fn update(&mut self, message: Message) -> Option<Effect> {
        if let Message::Resize { columns, rows } = message {
            self.size = (columns.min(LARGEST.0), rows.min(LARGEST.1));
        }
        let size = self.size;
        match &mut self.stage {
            Stage::Choosing(choice) => match choice.update(message, size)? {
                Effect::Watch(name) => {
                    self.stage = Stage::Watching(Box::new(Watch::new(&name)));
                    Some(Effect::Watch(name))
                }
                other => Some(other),
            },
            Stage::Watching(watch) => watch.update(message, size),
        }
    }
}

fn page(size: (u16, u16)) -> usize {
    size.1.saturating_sub(NO_ROWS).max(1).into()
}

fn step(action: Action) -> Option<Step> {
    Some(match action {
        Action::Up => Step::Up,
        Action::Down => Step::Down,
        Action::PageUp => Step::PageUp,
        Action::PageDown => Step::PageDown,
        Action::First => Step::First,
        Action::Last => Step::Last,
        _ => return None,
    })
}

impl Choice {
    fn update(&mut self, message: Message, size: (u16, u16)) -> Option<Effect> {
        match message {
            Message::Candidates(candidates) => {
                self.take(candidates);
                None
            }
            Message::Press(press) => self.press(action(press)?, size),
            Message::Drawing => {
                self.help.as_mut()?.drawing(inside(size));
                None
            }
            Message::Drawn => self.help.as_mut()?.drawn(inside(size)),
            Message::Resize { .. } => {
                if let Some(sheet) = &mut self.help {
                    sheet.resize();
                }
                None
            }
            _ => None,
        }
    }

    fn take(&mut self, candidates: Vec<Candidate>) {
        self.candidates = candidates;
        if !self.candidates.iter().any(|it| Some(&it.name) == self.chosen.as_ref()) {
            self.chosen = self.candidates.first().map(|it| it.name.clone());
        }
    }

    fn press(&mut self, action: Action, size: (u16, u16)) -> Option<Effect> {
        match (action, &mut self.help) {
            (Action::Quit, _) => return Some(Effect::Quit),
            (Action::Suspend, _) => return Some(Effect::Suspend),
            (Action::Open | Action::Close | Action::Help, Some(_)) => self.help = None,
            (action, Some(sheet)) => sheet.scroll(step(action)?, inside(size)),
            (Action::Help, None) => self.help = Some(Sheet::help()),
            (Action::Open, None) => return self.chosen.clone().map(Effect::Watch),
            (action, None) => {
                let row = moved(self.row(), step(action)?, self.candidates.len(), page(size));
                self.chosen = self.candidates.get(row).map(|it| it.name.clone());
            }
        }
        None
    }
}

impl Watch {
    fn update(&mut self, message: Message, size: (u16, u16)) -> Option<Effect> {
        match message {
            Message::Press(press) => return self.press(press, size),
            Message::Resize { .. } => {
                if let Some(dialog) = &mut self.dialog {
                    dialog.sheet_mut().resize();
                }
            }
            Message::Drawing => self.dialog.as_mut()?.sheet_mut().drawing(inside(size)),
            Message::Drawn => return self.dialog.as_mut()?.sheet_mut().drawn(inside(size)),
            Message::Condition(condition) => {
                self.condition = Some(condition);
                if self.away.take().is_some() {
                    self.say("reconnected");
                }
            }
            Message::Tree(tree) => self.tree = tree,
            Message::Questions(questions) => {
                self.ask(questions);
                self.look_at_what_is_confirmed();
            }
            Message::Figures(figures) => self.figures = figures,
            Message::Happened(event) => self.hear(event),
            Message::Missed(events) => self.missed = self.missed.saturating_add(events),
            Message::Away(why) => {
                self.away = Some(why);
                if self.drop_confirm() {
                    self.warn("nothing was answered: the sandbox is not reachable at the moment");
                }
            }
            Message::Answered { id, outcome } => self.take_outcome(id, outcome),
            Message::Candidates(_) => {}
        }
        None
    }

    fn take_outcome(&mut self, id: String, outcome: Result<Text, Text>) {
        match outcome {
            Ok(now) => {
                self.say(now.to_string());
                self.answered = Some(id);
                self.move_on();
            }
            Err(why) => self.warn(format!("{}: {why}", Text::new(&id))),
        }
    }

    /// Closes the confirmation if its question has changed or is gone: an answer is for what was shown.
    fn look_at_what_is_confirmed(&mut self) {
        let Some(Dialog::Confirm(confirm)) = &self.dialog else { return };
        let now = self.questions.iter().find(|question| question.id == confirm.question.id);
        let still = now.is_some_and(|now| now.is_still(&confirm.question));
        if !still && self.drop_confirm() {
            self.warn("nothing was answered: what is asked has changed meanwhile; look again");
        }
    }

    fn drop_confirm(&mut self) -> bool {
        self.dialog.take_if(|dialog| matches!(dialog, Dialog::Confirm(_))).is_some()
    }

    fn press(&mut self, press: Press, size: (u16, u16)) -> Option<Effect> {
        let action = action(press)?;
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            _ => {}
        }
        self.note = None;
        match &mut self.dialog {
            Some(Dialog::Sheet(sheet)) => match action {
                Action::Open | Action::Close | Action::Help => self.dialog = None,
                action => sheet.scroll(step(action)?, inside(size)),
            },
            Some(Dialog::Confirm(confirm)) => match action {
                Action::Close | Action::Refuse => {
                    self.dialog = None;
                    self.say("nothing was answered");
                }
                Action::Confirm if confirm.sheet.is_read(inside(size)) => {
                    let (id, answer) = (confirm.question.id.clone(), confirm.answer);
                    self.dialog = None;
                    return Some(Effect::Answer { id, answer });
                }
                Action::Confirm => self.warn("read it to its end first: Down, PageDown"),
                action => confirm.sheet.scroll(step(action)?, inside(size)),
            },
            None => self.press_a_pane(action, size),
        }
        None
    }

    fn press_a_pane(&mut self, action: Action, size: (u16, u16)) {
        match action {
            Action::Next => self.pane = self.pane.further(1),
            Action::Previous => self.pane = self.pane.further(PANES.len() - 1),
            Action::Help => self.dialog = Some(Dialog::Sheet(Sheet::help())),
            Action::Open => {
                self.dialog = self.whole_row().map(Dialog::Sheet);
            }
            Action::Say(answer) => self.begin(answer),
            action => {
                if let Some(step) = step(action) {
                    self.choose(step, page(size));
                }
            }
        }
    }

    /// Opens the confirmation of an answer, or says why there is nothing to answer.
    fn begin(&mut self, answer: Answer) {
        if self.pane != Pane::Approvals {
            return self.warn("answers are given in the approvals' pane: Tab leads there");
        }
        if self.away.is_some() {
            return self.warn("the sandbox is not reachable at the moment, and takes no answer");
        }
        let Some(question) = self.chosen_question().cloned() else {
            return self.warn("nothing was asked");
        };
        if answer == Answer::Revoke && question.standing.is_open() {
            return self.warn("nothing was answered that could be revoked");
        }
        self.dialog = Some(Dialog::Confirm(Box::new(Confirm::new(question, answer))));
    }

    /// Returns a sheet of the whole of the chosen row.
    fn whole_row(&self) -> Option<Sheet> {
        let row = self.chosen(self.pane);
        let lines: Vec<(&str, String)> = match self.pane {
            Pane::Approvals => return self.questions.get(row).map(whole_question),
            Pane::Events => {
                let event = self.events.get(row)?;
                let lines = event.record.iter().map(|(name, value)| (name.to_string(), value.to_string()));
                return Some(Sheet::new(format!("{} {}", event.at, event.word), lines.collect()));
            }
            Pane::Tree => {
                let part = self.tree.get(row)?;
                vec![
                    ("actor", part.name.to_string()),
                    ("state", part.state.to_string()),
                    ("up", part.up.to_string()),
                    ("restarts", part.restarts.to_string()),
                    ("last failure", part.failure.to_string()),
                ]
            }
            Pane::Agents => {
                let agent = self.agents().get(row)?;
                vec![
                    ("agent", agent.name.to_string()),
                    ("state", agent.state.to_string()),
                    ("up", agent.up.to_string()),
                    ("restarts", agent.restarts.to_string()),
                    ("", agent.about.to_string()),
                ]
            }
            Pane::Figures => {
                let figure = self.figures.get(row)?;
                vec![("", figure.name.to_string()), ("", figure.value.to_string())]
            }
        };
        let lines = lines.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Sheet::new(self.pane.title(), lines))
    }
}

fn whole_question(question: &Question) -> Sheet {
    let Question { id, standing, held, asked, host, port, method, path, program, sha256, generation } =
        question;
    let lines = [
        ("state", format!("{}, {held} held now", crate::view::standing(*standing))),
        ("host", host.quoted().to_string()),
        ("port", port.to_string()),
        ("method", method.quoted().to_string()),
        ("path", path.quoted().to_string()),
        ("program", program.quoted().to_string()),
        ("sha-256", sha256.to_string()),
        ("asked", format!("{}, last under the policy's generation {generation}", times(*asked))),
    ];
    Sheet::new(Text::new(id).to_string(), lines.map(|(name, value)| (name.to_owned(), value)).into())
}
