use super::*;
use crate::types::ApprovalState;

const ROOT: u32 = 0;

fn book(hold: Duration) -> Approvals {
    Approvals::new("my-box", hold, Kept::default())
}

fn asked(path: &str) -> Asked {
    Asked {
        host: "api.example.com".into(),
        port: 443,
        method: "GET".into(),
        path: path.into(),
        binary: "/usr/bin/curl".into(),
        sha256: "ab".repeat(32),
    }
}

/// Asks in a task, and waits until it is held.
async fn held(book: &Approvals, path: &str, generation: u64) -> tokio::task::JoinHandle<Word> {
    let before: u64 = book.list().iter().map(|question| question.held).sum();
    let (asker, what) = (book.clone(), asked(path));
    let asking = tokio::spawn(async move { asker.ask(what, (generation, false), drop).await });
    let mut changes = book.changes();
    while book.list().iter().map(|question| question.held).sum::<u64>() == before {
        changes.changed().await.unwrap();
    }
    asking
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn once_lets_one_request_through_and_the_one_that_waits_longest() {
    let book = book(LONG);
    let first = held(&book, "/a", 1).await;
    let second = held(&book, "/a", 1).await;
    assert_eq!(book.list().len(), 1, "one question");
    let (id, _, _) = book.find("my-box-1").unwrap();
    let shown = book.approve_once(id, 1, ROOT).unwrap();
    assert_eq!(first.await.unwrap(), Word::Once);
    assert_eq!((shown.state, shown.held, shown.asked), (ApprovalState::Held, 1, 2), "the other waits on");
    second.abort();
    assert!(second.await.is_err());
    assert_eq!((book.pending(), book.list()[0].state), (0, ApprovalState::Waiting));
    // No request waits: the approval is for the next one, and no other.
    book.approve_once(id, 1, ROOT).unwrap();
    assert_eq!(book.list()[0].state, ApprovalState::Approved);
    assert_eq!(book.ask(asked("/a"), (1, false), drop).await, Word::Once);
    let third = held(&book, "/a", 1).await;
    assert_eq!(book.pending(), 1);
    third.abort();
}

#[tokio::test]
async fn an_approval_is_of_the_generation_that_it_was_asked_under() {
    let book = book(Duration::from_millis(1));
    assert_eq!(book.ask(asked("/a"), (1, false), drop).await, Word::Unanswered(1));
    assert_eq!(book.approve_once(1, 2, ROOT).unwrap_err(), Refused::Outdated);
    book.approve_once(1, 1, ROOT).unwrap();
    assert_eq!(book.ask(asked("/a"), (2, true), drop).await, Word::Unanswered(1), "the policy changed since");
    assert_eq!(book.list()[0].asked, 1, "it is the same request");
    assert_eq!(
        book.ask(asked("/a"), (1, false), drop).await,
        Word::Unanswered(1),
        "and it isn't kept for later"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_taken_changes_none_that_was() {
    let book = book(Duration::from_millis(1));
    book.ask(asked("/a"), (1, false), drop).await;
    book.settle(1, Scope::Run, Rule::default(), ROOT).unwrap();
    for generation in [1, 2] {
        assert_eq!(book.approve_once(1, generation, ROOT).unwrap_err(), Refused::Approved);
    }
    assert_eq!((book.approved().len(), book.list()[0].state), (1, ApprovalState::Approved));
    book.deny(1, ROOT).unwrap();
    assert_eq!(book.approve_once(1, 2, ROOT).unwrap_err(), Refused::Outdated);
    assert_eq!(book.list()[0].state, ApprovalState::Denied);
    assert_eq!(book.ask(asked("/a"), (2, false), drop).await, Word::Denied(1));
}

/// An agent that floods the book pushes no approval out of it.
#[tokio::test]
async fn what_was_approved_once_is_kept_for_its_request() {
    let book = book(Duration::from_millis(1));
    book.ask(asked("/a"), (1, false), drop).await;
    book.approve_once(1, 1, ROOT).unwrap();
    for n in 0..2 * MAX_QUESTIONS {
        let asker = book.clone();
        let asking = tokio::spawn(async move { asker.ask(asked(&format!("/{n}")), (1, false), drop).await });
        tokio::task::yield_now().await;
        asking.abort();
        let _ = asking.await;
    }
    assert_eq!(book.ask(asked("/a"), (1, false), drop).await, Word::Once);
}

#[tokio::test]
async fn another_program_content_method_or_path_is_another_question() {
    let book = book(Duration::from_millis(1));
    let base = asked("/a");
    let others = [
        Asked { sha256: "cd".repeat(32), ..base.clone() },
        Asked { binary: "/usr/bin/wget".into(), ..base.clone() },
        Asked { method: "POST".into(), ..base.clone() },
        Asked { path: "/b".into(), ..base.clone() },
        Asked { port: 80, ..base.clone() },
        Asked { host: "b.example.com".into(), ..base.clone() },
    ];
    book.ask(base, (1, false), drop).await;
    book.approve_once(1, 1, ROOT).unwrap();
    for (n, other) in others.into_iter().enumerate() {
        assert_eq!(book.ask(other, (1, false), drop).await, Word::Unanswered(n as u64 + 2));
    }
}

#[tokio::test]
async fn who_waits_is_told_of_every_answer_and_no_is_no() {
    let book = book(LONG);
    let waiting = [held(&book, "/a", 1).await, held(&book, "/a", 1).await];
    assert_eq!(book.deny(1, 7).unwrap().answered_by, Some(7));
    for asking in waiting {
        assert_eq!(asking.await.unwrap(), Word::Denied(1));
    }
    assert_eq!(book.ask(asked("/a"), (1, false), drop).await, Word::Denied(1));
    assert_eq!(book.ask(asked("/a"), (2, false), drop).await, Word::Denied(1), "whatever the policy is");
    assert_eq!(book.revoke(1).unwrap().state, ApprovalState::Denied);
    assert_eq!(book.revoke(1).unwrap_err(), Refused::Unknown);
    let again = held(&book, "/a", 1).await;
    assert_eq!(book.list()[0].id, "my-box-2", "no id is given twice");
    assert_eq!(book.revoke(2).unwrap_err(), Refused::Unanswered);
    let rule = Rule { method: None, path: Some("/**".into()) };
    let shown = book.settle(2, Scope::Run, rule.clone(), ROOT).unwrap();
    assert_eq!((shown.scope, &*shown.path), (Some(Scope::Run), "/**"));
    assert_eq!(again.await.unwrap(), Word::Again);
    assert_eq!(book.approved(), [(2, asked("/a"), rule)]);
    // The policy doesn't have the entry after all: no request is held for an answer that was given already.
    assert_eq!(book.ask(asked("/a"), (1, false), drop).await, Word::Unanswered(2));
}

#[tokio::test]
async fn the_book_is_bounded_and_no_answer_is_forgotten_for_a_question() {
    let book = book(Duration::from_millis(1));
    book.ask(asked("/denied"), (1, false), drop).await;
    book.deny(1, ROOT).unwrap();
    let patient = Approvals::new("my-box", LONG, book.kept());
    let held = held(&patient, "/held", 1).await;
    for n in 0..2 * MAX_QUESTIONS {
        let asker = patient.clone();
        let asking = tokio::spawn(async move { asker.ask(asked(&format!("/{n}")), (1, false), drop).await });
        tokio::task::yield_now().await;
        asking.abort();
        let _ = asking.await;
    }
    let list = patient.list();
    assert_eq!(list.len(), MAX_QUESTIONS);
    assert!(list.iter().any(|question| question.state == ApprovalState::Denied));
    assert_eq!(patient.pending(), 1);
    held.abort();
}

/// An operator who refuses everything is still asked about what comes next. For that, the refusal that was
/// asked for longest ago is forgotten.
#[tokio::test]
async fn a_book_full_of_refusals_has_room_for_a_question() {
    let book = book(Duration::from_millis(1));
    for n in 0..MAX_QUESTIONS {
        let Word::Unanswered(id) = book.ask(asked(&format!("/{n}")), (1, false), drop).await else {
            panic!()
        };
        match n {
            0 => drop(book.settle(id, Scope::Run, Rule::default(), ROOT).unwrap()),
            _ => drop(book.deny(id, ROOT).unwrap()),
        }
    }
    assert_eq!(book.ask(asked("/1"), (1, false), drop).await, Word::Denied(2), "asked for again");
    let next = MAX_QUESTIONS as u64 + 1;
    assert_eq!(book.ask(asked("/next"), (1, false), drop).await, Word::Unanswered(next));
    assert_eq!(book.list().len(), MAX_QUESTIONS);
    assert_eq!(book.approved().len(), 1);
    assert_eq!(book.ask(asked("/1"), (1, false), drop).await, Word::Denied(2));
    assert_eq!(book.find("my-box-3").unwrap_err(), Refused::Unknown, "the one asked for longest ago");
    assert_eq!(book.ask(asked("/2"), (1, false), drop).await, Word::Unanswered(next + 1));
}

#[tokio::test]
async fn with_everything_held_or_answered_the_next_is_refused_at_once() {
    let book = book(LONG);
    let mut asking = Vec::new();
    for n in 0..MAX_QUESTIONS {
        asking.push(held(&book, &format!("/{n}"), 1).await);
    }
    assert_eq!(book.ask(asked("/one-more"), (1, false), drop).await, Word::Full);
    asking.into_iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn what_is_kept_comes_back_and_only_what_is_for_good_in_another_run() {
    let book = book(Duration::from_millis(1));
    for path in ["/open", "/denied", "/run", "/good"] {
        book.ask(asked(path), (3, false), drop).await;
    }
    book.deny(2, ROOT).unwrap();
    book.settle(3, Scope::Run, Rule::default(), ROOT).unwrap();
    book.settle(4, Scope::Good, Rule::default(), ROOT).unwrap();
    let text = serde_json::to_string(&book.kept()).unwrap();
    let kept: Kept = serde_json::from_str(&text).unwrap();
    let again = Approvals::new("my-box", LONG, kept.clone());
    assert_eq!(again.list(), book.list());
    let later = Approvals::new("my-box", Duration::from_millis(1), kept.for_good());
    assert_eq!(later.approved(), [(4, asked("/good"), Rule::default())]);
    assert_eq!(
        later.ask(asked("/open"), (1, false), drop).await,
        Word::Unanswered(5),
        "no id is given twice"
    );
}

#[test]
fn an_id_names_its_sandbox() {
    let book = book(LONG);
    for wrong in ["", "1", "my-box", "my-box-", "my-box-x", "box-1", "my-box-1", "my-box--1"] {
        assert_eq!(book.find(wrong).unwrap_err(), Refused::Unknown, "{wrong}");
    }
}
