//! Converts the live tree from the supervision crate's nodes to the API's.

use supervision::{NodeKind, State};

use crate::types::TreeNode;

impl From<supervision::TreeNode> for TreeNode {
    fn from(node: supervision::TreeNode) -> Self {
        let kind = match node.kind {
            NodeKind::Actor(_) => "actor",
            NodeKind::Supervisor(_) => "supervisor",
        };
        Self {
            name: node.name,
            kind: kind.to_owned(),
            state: word(node.state).to_owned(),
            uptime_ms: node.uptime_ms,
            restarts: node.restarts,
            last_failure: node.last_failure.map(|failure| failure.to_string()),
            children: node.children.into_iter().map(Self::from).collect(),
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Starting => "starting",
        State::Up => "up",
        State::Stopping => "stopping",
        State::Backoff => "backoff",
        State::Finished => "finished",
        State::GaveUp => "gave-up",
        State::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervision::{Failure, Restart, Strategy};

    #[test]
    fn every_field_crosses() {
        let leaf = supervision::TreeNode {
            name: "proxy".into(),
            kind: NodeKind::Actor(Restart::Permanent),
            state: State::Backoff,
            uptime_ms: None,
            restarts: 3,
            last_failure: Some(Failure::Killed),
            children: vec![],
        };
        let root = supervision::TreeNode {
            name: "sandbox".into(),
            kind: NodeKind::Supervisor(Strategy::OneForOne),
            state: State::Up,
            uptime_ms: Some(7),
            last_failure: None,
            children: vec![leaf.clone()],
            ..leaf
        };
        let it = TreeNode::from(root);
        assert_eq!((it.kind.as_str(), it.state.as_str(), it.uptime_ms), ("supervisor", "up", Some(7)));
        let child = &it.children[0];
        assert_eq!((child.kind.as_str(), child.state.as_str(), child.restarts), ("actor", "backoff", 3));
        assert_eq!(child.last_failure.as_deref(), Some("killed"));
    }
}
