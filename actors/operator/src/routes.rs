//! The table of routes. openapi.json lists the same; a test compares the two both ways.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::fault::{Code, Fault};

/// One operation; its OpenAPI `operationId` is [`Operation::id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The whole state.
    Status,
    /// The live tree.
    Tree,
    /// Server-sent events.
    Events,
    /// The policy in force.
    Policy,
    /// A new policy.
    SetPolicy,
    /// Programs, by what they contained at first use.
    Identities,
    /// Trust a program's new content.
    AcceptIdentity,
    /// Forget a program.
    ForgetIdentity,
    /// Requests that the operator was asked about.
    Approvals,
    /// The answer to one of them.
    AnswerApproval,
    /// Prometheus text.
    Metrics,
    /// Agents' output.
    Logs,
    /// Start another process.
    Exec,
    /// End the sandbox.
    Stop,
    /// Restart an actor.
    Restart,
    /// Crash an actor.
    Crash,
    /// The API's description.
    Openapi,
}

/// Method, path and operation of every route.
pub const TABLE: [(Method, &str, Operation); 17] = [
    (Method::GET, "/v1/status", Operation::Status),
    (Method::GET, "/v1/tree", Operation::Tree),
    (Method::GET, "/v1/events", Operation::Events),
    (Method::GET, "/v1/policy", Operation::Policy),
    (Method::PUT, "/v1/policy", Operation::SetPolicy),
    (Method::GET, "/v1/identities", Operation::Identities),
    (Method::POST, "/v1/identities/accept", Operation::AcceptIdentity),
    (Method::POST, "/v1/identities/forget", Operation::ForgetIdentity),
    (Method::GET, "/v1/approvals", Operation::Approvals),
    (Method::POST, "/v1/approvals/{id}", Operation::AnswerApproval),
    (Method::GET, "/v1/metrics", Operation::Metrics),
    (Method::GET, "/v1/logs", Operation::Logs),
    (Method::POST, "/v1/exec", Operation::Exec),
    (Method::POST, "/v1/stop", Operation::Stop),
    (Method::POST, "/v1/actors/{name}/restart", Operation::Restart),
    (Method::POST, "/v1/actors/{name}/crash", Operation::Crash),
    (Method::GET, "/v1/openapi.json", Operation::Openapi),
];

impl Operation {
    /// As in openapi.json.
    pub fn id(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Tree => "tree",
            Self::Events => "events",
            Self::Policy => "policy",
            Self::SetPolicy => "setPolicy",
            Self::Identities => "identities",
            Self::AcceptIdentity => "acceptIdentity",
            Self::ForgetIdentity => "forgetIdentity",
            Self::Approvals => "approvals",
            Self::AnswerApproval => "answerApproval",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Crash => "crash",
            Self::Openapi => "openapi",
        }
    }
}

/// A request's place in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What to do.
    pub operation: Operation,
    /// `{name}` or `{id}`, decoded.
    pub name: Option<String>,
}

/// The table, compiled.
pub struct Routes {
    paths: matchit::Router<Vec<(Method, Operation)>>,
}

impl Routes {
    /// Compiles [`TABLE`].
    ///
    /// # Errors
    /// Two paths of the table contradict each other; a test shows that none do.
    pub fn new() -> Result<Self, matchit::InsertError> {
        let mut paths = matchit::Router::new();
        for (_, path, _) in &TABLE {
            let here: Vec<_> =
                TABLE.iter().filter(|(_, p, _)| p == path).map(|(m, _, o)| (m.clone(), *o)).collect();
            match paths.insert(*path, here) {
                // The second method of a path: the first insertion covered both.
                Ok(()) | Err(matchit::InsertError::Conflict { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Self { paths })
    }

    /// Finds the operation that a request asks for.
    ///
    /// # Errors
    /// 404 for an unknown path, 405 for a method that the path doesn't take.
    pub fn find(&self, method: &Method, path: &str) -> Result<Found, Fault> {
        let unknown = || {
            Fault::new(Code::NotFound, "the control API has no such path")
                .hint("GET /v1/openapi.json lists them")
        };
        let hit = self.paths.at(path).map_err(|_| unknown())?;
        let Some((_, operation)) = hit.value.iter().find(|(m, _)| m == method) else {
            let takes: Vec<_> = hit.value.iter().map(|(m, _)| m.as_str()).collect();
            let fault =
                Fault::new(Code::MethodNotAllowed, format!("this path takes {}", takes.join(" and ")));
            return Err(Fault { allow: Some(takes.join(", ")), ..fault });
        };
        let name = match hit.params.get("name").or_else(|| hit.params.get("id")) {
            Some(raw) => Some(actor_name(raw).ok_or_else(unknown)?),
            None => None,
        };
        Ok(Found { operation: *operation, name })
    }
}

/// Decodes a path in the tree, such as `agents/hermes`, its slash written as `%2F`.
fn actor_name(raw: &str) -> Option<String> {
    let name = percent_decode_str(raw).decode_utf8().ok()?;
    let tame = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (!name.is_empty() && name.len() <= 256 && name.chars().all(tame)).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found() {
        let routes = Routes::new().unwrap();
        for (method, path, operation) in &TABLE {
            let found =
                routes.find(method, &path.replace("{name}", "proxy").replace("{id}", "box-1")).unwrap();
            assert_eq!(found.operation, *operation, "{method} {path}");
        }
    }

    #[test]
    fn names_with_a_slash_come_encoded() {
        let routes = Routes::new().unwrap();
        let found = routes.find(&Method::POST, "/v1/actors/agents%2Fhermes/restart").unwrap();
        assert_eq!(found.name.as_deref(), Some("agents/hermes"));
        for bad in [
            "/v1/actors//restart",
            "/v1/actors/a%00b/restart",
            "/v1/actors/%ff/restart",
            "/v1/actors/a/b/restart",
        ] {
            assert_eq!(routes.find(&Method::POST, bad).unwrap_err().code, Code::NotFound, "{bad}");
        }
        let fault = routes.find(&Method::GET, "/v1/stop").unwrap_err();
        assert_eq!((fault.code, fault.allow.as_deref()), (Code::MethodNotAllowed, Some("POST")));
        assert_eq!(routes.find(&Method::GET, "/v2/status").unwrap_err().code, Code::NotFound);
    }
}
