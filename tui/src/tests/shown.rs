//! What is on the screen, whatever was reported and however large the screen is.

use super::*;

#[test]
fn the_first_line_tells_name_state_uptime_generation_and_missing_controls() {
    let mut desk = Desk::watching(WIDE);
    let first = |desk: &Desk| desk.lines()[0].trim_end().to_owned();
    assert_eq!(first(&desk), "assistant  running  up 3h 2m  policy generation 4  every control enforced");
    desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
    desk.tell(Message::Condition(Condition {
        missing: vec![Text::new("landlock"), Text::new("cgroup")],
        ..condition()
    }));
    assert_eq!(
        first(&desk),
        "assistant  running  1 question  MISSING: landlock, cgroup  up 3h 2m  policy generation 4"
    );
}

#[test]
fn every_pane_shows_what_was_told() {
    let mut desk = Desk::watching(WIDE);
    for nothing in ["nothing was asked", "nothing has happened since", "none"] {
        desk.sees(nothing);
    }
    let part = |name: &str, state: &str, failure: &str| Part {
        name: Text::new(name),
        state: Text::new(state),
        tone: Tone::Good,
        up: Text::new("5m 1s"),
        restarts: Text::new("3"),
        failure: Text::new(failure),
    };
    desk.tell(Message::Tree(vec![part("sandbox", "up", ""), part("├── proxy", "backoff", "panicked: boom")]));
    desk.tell(Message::Figures(vec![Figure {
        name: Text::new("decisions denied"),
        value: Text::new("42"),
        tone: Tone::Bad,
    }]));
    desk.tell(Message::Happened(event("l7 GET evil.example.com:443/x by /usr/bin/curl: no rule allows it")));
    desk.tell(Message::Questions(vec![question(1, Standing::Denied), question(2, Standing::Held)]));
    for text in [
        "├── proxy",
        "backoff",
        "5m 1s",
        "panicked",
        "decisions denied",
        "42",
        "12:03:04",
        "denied",
        "no rule allows it",
        "hermes",
        "pid 3 inside",
        "HELD (1)",
        "GET api.example.com:443/v1/2  by /usr/bin/curl",
        "approvals: 1 of 2 open",
        "2x",
    ] {
        desk.sees(text);
    }
    let lines = desk.lines();
    let at = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    assert!(at("/v1/2") < at("/v1/1"), "what waits comes first");
}

#[test]
fn enter_shows_the_whole_of_a_row_in_every_pane() {
    for (pane, text) in [
        ("approvals", "abababab"),
        ("events", "evil.example.com"),
        ("actors", "a long failure with its end"),
        ("agents", "pid 3 inside, healthy"),
        ("metrics", "tokens"),
    ] {
        let mut desk = Desk::watching((60, 20));
        desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
        desk.tell(Message::Happened(event("x")));
        let failure = Text::new(&format!("{} a long failure with its end", "x".repeat(50)));
        desk.tell(Message::Tree(vec![Part { name: Text::new("proxy"), failure, ..Part::default() }]));
        desk.tell(Message::Figures(vec![Figure { name: Text::new("tokens"), ..Figure::default() }]));
        desk.to(pane);
        desk.key(Press::Enter);
        desk.sees("Esc close");
        desk.sees(text);
        desk.key(Press::Escape);
        desk.sees_not("Esc close");
    }
}

#[test]
fn a_sandbox_that_tells_nothing_is_shown_as_away_until_it_is_back() {
    let mut desk = Desk::watching(WIDE);
    desk.tell(Message::Away(Text::new("its supervisor is restarting")));
    desk.sees("DISCONNECTED");
    desk.sees("its supervisor is restarting");
    desk.sees_not("policy generation 4");
    desk.tell(Message::Condition(condition()));
    desk.sees_not("DISCONNECTED");
    desk.sees("reconnected");
    let never = Desk::of(Model::watching("assistant", true), WIDE);
    never.sees("asking…");
}

#[test]
fn what_an_agent_wrote_does_nothing_to_the_terminal() {
    let hostile = "\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}evil\u{200b}\u{301}漢字\r\n\ty";
    let mut desk = Desk::watching(WIDE);
    let text = Text::new(hostile);
    let part = Part { name: text.clone(), state: text.clone(), failure: text.clone(), ..Part::default() };
    desk.tell(Message::Tree(vec![part]));
    desk.tell(Message::Happened(Happening {
        word: text.clone(),
        record: vec![(text.clone(), text.clone())],
        ..event(hostile)
    }));
    desk.tell(Message::Figures(vec![Figure { name: text.clone(), value: text.clone(), tone: Tone::Good }]));
    let agent = Agent { name: text.clone(), state: text.clone(), about: text.clone(), ..Agent::default() };
    desk.tell(Message::Condition(Condition {
        state: text.clone(),
        missing: vec![text.clone()],
        agents: vec![agent],
        ..condition()
    }));
    let asked = Question {
        host: text.clone(),
        path: text.clone(),
        method: text.clone(),
        program: text.clone(),
        ..question(1, Standing::Held)
    };
    desk.tell(Message::Questions(vec![asked]));
    let check = |desk: &Desk| {
        let screen = desk.screen();
        for c in ['\x1b', '\x07', '\u{9b}', '\u{202e}', '\u{200b}', '\u{301}', '\r', '\t'] {
            assert!(!screen.contains(c), "{c:?} in\n{screen}");
        }
        // Each line is as wide as the screen: nothing has moved what stands beside it. A wide character's
        // second place is a blank here.
        for line in desk.lines() {
            let wide = line.chars().filter(|c| columns(&c.to_string()) == 2).count();
            assert_eq!(columns(&line) - wide, WIDE.0.into(), "{line:?}");
        }
        // What is written is no other than what is drawn: our own escape sequences around it.
        let bytes = Screen::new().frame(&desk.model);
        let written = String::from_utf8(bytes).unwrap();
        assert!(
            !written.contains("\x1b]") && !written.contains('\u{9b}') && !written.contains('\x07'),
            "{written:?}"
        );
        assert_eq!(written.matches("\x1b[2J").count(), 1, "the one that clears the screen is ours");
    };
    check(&desk);
    desk.sees("\\u{1b}[2J");
    desk.press("a");
    check(&desk);
    desk.press("n");
    for _ in 0..5 {
        desk.key(Press::Enter);
        check(&desk);
        desk.key(Press::Escape);
        desk.key(Press::Tab);
    }
    desk.tell(Message::Away(text.clone()));
    check(&desk);
    desk.tell(Message::Answered { id: hostile.into(), outcome: Err(text) });
    check(&desk);
}

#[test]
fn a_space_in_a_name_makes_no_second_field() {
    let mut desk = Desk::watching(WIDE);
    let program = Text::new("/tmp/x    host     api.good.com ");
    desk.tell(Message::Questions(vec![Question { program, ..question(1, Standing::Held) }]));
    desk.press("a");
    desk.sees("\"/tmp/x    host     api.good.com \"");
}

#[test]
fn every_size_can_be_drawn_with_everything_open() {
    let mut sizes: Vec<(u16, u16)> = (0..30).flat_map(|w| (0..12).map(move |h| (w, h))).collect();
    sizes.extend([(59, 17), (60, 18), (61, 19), (80, 24), (200, 3), (3, 200), (300, 100)]);
    for size in sizes {
        for open in ["", "?", "a", "j"] {
            let mut desk = Desk::watching(size);
            desk.tell(Message::Questions((0..40).map(|n| question(n, Standing::Held)).collect()));
            (0..40).for_each(|n| drop(desk.tell(Message::Happened(event(&format!("event {n}"))))));
            desk.press(open);
            for _ in 0..5 {
                desk.key(Press::PageDown);
                assert_eq!(desk.lines().len(), usize::from(size.1));
                desk.key(Press::Tab);
            }
            let mut choosing = Desk::of(Model::choosing(candidates(30), false), size);
            choosing.press(open);
            choosing.key(Press::PageDown);
            choosing.screen();
        }
    }
}

#[test]
fn a_new_size_is_drawn_whole_and_an_absurd_one_is_bounded() {
    let mut desk = Desk::watching((80, 24));
    let mut screen = Screen::new();
    let first = screen.frame(&desk.model);
    assert!(first.windows(4).any(|w| w == b"\x1b[2J"));
    let again = String::from_utf8(screen.frame(&desk.model)).unwrap();
    assert!(!again.contains("assistant") && again.len() < 64, "nothing has changed: {again:?}");
    desk.tell(Message::Resize { columns: 100, rows: 30 });
    assert!(String::from_utf8(screen.frame(&desk.model)).unwrap().contains("assistant"));
    screen.forget();
    assert!(String::from_utf8(screen.frame(&desk.model)).unwrap().contains("assistant"));
    desk.tell(Message::Resize { columns: u16::MAX, rows: u16::MAX });
    assert!(screen.frame(&desk.model).len() < 4 << 20);
}

#[test]
fn events_are_kept_to_a_number_and_those_in_sight_stay() {
    let mut desk = Desk::watching((100, 12));
    desk.to("events");
    for n in 0..EVENTS_KEPT + 50 {
        desk.tell(Message::Happened(event(&format!("event-{n}."))));
    }
    desk.sees(&format!("event-{}.", EVENTS_KEPT + 49));
    desk.key(Press::Up);
    desk.sees("held, End goes on");
    for n in 0..20 {
        desk.tell(Message::Happened(event(&format!("later-{n}."))));
    }
    desk.sees(&format!("event-{}.", EVENTS_KEPT + 48));
    desk.sees_not("later-19.");
    desk.key(Press::End);
    desk.sees("later-19.");
    desk.key(Press::Home);
    desk.sees("event-70.");
    desk.sees_not("event-69.");
    desk.tell(Message::Missed(3));
    desk.sees("3 were missed");
}

#[test]
fn a_small_terminal_shows_one_pane_and_tab_the_next() {
    let mut desk = Desk::watching((50, 12));
    for pane in ["approvals", "events", "actors", "agents", "metrics", "approvals"] {
        desk.sees(&format!(" {pane} "));
        desk.key(Press::Tab);
    }
    desk.key(Press::BackTab);
    desk.key(Press::BackTab);
    desk.sees(" metrics ");
}

#[test]
fn the_help_names_every_key_and_the_ending_keys_end_it_from_everywhere() {
    let mut desk = Desk::watching(WIDE);
    desk.press("?");
    for binding in BINDINGS {
        desk.sees(binding.names);
        desk.sees(binding.does);
    }
    for open in ["", "?", "a"] {
        for key in [Press::Char('q'), Press::Ctrl('c')] {
            let mut desk = Desk::watching(WIDE);
            desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
            desk.press(open);
            assert_eq!(desk.key(key), Some(Effect::Quit));
        }
        assert_eq!(Desk::watching(WIDE).key(Press::Ctrl('z')), Some(Effect::Suspend));
    }
}

#[test]
fn a_sandbox_is_chosen_from_a_list_that_may_change() {
    let mut desk = Desk::of(Model::choosing(candidates(3), true), (80, 24));
    desk.sees("which sandbox?");
    desk.sees("box-2");
    desk.press("j");
    // The one above it has ended.
    desk.tell(Message::Candidates(candidates(3).split_off(1)));
    assert_eq!(desk.key(Press::Enter), Some(Effect::Watch("box-1".into())));
    desk.sees_not("which sandbox?");
    desk.sees("box-1");
    let mut none = Desk::of(Model::choosing(Vec::new(), true), (80, 24));
    assert_eq!(none.key(Press::Enter), None);
    assert_eq!(none.press("q"), Some(Effect::Quit));
}

#[test]
fn without_colours_nothing_is_coloured() {
    let mut model = Model::watching("assistant", false);
    model.update(Message::Condition(Condition { missing: vec![Text::new("landlock")], ..condition() }));
    model.update(Message::Questions(vec![question(1, Standing::Held)]));
    let written = String::from_utf8(Screen::new().frame(&model)).unwrap();
    for colour in ["\x1b[38;5;1m", "\x1b[38;5;2m", "\x1b[38;5;3m", "\x1b[38;5;6m", "\x1b[31m", "\x1b[33m"] {
        assert!(!written.contains(colour), "{written:?}");
    }
}
