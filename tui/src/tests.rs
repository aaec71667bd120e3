//! Tests of the whole, from messages to what is on the screen.

mod answers;
mod shown;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use crate::facts::{Agent, Answer, Candidate, Condition, Figure, Happening, Part, Question, Standing, Tone};
use crate::keys::{BINDINGS, Press};
use crate::message::{Effect, Message};
use crate::model::Model;
use crate::screen::Screen;
use crate::text::{Text, columns};
use crate::watch::EVENTS_KEPT;

/// A model on a screen of its own.
struct Desk {
    model: Model,
    size: (u16, u16),
}

impl Desk {
    fn of(mut model: Model, size: (u16, u16)) -> Self {
        model.update(Message::Resize { columns: size.0, rows: size.1 });
        Self { model, size }
    }

    fn watching(size: (u16, u16)) -> Self {
        let mut desk = Self::of(Model::watching("assistant", true), size);
        desk.tell(Message::Condition(condition()));
        desk
    }

    /// Something happens, and all is drawn.
    fn tell(&mut self, message: Message) -> Option<Effect> {
        let effect = self.model.update(message);
        self.draw();
        effect
    }

    fn draw(&mut self) {
        self.model.update(Message::Drawing);
        self.model.update(Message::Drawn);
    }

    fn press(&mut self, keys: &str) -> Option<Effect> {
        keys.chars().map(|c| self.tell(Message::Press(Press::Char(c)))).last().flatten()
    }

    fn key(&mut self, key: Press) -> Option<Effect> {
        self.tell(Message::Press(key))
    }

    fn lines(&self) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(self.size.0, self.size.1)).unwrap();
        terminal.draw(|frame| self.model.draw(frame.area(), frame.buffer_mut())).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..self.size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..self.size.1).map(line).collect()
    }

    fn screen(&self) -> String {
        self.lines().join("\n")
    }

    #[track_caller]
    fn sees(&self, text: &str) {
        assert!(self.screen().contains(text), "no {text:?} in\n{}", self.screen());
    }

    #[track_caller]
    fn sees_not(&self, text: &str) {
        assert!(!self.screen().contains(text), "{text:?} in\n{}", self.screen());
    }

    /// Presses the keys that lead to another pane.
    fn to(&mut self, pane: &str) {
        let tabs =
            ["approvals", "events", "actors", "agents", "metrics"].iter().position(|it| *it == pane).unwrap();
        for _ in 0..tabs {
            self.key(Press::Tab);
        }
    }
}

fn condition() -> Condition {
    Condition {
        state: Text::new("running"),
        tone: Tone::Good,
        up: Text::new("3h 2m"),
        generation: 4,
        missing: Vec::new(),
        agents: vec![Agent {
            name: Text::new("hermes"),
            state: Text::new("running"),
            tone: Tone::Good,
            up: Text::new("1h 1m"),
            restarts: 7,
            about: Text::new("pid 3 inside, healthy"),
        }],
    }
}

fn question(number: u32, standing: Standing) -> Question {
    Question {
        id: format!("assistant-{number}"),
        standing,
        held: u64::from(standing == Standing::Held),
        asked: 2,
        host: Text::new("api.example.com"),
        port: 443,
        method: Text::new("GET"),
        path: Text::new(&format!("/v1/{number}")),
        program: Text::new("/usr/bin/curl"),
        sha256: Text::new(&"ab".repeat(32)),
        generation: 4,
    }
}

fn event(what: &str) -> Happening {
    Happening {
        at: Text::new("12:03:04"),
        tone: Tone::Bad,
        word: Text::new("denied"),
        what: Text::new(what),
        record: vec![
            (Text::new("host"), Text::new("evil.example.com")),
            (Text::new("detail"), Text::new(what)),
        ],
    }
}

const WIDE: (u16, u16) = (120, 40);

fn candidates(many: usize) -> Vec<Candidate> {
    (0..many).map(|n| Candidate { name: format!("box-{n}"), about: vec![Text::new("running")] }).collect()
}
