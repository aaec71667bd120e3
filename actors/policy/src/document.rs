//! Writes a policy back to YAML: for `policy show`, and wherever a composed policy has to be handed on as
//! text.
//!
//! Reading the text again gives an equal policy (a test holds that for every built-in one). Comments and
//! order of fields are not kept.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::content::{OperationKind, Selected};
use crate::model::{
    Bodies, Endpoint, Entry, GraphqlRule, HttpRule, JsonMatcher, PathRule, Policy, RpcMethod, RpcRule, Rule,
    ValueMatcher, Written,
};
use crate::{Glob, Protocol};

impl Policy {
    /// The policy as a version-1 file.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::from("version: 1\n\nfilesystem_policy:\n");
        line(&mut out, 2, format_args!("include_workdir: {}", self.filesystem.include_workdir));
        paths(&mut out, "read_only", &self.filesystem.read_only);
        paths(&mut out, "read_write", &self.filesystem.read_write);
        let _ = write!(out, "\nlandlock:\n  compatibility: {}\n", self.landlock.as_str());
        if self.process.run_as_user.is_some() || self.process.run_as_group.is_some() {
            out.push_str("\nprocess:\n");
            for (name, value) in
                [("run_as_user", &self.process.run_as_user), ("run_as_group", &self.process.run_as_group)]
            {
                if let Some(value) = value {
                    line(&mut out, 2, format_args!("{name}: {}", quoted(value)));
                }
            }
        }
        out.push_str(if self.network.is_empty() {
            "\nnetwork_policies: {}\n"
        } else {
            "\nnetwork_policies:\n"
        });
        for entry in &self.network {
            write_entry(&mut out, entry);
        }
        out
    }
}

fn line(out: &mut String, indent: usize, text: impl std::fmt::Display) {
    let _ = writeln!(out, "{:indent$}{text}", "");
}

/// Text in YAML's double quotes, in which YAML accepts JSON's escapes.
#[must_use]
pub fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    // JSON leaves these as they are. YAML takes some for the end of a line (YAML 1.1, section 4.2), and
    // others aren't printable for it (section 5.1).
    let is_kept = |c: char| !matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    json.chars().fold(String::with_capacity(json.len()), |mut out, c| {
        if is_kept(c) {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        out
    })
}

fn paths(out: &mut String, name: &str, rules: &[PathRule]) {
    line(out, 2, format_args!("{name}:{}", if rules.is_empty() { " []" } else { "" }));
    for rule in rules {
        let path = quoted(&rule.path.to_string_lossy());
        if rule.optional {
            line(out, 4, format_args!("- {{ path: {path}, optional: true }}"));
        } else {
            line(out, 4, format_args!("- {path}"));
        }
    }
}

fn write_entry(out: &mut String, entry: &Entry) {
    line(out, 2, format_args!("{}:", quoted(&entry.key)));
    line(out, 4, format_args!("name: {}", quoted(&entry.name)));
    line(out, 4, format_args!("endpoints:{}", if entry.endpoints.is_empty() { " []" } else { "" }));
    for endpoint in &entry.endpoints {
        write_endpoint(out, endpoint);
    }
    if let Some(binaries) = &entry.binaries {
        line(out, 4, format_args!("binaries:{}", if binaries.is_empty() { " []" } else { "" }));
        for binary in binaries {
            let mut text = format!("- {{ path: {}", quoted(binary.path.as_str()));
            if let Some(sha256) = binary.sha256 {
                let _ = write!(text, ", sha256: \"{}\"", hex::encode(sha256));
            }
            if !binary.ancestors {
                text.push_str(", ancestors: false");
            }
            if binary.allow_foreign_code {
                text.push_str(", allow_foreign_code: true");
            }
            line(out, 6, format_args!("{text} }}"));
        }
    }
}

fn write_endpoint(out: &mut String, endpoint: &Endpoint) {
    let ports: Vec<String> = endpoint.ports.iter().map(u16::to_string).collect();
    line(out, 6, format_args!("- ports: [{}]", ports.join(", ")));
    if let Some(host) = &endpoint.host {
        line(out, 8, format_args!("host: {}", quoted(&host.to_string())));
    }
    if let Some(path) = &endpoint.path {
        line(out, 8, format_args!("path: {}", quoted(path.as_str())));
    }
    if let Some(protocol) = endpoint.protocol {
        line(out, 8, format_args!("protocol: {}", Protocol::as_str(protocol)));
    }
    for (yes, text) in [
        (endpoint.tls_skip, "tls: skip"),
        (endpoint.audit, "enforcement: audit"),
        (endpoint.public_only, "public_only: true"),
        (endpoint.allow_encoded_slash, "allow_encoded_slash: true"),
        (endpoint.rewrites.bodies, "request_body_credential_rewrite: true"),
        (endpoint.rewrites.messages, "websocket_credential_rewrite: true"),
    ] {
        if yes {
            line(out, 8, text);
        }
    }
    if !endpoint.allowed_ips.is_empty() {
        let nets: Vec<String> = endpoint.allowed_ips.iter().map(|net| quoted(&net.to_string())).collect();
        line(out, 8, format_args!("allowed_ips: [{}]", nets.join(", ")));
    }
    if let Some(access) = endpoint.access {
        line(out, 8, format_args!("access: {}", access.as_str()));
    }
    write_bodies(out, endpoint.protocol, &endpoint.bodies);
    write_rules(out, "rules", &endpoint.rules, true);
    write_rules(out, "deny_rules", &endpoint.deny_rules, false);
}

fn write_rules(out: &mut String, name: &str, rules: &[Written], wrapped: bool) {
    if rules.is_empty() {
        return;
    }
    line(out, 8, format_args!("{name}:"));
    for rule in rules {
        let fields = match &rule.rule {
            Rule::Http(rule) => http_fields(rule),
            Rule::Rpc(rule) => rpc_fields(rule),
            Rule::Graphql(rule) => graphql_fields(rule),
        };
        let text = match fields.is_empty() {
            true => String::from("{}"),
            false => format!("{{ {} }}", fields.join(", ")),
        };
        line(out, 10, if wrapped { format!("- allow: {text}") } else { format!("- {text}") });
    }
}

fn any(globs: &[Glob]) -> String {
    let any: Vec<String> = globs.iter().map(|glob| quoted(glob.as_str())).collect();
    format!("{{ any: [{}] }}", any.join(", "))
}

fn values(name: &str, matchers: &[JsonMatcher]) -> Option<String> {
    if matchers.is_empty() {
        return None;
    }
    let matchers: Vec<String> = matchers
        .iter()
        .map(|matcher| {
            let any: Vec<String> = matcher
                .any
                .iter()
                .map(|value| match value {
                    ValueMatcher::Text(glob) => quoted(glob.as_str()),
                    other => other.to_string(),
                })
                .collect();
            format!("{}: {{ any: [{}] }}", quoted(matcher.at.as_str()), any.join(", "))
        })
        .collect();
    Some(format!("{name}: {{ {} }}", matchers.join(", ")))
}

fn http_fields(rule: &HttpRule) -> Vec<String> {
    let mut out = vec![
        format!("method: {}", quoted(&rule.method.to_string())),
        format!("path: {}", quoted(rule.path.as_str())),
    ];
    if !rule.query.is_empty() {
        let matchers: Vec<String> =
            rule.query.iter().map(|m| format!("{}: {}", quoted(&m.name), any(&m.any))).collect();
        out.push(format!("query: {{ {} }}", matchers.join(", ")));
    }
    if !rule.text.is_empty() {
        out.push(format!("text: {}", any(&rule.text)));
    }
    out.extend(values("json", &rule.json));
    out
}

fn rpc_fields(rule: &RpcRule) -> Vec<String> {
    let mut out = Vec::new();
    if let RpcMethod::Named(glob) = &rule.method {
        out.push(format!("method: {}", quoted(glob.as_str())));
    }
    if !rule.tool.is_empty() {
        out.push(format!("tool: {}", any(&rule.tool)));
    }
    out.extend(values("params", &rule.params));
    out.extend(values("arguments", &rule.arguments));
    out
}

fn graphql_fields(rule: &GraphqlRule) -> Vec<String> {
    let mut out = vec![format!("operation_type: \"{}\"", rule.kind.map_or("*", OperationKind::as_str))];
    if let Some(name) = &rule.name {
        out.push(format!("operation_name: {}", quoted(name.as_str())));
    }
    if !rule.fields.is_empty() {
        let fields: Vec<String> = rule.fields.iter().map(|glob| quoted(glob.as_str())).collect();
        out.push(format!("fields: [{}]", fields.join(", ")));
    }
    out
}

fn write_bodies(out: &mut String, protocol: Option<Protocol>, bodies: &Bodies) {
    match protocol {
        Some(Protocol::Mcp) => line(
            out,
            8,
            format_args!(
                "mcp: {{ max_body_bytes: {}, strict_tool_names: {}, allow_all_known_mcp_methods: {}, \
                 allow_client_responses: {} }}",
                bodies.max_bytes, bodies.strict_tool_names, bodies.known_mcp_methods, bodies.client_responses
            ),
        ),
        Some(Protocol::JsonRpc) => {
            line(out, 8, format_args!("json_rpc: {{ max_body_bytes: {} }}", bodies.max_bytes));
        }
        Some(Protocol::Graphql) => {
            line(out, 8, format_args!("graphql_max_body_bytes: {}", bodies.max_bytes));
        }
        _ => {}
    }
    if let Some(registered) = &bodies.persisted {
        write_persisted(out, registered);
    }
}

fn write_persisted(out: &mut String, registered: &BTreeMap<Box<str>, Selected>) {
    line(out, 8, "persisted_queries: allow_registered");
    let none = if registered.is_empty() { " {}" } else { "" };
    line(out, 8, format_args!("graphql_persisted_queries:{none}"));
    for (id, operation) in registered {
        let mut fields = vec![format!("operation_type: {}", operation.kind.as_str())];
        if let Some(name) = &operation.name {
            fields.push(format!("operation_name: {}", quoted(name)));
        }
        if let Some(roots) = &operation.fields {
            let roots: Vec<String> = roots.iter().map(|root| quoted(root)).collect();
            fields.push(format!("fields: [{}]", roots.join(", ")));
        }
        line(out, 10, format_args!("{}: {{ {} }}", quoted(id), fields.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use crate::{builtin, compose, parse};

    #[test]
    fn what_is_written_reads_back_as_the_same_policy() {
        let presets: Vec<_> = builtin::presets().iter().map(|p| p.preset().unwrap()).collect();
        for profile in builtin::profiles() {
            let policy = profile.policy().unwrap().policy;
            let all = if profile.name == "locked-down" { compose(policy, &presets).unwrap() } else { policy };
            let text = all.to_yaml();
            let again = parse("again", &text).unwrap_or_else(|e| panic!("{e}\n{text}")).policy;
            assert_eq!(again, all, "{text}");
        }
    }

    #[test]
    fn whether_credentials_are_filled_in_survives() {
        let endpoint = "host: a.test, port: 443, protocol: rest, access: full";
        let both = "request_body_credential_rewrite: true, websocket_credential_rewrite: true";
        let text =
            format!("version: 1\nnetwork_policies: {{ a: {{ endpoints: [ {{ {endpoint}, {both} }} ] }} }}\n");
        let policy = parse("p", &text).unwrap().policy;
        let yaml = policy.to_yaml();
        assert_eq!(parse("again", &yaml).unwrap().policy, policy, "{yaml}");
    }

    #[test]
    fn odd_text_survives() {
        let text = "version: 1\nnetwork_policies:\n  \"a: b #c\":\n    endpoints:\n      - { host: '*.a.example.com', ports: [80, 443], protocol: rest, enforcement: audit, allowed_ips: [10.0.0.0/8, '2001:db8::/32'], rules: [ { allow: { method: '*', path: '/a \"b\"/é', query: { 'x y': '1' } } } ] }\n      - { port: 22, allowed_ips: [10.1.1.1] }\n";
        let policy = parse("p", text).unwrap().policy;
        let yaml = policy.to_yaml();
        assert_eq!(parse("again", &yaml).unwrap().policy, policy, "{yaml}");
    }
}
