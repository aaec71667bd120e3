//! Answers are given only for what has been shown as a whole, and only once confirmed.

use super::*;

#[test]
fn an_answer_is_given_for_what_is_shown_once_it_is_confirmed() {
    for (key, answer, title) in [
        ("a", Answer::Once, "approve once?"),
        ("r", Answer::Run, "approve until the sandbox ends?"),
        ("g", Answer::Good, "approve for good?"),
        ("d", Answer::Deny, "deny?"),
    ] {
        let mut desk = Desk::watching(WIDE);
        desk.tell(Message::Questions(vec![question(1, Standing::Held), question(2, Standing::Held)]));
        desk.press("j");
        assert_eq!(desk.press(key), None, "nothing before the yes");
        desk.sees(title);
        for text in [
            "api.example.com",
            "443",
            "GET",
            "/v1/2",
            "/usr/bin/curl",
            &"ab".repeat(32),
            "assistant-2",
            "2 times, 1 held now",
        ] {
            desk.sees(text);
        }
        assert_eq!(desk.screen().contains("GET (and HEAD)"), matches!(answer, Answer::Run | Answer::Good));
        assert_eq!(desk.press("n"), None);
        desk.sees_not(title);
        desk.sees("nothing was answered");
        desk.press(key);
        assert_eq!(desk.press("y"), Some(Effect::Answer { id: "assistant-2".into(), answer }));
        desk.sees_not(title);
        assert_eq!(desk.press("y"), None, "once");
    }
}

#[test]
fn only_what_was_answered_is_revoked() {
    let mut desk = Desk::watching(WIDE);
    desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
    desk.press("x");
    desk.sees("nothing was answered that could be revoked");
    assert_eq!(desk.press("y"), None);
    desk.tell(Message::Questions(vec![question(1, Standing::Approved(Answer::Run))]));
    desk.press("x");
    desk.sees("revoke?");
    assert_eq!(desk.press("y"), Some(Effect::Answer { id: "assistant-1".into(), answer: Answer::Revoke }));
}

#[test]
fn a_question_that_comes_or_goes_moves_no_answer_to_another() {
    let mut desk = Desk::watching(WIDE);
    desk.tell(Message::Questions(vec![question(5, Standing::Held)]));
    desk.tell(Message::Questions(vec![question(4, Standing::Held), question(5, Standing::Waiting)]));
    desk.press("a");
    desk.sees("/v1/5");
    // Others come while it is looked at.
    desk.tell(Message::Questions(vec![
        question(3, Standing::Held),
        question(4, Standing::Held),
        question(5, Standing::Held),
    ]));
    assert_eq!(desk.press("y"), Some(Effect::Answer { id: "assistant-5".into(), answer: Answer::Once }));
}

#[test]
fn nothing_is_answered_where_what_is_asked_has_changed() {
    type Change = fn(&mut Question);
    let changes: [Change; 7] = [
        |q| q.generation = 5,
        |q| q.program = Text::new("/usr/bin/wget"),
        |q| q.sha256 = Text::new("cd"),
        |q| q.host = Text::new("evil.example.com"),
        |q| q.path = Text::new("/"),
        |q| q.standing = Standing::Denied,
        |q| q.id = "assistant-9".into(),
    ];
    for change in changes {
        let mut desk = Desk::watching(WIDE);
        desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
        desk.press("g");
        let mut other = question(1, Standing::Held);
        change(&mut other);
        desk.tell(Message::Questions(vec![other]));
        desk.sees("what is asked has changed meanwhile");
        assert_eq!(desk.press("y"), None);
    }
    // With more requests waiting, or none any more, it is the same question.
    let mut desk = Desk::watching(WIDE);
    desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
    desk.press("g");
    desk.tell(Message::Questions(vec![Question { asked: 3, held: 0, ..question(1, Standing::Waiting) }]));
    assert!(desk.press("y").is_some());
}

#[test]
fn a_path_of_any_length_must_be_read_to_its_end() {
    let mut desk = Desk::watching((60, 20));
    let path = format!("/{}{}", "a".repeat(1990), "/the-end");
    desk.tell(Message::Questions(vec![Question { path: Text::new(&path), ..question(1, Standing::Held) }]));
    desk.press("r");
    desk.sees_not("the-end");
    desk.sees("there is more");
    assert_eq!(desk.press("y"), None);
    desk.sees("read it to its end first");
    desk.key(Press::End);
    assert_eq!(desk.press("y"), None, "a jump is no reading");
    desk.press("n");
    desk.press("r");
    assert_eq!(desk.press("y"), None);
    let mut pages = String::new();
    for _ in 0..8 {
        pages.push_str(&desk.screen());
        desk.key(Press::PageDown);
    }
    let shown: String = pages.chars().filter(|c| *c == 'a').collect();
    assert!(shown.len() >= 1990, "all of it was in sight: {}", shown.len());
    assert!(desk.press("y").is_some(), "{}", desk.screen());
}

#[test]
fn a_yes_that_was_typed_before_anything_was_shown_is_none() {
    let mut desk = Desk::watching(WIDE);
    desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
    let typed_ahead = |desk: &mut Desk, keys: &str| {
        keys.chars().filter_map(|c| desk.model.update(Message::Press(Press::Char(c)))).last()
    };
    assert_eq!(typed_ahead(&mut desk, "ayyjy  y"), None);
    // Nor is one that was typed while the question was on its way to the terminal, or while an earlier frame
    // was.
    desk.model.update(Message::Drawing);
    assert_eq!(typed_ahead(&mut desk, "ny"), None);
    assert_eq!(typed_ahead(&mut desk, "a"), None);
    desk.model.update(Message::Drawn);
    assert_eq!(typed_ahead(&mut desk, "y"), None);
    desk.draw();
    desk.sees("approve once?");
    assert!(desk.press("y").is_some());
    // Nor is one that came between a new size and the frame that was drawn for it.
    desk.press("a");
    desk.model.update(Message::Resize { columns: 100, rows: 30 });
    assert_eq!(typed_ahead(&mut desk, "y"), None);
}

#[test]
fn no_yes_is_taken_where_nothing_can_be_read() {
    for size in [(1, 1), (10, 40), (80, 3), (19, 5), (0, 0)] {
        let mut desk = Desk::watching(size);
        desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
        desk.press("a");
        for _ in 0..200 {
            desk.key(Press::PageDown);
        }
        assert_eq!(desk.press("y"), None, "{size:?}");
    }
    // Nor after the window got another size: the text has to be read again.
    let mut desk = Desk::watching((60, 20));
    let path = Text::new(&"/a".repeat(1000));
    desk.tell(Message::Questions(vec![Question { path, ..question(1, Standing::Held) }]));
    desk.press("a");
    for _ in 0..8 {
        desk.key(Press::PageDown);
    }
    desk.size = (61, 20);
    desk.tell(Message::Resize { columns: 61, rows: 20 });
    assert_eq!(desk.press("y"), None);
}

#[test]
fn answers_are_given_in_their_pane_and_where_somebody_hears_them() {
    let mut desk = Desk::watching(WIDE);
    desk.press("d");
    desk.sees("nothing was asked");
    assert_eq!(desk.press("ay"), None);
    desk.tell(Message::Questions(vec![question(1, Standing::Held)]));
    desk.key(Press::Tab);
    assert_eq!(desk.press("aya"), None);
    desk.sees("answers are given in the approvals' pane");
    desk.key(Press::BackTab);
    desk.press("a");
    desk.tell(Message::Away(Text::new("its supervisor is restarting")));
    desk.sees("nothing was answered");
    assert_eq!(desk.press("y"), None);
    assert_eq!(desk.press("aya"), None);
    desk.sees("takes no answer");
}

#[test]
fn what_came_of_an_answer_is_told_and_the_next_question_is_next() {
    let mut desk = Desk::watching(WIDE);
    desk.tell(Message::Questions(vec![question(1, Standing::Held), question(2, Standing::Held)]));
    desk.press("ay");
    desk.tell(Message::Answered {
        id: "assistant-1".into(),
        outcome: Ok(Text::new("approved once: assistant-1")),
    });
    desk.sees("approved once: assistant-1");
    // Another waits for it still: then it stays chosen.
    desk.tell(Message::Questions(vec![question(1, Standing::Held), question(2, Standing::Held)]));
    desk.press("d");
    desk.sees("/v1/1");
    desk.press("n");
    desk.tell(Message::Questions(vec![
        question(1, Standing::Approved(Answer::Once)),
        question(2, Standing::Held),
    ]));
    desk.press("d");
    desk.sees("/v1/2");
    desk.press("y");
    // In the other order, too.
    desk.tell(Message::Questions(vec![question(2, Standing::Denied), question(3, Standing::Held)]));
    desk.tell(Message::Answered { id: "assistant-2".into(), outcome: Ok(Text::new("denied: assistant-2")) });
    desk.press("d");
    desk.sees("/v1/3");
    desk.press("n");
    desk.tell(Message::Answered {
        id: "assistant-2".into(),
        outcome: Err(Text::new("under another generation")),
    });
    desk.sees("assistant-2: under another generation");
}
