//! A kitchen: a stove that catches fire now and then, a cook who needs it, and waiters who come and go.
//!
//! Run with `cargo run -p cofferdam-supervision --example kitchen`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{Address, Backoff, ChildSpec, Restart, Strategy, Supervisor, SupervisorSpec, TreeNode};

enum Order {
    /// Answers with the number of the dish. Waits, within the caller's deadline, if the stove is down.
    Dish(RpcReplyPort<u32>),
    /// Sets the stove on fire.
    Fire,
}

/// The counter lives above the stove: a new stove goes on where the old one was.
struct Stove(Arc<AtomicU32>);

impl Actor for Stove {
    type Msg = Order;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Order>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Order>, order: Order, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Dish(reply) => {
                // The guest may have left: that is no reason for the stove to fail.
                let _ = reply.send(self.0.fetch_add(1, Ordering::Relaxed) + 1);
                Ok(())
            }
            Order::Fire => Err("on fire".into()),
        }
    }
}

struct Waiter;

impl Actor for Waiter {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

fn waiter(name: &str) -> ChildSpec {
    ChildSpec::actor(name, Address::new(name), || (Waiter, ())).restart(Restart::Transient)
}

fn show(out: &mut impl Write, node: &TreeNode, depth: usize) -> std::io::Result<()> {
    writeln!(out, "{:depth$}{} {:?}, restarted {} times", "", node.name, node.state, node.restarts)?;
    node.children.iter().try_for_each(|child| show(out, child, depth + 2))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (stove, dishes) = (Address::new("stove"), Arc::new(AtomicU32::new(0)));
    let spec = SupervisorSpec::new("kitchen", Strategy::RestForOne)
        .child(
            ChildSpec::actor("stove", stove.clone(), move || (Stove(dishes.clone()), ()))
                .backoff(Backoff { min: Duration::from_millis(20), ..Backoff::default() }),
        )
        .child(ChildSpec::supervisor(
            SupervisorSpec::new("waiters", Strategy::OneForOne).child(waiter("ada")),
        ));
    let kitchen = Supervisor::start(spec).await?;
    let mut reports = kitchen.reports();
    let (mut out, patience) = (std::io::stdout().lock(), Duration::from_secs(1));

    kitchen.add_child("waiters", waiter("bob")).await?;
    writeln!(out, "dish {}", stove.call(Order::Dish, patience).await?)?;
    stove.cast(Order::Fire)?;
    // The first call may be lost with the burning stove; the next waits for the new one.
    let _ = stove.call(Order::Dish, patience).await;
    writeln!(out, "dish {}", stove.call(Order::Dish, patience).await?)?;

    // Bob is gone: waiters come after the stove, so they were restarted with it, and a restarted
    // supervisor has the children it was declared with.
    show(&mut out, &kitchen.tree().await?, 0)?;
    let outcome = kitchen.stop(patience).await;
    while let Ok(report) = reports.try_recv() {
        writeln!(out, "{}: {:?}", report.path, report.event)?;
    }
    writeln!(out, "{outcome:?}")?;
    Ok(())
}
