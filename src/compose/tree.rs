//! The actor tree as data: every child's spec in start order, and the addresses by which it is reached.

use std::sync::Arc;
use std::time::Duration;

use operator::control::Control;
use supervision::{Address, Backoff, ChildSpec, Intensity, Strategy, SupervisorSpec};

use tokio::sync::watch;

use super::stores::Stores;

/// The first restart follows at once: every part is promised to be back within 50 ms.
const BACKOFF: Backoff = Backoff { min: Duration::from_millis(1), max: Duration::from_secs(1), jitter: 0.2 };
/// Beyond this, restarting a part doesn't help, and the supervisor process is started anew.
const INTENSITY: Intensity = Intensity { restarts: 100, within: Duration::from_secs(60) };

/// The address of each actor, which stays the same for every incarnation.
#[derive(Clone)]
pub struct Addresses {
    /// Telemetry.
    pub telemetry: Address<telemetry::actor::Msg>,
    /// The redactor.
    pub redactor: Address<redactor::actor::Msg>,
    /// The policy reloader.
    pub policy: Address<policy::actor::Msg>,
    /// The operator.
    pub operator: Address<operator::actor::Msg>,
    /// The gateway.
    pub gateway: Address<gateway::actor::Msg>,
    /// The proxy.
    pub proxy: Address<proxy::actor::Msg>,
    /// Forwards, where there are any.
    pub forwards: Address<super::forwards::Msg>,
}

impl Addresses {
    /// Makes the addresses before any actor runs.
    pub fn new() -> Self {
        Self {
            telemetry: Address::new("telemetry"),
            redactor: Address::new("redactor"),
            policy: Address::new("policy"),
            operator: Address::new("operator"),
            gateway: Address::new("gateway"),
            proxy: Address::new("proxy"),
            forwards: Address::new("forwards"),
        }
    }

    /// Makes an actor panic. Returns false if there is no such actor, or it is down already.
    pub fn inject_panic(&self, actor: &str) -> bool {
        match actor {
            "telemetry" => self.telemetry.cast(telemetry::actor::Msg::InjectPanic).is_ok(),
            "redactor" => self.redactor.cast(redactor::actor::Msg::InjectPanic).is_ok(),
            "policy" => self.policy.cast(policy::actor::Msg::InjectPanic).is_ok(),
            "operator" => self.operator.cast(operator::actor::Msg::InjectPanic).is_ok(),
            "gateway" => self.gateway.cast(gateway::actor::Msg::InjectPanic).is_ok(),
            "proxy" => self.proxy.cast(proxy::actor::Msg::InjectPanic).is_ok(),
            "forwards" => self.forwards.cast(super::forwards::Msg::InjectPanic).is_ok(),
            _ => false,
        }
    }
}

/// Sockets that the actors listen on; all live above them.
pub struct Sockets {
    /// The control socket.
    pub control: Arc<std::os::unix::net::UnixListener>,
    /// The metrics listener.
    pub metrics: Option<Arc<std::net::TcpListener>>,
    /// The proxy's listeners inside the sandbox.
    pub proxy: Vec<proxy::Listener>,
    /// The listeners at which captured connections arrive.
    pub captured: watch::Receiver<proxy::Captured>,
    /// The name server.
    pub names: (Arc<proxy::names::Resolver>, proxy::names::Sockets),
    /// Forwards of the host's ports.
    pub forwards: Vec<super::forwards::Forwarded>,
}

/// Returns the tree with every part that the agents need. They are added later, see [`agents`].
pub fn spec(
    stores: &Stores,
    sockets: Sockets,
    addresses: &Addresses,
    loader: policy::Loader,
    control: Arc<dyn Control>,
    owner: operator::Owner,
    init: &agent::InitClient,
) -> SupervisorSpec {
    let Sockets { control: control_socket, metrics, proxy: listeners, captured, names, forwards } = sockets;

    let telemetry = telemetry::actor::TelemetryArguments {
        audit: stores.audit.clone(),
        recorder: stores.recorder.clone(),
        listener: metrics,
    };
    let redactor = redactor::actor::RedactorArguments {
        streams: stores.streams.clone(),
        redactor: stores.redactor.clone(),
        observer: Arc::<super::records::Redactions>::default(),
    };
    let proxy =
        proxy::actor::Arguments { deps: Arc::clone(&stores.proxy), listeners, captured, names: Some(names) };
    let gateway = stores.gateway.clone();
    let operator = operator::actor::Arguments { listener: control_socket, control, owner };

    let mut tree = SupervisorSpec::new("sandbox", Strategy::OneForOne)
        .child(part(ChildSpec::actor("telemetry", addresses.telemetry.clone(), move || {
            (telemetry::actor::TelemetryActor, telemetry.clone())
        })))
        .child(part(ChildSpec::actor("redactor", addresses.redactor.clone(), move || {
            (redactor::actor::RedactorActor, redactor.clone())
        })))
        .child(part(ChildSpec::actor("policy", addresses.policy.clone(), move || {
            (policy::actor::PolicyActor, loader.clone())
        })))
        .child(part(ChildSpec::actor("operator", addresses.operator.clone(), move || {
            (operator::actor::OperatorActor, operator.clone())
        })))
        .child(part(ChildSpec::actor("gateway", addresses.gateway.clone(), move || {
            (gateway::actor::GatewayActor, gateway.clone())
        })))
        .child(part(ChildSpec::actor("proxy", addresses.proxy.clone(), move || {
            (proxy::actor::ProxyActor, proxy.clone())
        })));
    if !forwards.is_empty() {
        let given =
            super::forwards::Arguments { forwards, places: super::forwards::places(), init: init.clone() };
        tree = tree.child(part(ChildSpec::actor("forwards", addresses.forwards.clone(), move || {
            (super::forwards::ForwardsActor, given.clone())
        })));
    }
    tree
}

/// Returns the tree's last child, the agents, which is added while the cage is being proven.
pub fn agents(specs: Vec<ChildSpec>) -> ChildSpec {
    let agents = SupervisorSpec::new("agents", Strategy::OneForOne);
    ChildSpec::supervisor(specs.into_iter().fold(agents, SupervisorSpec::child))
}

fn part(spec: ChildSpec) -> ChildSpec {
    spec.backoff(BACKOFF).intensity(INTENSITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_restarts() {
        let page = include_str!("../../docs/limits.md");
        let Intensity { restarts, within } = INTENSITY;
        let row = format!("| `INTENSITY` | {restarts} within {} s |", within.as_secs());
        assert!(page.contains(&row), "{row}");
        let (min, max) = (BACKOFF.min.as_millis(), BACKOFF.max.as_secs());
        let row = format!("| `BACKOFF` | {min} ms, doubled up to {max} s |");
        assert!(page.contains(&row), "{row}");
    }
}
