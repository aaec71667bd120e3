//! What supervision costs: a restart, a message through an address, a look at the tree.
//!
//! Run with `cargo bench -p cofferdam-supervision`.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{Address, Backoff, ChildSpec, Intensity, Strategy, Supervisor, SupervisorSpec};
use tokio::runtime::Runtime;

fn main() {
    // A panic is what is measured, not its message.
    std::panic::set_hook(Box::new(|_| {}));
    divan::main();
}

enum Msg {
    Count,
    Fail,
    Panic,
    Read(RpcReplyPort<u64>),
}

struct Counter;

impl Actor for Counter {
    type Msg = Msg;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    #[allow(clippy::panic, reason = "what is measured")]
    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, count: &mut u64) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Count => *count += 1,
            Msg::Fail => return Err("told to".into()),
            Msg::Panic => panic!("told to"),
            Msg::Read(reply) => drop(reply.send(*count)),
        }
        Ok(())
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn child(name: String, address: Address<Msg>, backoff: Backoff) -> ChildSpec {
    ChildSpec::actor(name, address, || (Counter, ()))
        .backoff(backoff)
        .intensity(Intensity { restarts: u32::MAX, within: Duration::from_millis(1) })
}

fn start(runtime: &Runtime, children: usize, backoff: Backoff) -> (Supervisor, Address<Msg>) {
    let address = Address::new("0");
    let spec = (0..children).fold(SupervisorSpec::new("root", Strategy::OneForOne), |spec, i| {
        let address = if i == 0 { address.clone() } else { Address::new("other") };
        spec.child(child(i.to_string(), address, backoff))
    });
    (runtime.block_on(Supervisor::start(spec)).unwrap(), address)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

/// From the failing message to the answer of the next incarnation.
mod restart {
    use super::*;

    fn back(bencher: divan::Bencher<'_, '_>, fail: fn() -> Msg, backoff: Backoff) {
        let runtime = runtime();
        let (tree, address) = start(&runtime, 1, backoff);
        bencher.bench_local(|| {
            runtime.block_on(async {
                address.wait_up(PATIENCE).await.unwrap();
                address.cast(fail()).unwrap();
                // The first call goes into the dying mailbox.
                while address.call(Msg::Read, PATIENCE).await.is_err() {}
            });
        });
        runtime.block_on(tree.stop(PATIENCE));
    }

    const AT_ONCE: Backoff = Backoff { min: Duration::ZERO, max: Duration::ZERO, jitter: 0.0 };

    #[divan::bench]
    fn after_an_error_at_once(bencher: divan::Bencher<'_, '_>) {
        back(bencher, || Msg::Fail, AT_ONCE);
    }

    #[divan::bench]
    fn after_a_panic_at_once(bencher: divan::Bencher<'_, '_>) {
        back(bencher, || Msg::Panic, AT_ONCE);
    }

    #[divan::bench]
    fn after_a_panic_with_a_millisecond_of_backoff(bencher: divan::Bencher<'_, '_>) {
        let millisecond = Duration::from_millis(1);
        back(bencher, || Msg::Panic, Backoff { min: millisecond, max: millisecond, jitter: 0.0 });
    }
}

/// A thousand messages sent and handled.
mod thousand_casts {
    use super::*;

    #[divan::bench]
    fn through_an_address(bencher: divan::Bencher<'_, '_>) {
        let runtime = runtime();
        let (tree, address) = start(&runtime, 1, Backoff::default());
        bencher.counter(1000_u32).bench_local(|| {
            runtime.block_on(async {
                for _ in 0..1000 {
                    address.cast(Msg::Count).unwrap();
                }
                address.call(Msg::Read, PATIENCE).await.unwrap()
            })
        });
        runtime.block_on(tree.stop(PATIENCE));
    }

    #[divan::bench]
    fn through_a_bare_reference(bencher: divan::Bencher<'_, '_>) {
        let runtime = runtime();
        let (actor, _) = runtime.block_on(Actor::spawn(None, Counter, ())).unwrap();
        bencher.counter(1000_u32).bench_local(|| {
            runtime.block_on(async {
                for _ in 0..1000 {
                    actor.send_message(Msg::Count).unwrap();
                }
                ractor::rpc::call(&actor, Msg::Read, Some(PATIENCE)).await.unwrap()
            })
        });
        actor.kill();
    }
}

#[divan::bench(args = [8, 100, 1000])]
fn tree_snapshot(bencher: divan::Bencher<'_, '_>, children: usize) {
    let runtime = runtime();
    let (tree, _) = start(&runtime, children, Backoff::default());
    bencher.bench_local(|| runtime.block_on(tree.tree()).unwrap());
    runtime.block_on(tree.stop(PATIENCE));
}

#[divan::bench(args = [1, 100])]
fn start_and_stop(bencher: divan::Bencher<'_, '_>, children: usize) {
    let runtime = runtime();
    bencher.bench_local(|| {
        let (tree, _) = start(&runtime, children, Backoff::default());
        runtime.block_on(tree.stop(PATIENCE))
    });
}
