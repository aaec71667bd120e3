//! Budgets over a shelf that can be full, damaged, and taken up by the next process.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::*;

#[derive(Default)]
struct Memory {
    text: Mutex<Option<Vec<u8>>>,
    full: AtomicBool,
    writes: AtomicUsize,
}

impl Shelf for Memory {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.text.lock().unwrap().clone())
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        if self.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.writes.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        *self.text.lock().unwrap() = Some(text.to_vec());
        Ok(())
    }
}

fn budgets(shelf: &Arc<Memory>, tokens: u64) -> Budgets {
    let budgets = Budgets::new(Some(Arc::<Memory>::clone(shelf)), Arc::new(|_: &[Standing]| {}));
    budgets.configure(vec![day(tokens)]);
    budgets
}

fn day(tokens: u64) -> (Which, Limits) {
    let which = Which { per: Per::Day, provider: None, model: None };
    (which, Limits { tokens: Some(tokens), requests: None, model: None })
}

fn tokens(n: u64) -> Estimate {
    Estimate { input: n, ..Estimate::default() }
}

fn used(budgets: &Budgets) -> u64 {
    budgets.standing().0[0].tokens.0
}

/// The tokens used, as a process that starts now would read them.
fn on_disk(shelf: &Arc<Memory>) -> u64 {
    used(&budgets(shelf, 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_side_by_side_pass_no_limit_and_share_their_writes() {
    let shelf = Arc::<Memory>::default();
    let budgets = budgets(&shelf, 1000);
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let budgets = budgets.clone();
            tokio::spawn(async move { budgets.admit("p", "m", tokens(90)).await })
        })
        .collect();
    let mut held = Vec::new();
    for asked in asked {
        match asked.await.unwrap() {
            Ok(reservation) => held.push(reservation.unwrap()),
            Err(NotAdmitted::Spent(spent)) => assert!(spent.crowded && spent.limit == 1000),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((held.len(), used(&budgets), on_disk(&shelf)), (11, 990, 990));
    assert!(shelf.writes.load(Relaxed) <= 11);
    for mut reservation in held {
        reservation.sent();
        reservation.settle(10);
    }
    let settled = async {
        while on_disk(&shelf) != 110 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled).await.unwrap();
    assert_eq!(used(&budgets), 110);
}

#[tokio::test]
async fn what_is_held_is_on_disk_before_anything_is_sent_and_outlives_the_process() {
    let shelf = Arc::<Memory>::default();
    let first = budgets(&shelf, 1000);
    let mut reservation = first.admit("p", "m", tokens(700)).await.unwrap().unwrap();
    reservation.sent();
    assert_eq!(on_disk(&shelf), 700);
    // As if the process were killed: nothing is released.
    std::mem::forget(reservation);
    let second = budgets(&shelf, 600);
    assert_eq!(used(&second), 700);
    assert!(matches!(second.admit("p", "m", tokens(1)).await, Err(NotAdmitted::Spent(_))));
    // The same budget with another limit goes on with its count, and so does one that is configured later.
    second.configure(vec![day(1000)]);
    let third = second.admit("p", "m", tokens(10)).await.unwrap().unwrap();
    assert_eq!(used(&second), 710);
    drop(third);
    assert_eq!(used(&second), 700);
}

#[tokio::test]
async fn what_nobody_settles_stands_if_it_was_sent() {
    let shelf = Arc::<Memory>::default();
    let budgets = budgets(&shelf, 1000);
    let admit = || async { budgets.admit("p", "m", tokens(100)).await.unwrap().unwrap() };
    drop(admit().await);
    assert_eq!(used(&budgets), 0);
    let mut sent = admit().await;
    sent.sent();
    drop(sent);
    assert_eq!(used(&budgets), 100);
    // All that it may have come to.
    let open = Estimate { output: 50, beyond: 400, ..tokens(50) };
    let mut sent = budgets.admit("p", "m", open).await.unwrap().unwrap();
    sent.sent();
    assert_eq!(used(&budgets), 200);
    drop(sent);
    assert_eq!(used(&budgets), 600);
    let mut sent = admit().await;
    sent.sent();
    sent.cancel();
    assert_eq!((used(&budgets), budgets.standing().0[0].requests.0), (600, 2));
}

#[tokio::test]
async fn nothing_goes_that_cannot_be_written_down() {
    let shelf = Arc::<Memory>::default();
    let budgets = budgets(&shelf, 1000);
    shelf.full.store(true, Relaxed);
    let refused = budgets.admit("p", "m", tokens(100)).await;
    assert!(matches!(refused, Err(NotAdmitted::Unwritable(_))));
    assert_eq!(used(&budgets), 0);
    shelf.full.store(false, Relaxed);
    assert!(budgets.admit("p", "m", tokens(100)).await.is_ok());
}

#[tokio::test]
async fn damaged_counts_refuse_until_they_are_mended() {
    let shelf = Arc::<Memory>::default();
    *shelf.text.lock().unwrap() = Some(b"{\"version\":1,\"budg".to_vec());
    let budgets = budgets(&shelf, 1000);
    assert!(budgets.standing().1.is_some());
    for _ in 0..2 {
        let refused = budgets.admit("p", "m", tokens(1)).await;
        assert!(matches!(refused, Err(NotAdmitted::Unreadable(Unreadable::Damaged(_)))));
    }
    // The damaged text wasn't overwritten.
    assert_eq!(shelf.read().unwrap().unwrap().len(), 18);
    *shelf.text.lock().unwrap() = None;
    assert!(budgets.admit("p", "m", tokens(1)).await.is_ok());
    assert!(budgets.standing().1.is_none());
}

#[tokio::test]
async fn without_budgets_nothing_is_read_or_written() {
    let shelf = Arc::<Memory>::default();
    *shelf.text.lock().unwrap() = Some(b"damaged".to_vec());
    let budgets = Budgets::new(Some(Arc::<Memory>::clone(&shelf)), Arc::new(|_: &[Standing]| {}));
    budgets.configure(Vec::new());
    assert!(budgets.admit("p", "m", tokens(1)).await.unwrap().is_none());
    assert_eq!((budgets.standing(), shelf.writes.load(Relaxed)), ((Vec::new(), None), 0));
}
