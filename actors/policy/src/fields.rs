//! The schema as data: every object, every field, its type and what it means.
//!
//! One table serves the parser (known and unknown fields), `policy schema` and the reference in
//! `docs/policy.md`, so they can't drift apart.

/// The type of a field's value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Text.
    Text,
    /// Text, or a number or boolean that is meant as text.
    Loose,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number in this range.
    Integer(u32, u32),
    /// A JSON number.
    Number,
    /// A port in [`PORTS`], or its digits as text.
    Port,
    /// Several of one kind.
    List(&'static Kind),
    /// A map of names that the file chooses, each with a value of one kind.
    Map(&'static Kind),
    /// A nested object.
    Object(&'static Object),
    /// One of several kinds.
    Either(&'static [Kind]),
}

/// Whether a field of the schema is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Supported.
    Now,
    /// Part of the schema, but its feature isn't supported yet: an error, never ignored.
    Later(&'static str),
    /// Part of OpenShell's schema, and will not be supported: an error.
    Never(&'static str),
}

/// One field.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) support: Support,
    pub(crate) doc: &'static str,
}

/// One object.
#[derive(Debug)]
pub(crate) struct Object {
    /// What it is called in messages and the reference.
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

impl Object {
    pub(crate) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == name)
    }
}

const fn field(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, required: false, support: Support::Now, doc }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, required: true, support: Support::Now, doc }
}

const fn later(name: &'static str, kind: Kind, feature: &'static str) -> Field {
    Field { name, kind, required: false, support: Support::Later(feature), doc: feature }
}

const fn never(name: &'static str, kind: Kind, why: &'static str) -> Field {
    Field { name, kind, required: false, support: Support::Never(why), doc: why }
}

/// The valid TCP ports.
pub(crate) const PORTS: std::ops::RangeInclusive<u32> = 1..=65535;

const ANY_MAP: Kind = Kind::Map(&Kind::Text);

/// The whole file.
pub(crate) static POLICY: Object = Object {
    name: "policy",
    fields: &[
        required("version", Kind::Integer(1, 1), "Version of the schema: `1`."),
        field(
            "filesystem_policy",
            Kind::Object(&FILESYSTEM),
            "Which files may be read and written. Absent: as in the profile `locked-down`. Static.",
        ),
        field("landlock", Kind::Object(&LANDLOCK), "How a kernel that lacks something is met. Static."),
        field("process", Kind::Object(&PROCESS), "Who the agent runs as. Static."),
        field(
            "network_policies",
            Kind::Map(&Kind::Object(&ENTRY)),
            "Which programs may reach which endpoints; the key names the entry. Absent or empty: no network. Dynamic.",
        ),
        never("network_middlewares", ANY_MAP, "cofferdam runs no middleware in the path of requests"),
    ],
};

/// A preset file.
pub(crate) static PRESET_FILE: Object = Object {
    name: "preset file",
    fields: &[
        required("preset", Kind::Object(&PRESET), "What the preset is."),
        required(
            "network_policies",
            Kind::Map(&Kind::Object(&ENTRY)),
            "The entries that it adds to a policy.",
        ),
        field("version", Kind::Integer(1, 1), "Version of the schema: `1`."),
    ],
};

/// The head of a preset file.
pub(crate) static PRESET: Object = Object {
    name: "preset",
    fields: &[
        required("name", Kind::Text, "What `--preset` calls it."),
        required("description", Kind::Text, "What it allows, in one line."),
    ],
};

/// `filesystem_policy`.
pub(crate) static FILESYSTEM: Object = Object {
    name: "filesystem_policy",
    fields: &[
        field(
            "include_workdir",
            Kind::Bool,
            "Whether the working directory `/sandbox` is read-write without being listed. Default `false`.",
        ),
        field("read_only", Kind::List(&PATH), "What may be read and executed."),
        field("read_write", Kind::List(&PATH), "What may be read, executed and written. Never `/`."),
    ],
};

const PATH: Kind = Kind::Either(&[Kind::Text, Kind::Object(&PATH_RULE)]);

/// A path that may be missing.
pub(crate) static PATH_RULE: Object = Object {
    name: "path",
    fields: &[
        required("path", Kind::Text, "An absolute path without `.` and `..`."),
        field(
            "optional",
            Kind::Bool,
            "Whether the path may be missing; a missing path that isn't optional stops the start. Default `false`.",
        ),
    ],
};

/// `landlock`.
pub(crate) static LANDLOCK: Object = Object {
    name: "landlock",
    fields: &[field(
        "compatibility",
        Kind::OneOf(&["hard_requirement", "best_effort"]),
        "`hard_requirement` (our default; OpenShell's is the other) refuses to start without Landlock or with a listed \
         path missing; `best_effort` goes on with what there is, and takes every path as optional.",
    )],
};

/// `process`.
pub(crate) static PROCESS: Object = Object {
    name: "process",
    fields: &[
        field(
            "run_as_user",
            Kind::Loose,
            "`sandbox` or `1000`: the one user there is inside. Another number but 0 is taken for it, and warned about.",
        ),
        field(
            "run_as_group",
            Kind::Loose,
            "`sandbox` or `1000`: the one group there is inside. Another number but 0 is taken for it, and warned about.",
        ),
    ],
};

/// One entry of `network_policies`.
pub(crate) static ENTRY: Object = Object {
    name: "network policy entry",
    fields: &[
        field("name", Kind::Text, "The name in logs, metrics and denials. Default: the key."),
        required("endpoints", Kind::List(&Kind::Object(&ENDPOINT)), "Where the programs may go."),
        field(
            "binaries",
            Kind::List(&Kind::Object(&BINARY)),
            "Which programs may go there. Absent: any program (warned about). An empty list: none.",
        ),
    ],
};

/// One endpoint.
pub(crate) static ENDPOINT: Object = Object {
    name: "endpoint",
    fields: &[
        field(
            "host",
            Kind::Text,
            "A name or an IP address. In the first label only: `*.x` one label, `**.x` one or more, `a-*.x`; no bare \
             `*`, no `*.com`. Absent: any name whose every address lies in `allowed_ips` (L4 only).",
        ),
        field("port", Kind::Port, "The TCP port. This or `ports` is needed."),
        field("ports", Kind::List(&Kind::Port), "Several TCP ports."),
        field(
            "path",
            Kind::Text,
            "Which paths this endpoint serves, as a pattern; for several endpoints on one host and port. Default, and `\"\"`: all.",
        ),
        field(
            "protocol",
            Kind::OneOf(&["rest", "websocket", "graphql", "mcp", "json-rpc", "tcp"]),
            "`rest` judges each request's head; `websocket` the handshake and each message of the client; `graphql`, `mcp` and \
             `json-rpc` what stands in the body; absent or `tcp` relays bytes (L4). See docs/protocols.md.",
        ),
        field(
            "tls",
            Kind::OneOf(&["skip", "terminate", "passthrough"]),
            "`skip` relays TLS unread (L4 only). `terminate` and `passthrough` are accepted, do nothing and are warned about.",
        ),
        field(
            "enforcement",
            Kind::OneOf(&["enforce", "audit"]),
            "`enforce` (our default; OpenShell's is the other) refuses what the rules don't allow; `audit` records it and lets it \
             through.",
        ),
        field(
            "access",
            Kind::OneOf(&["read-only", "read-write", "full"]),
            "Instead of `rules`: `read-only` is GET HEAD OPTIONS, `read-write` adds POST PUT PATCH, `full` is any method. On \
             `websocket`: the handshake; also messages; all. On `graphql`: queries; also mutations; all. Not for `mcp` and \
             `json-rpc`.",
        ),
        field(
            "rules",
            Kind::List(&Kind::Object(&ALLOW)),
            "What is allowed; a request needs one rule that covers it.",
        ),
        field(
            "deny_rules",
            Kind::List(&ANY_RULE),
            "What is refused even so; needs `protocol`, and `rules` or `access`.",
        ),
        field(
            "allowed_ips",
            Kind::List(&Kind::Text),
            "Addresses or CIDR ranges in which every address of the host must lie; they may be private, never loopback, \
             link-local or unspecified.",
        ),
        field(
            "public_only",
            Kind::Bool,
            "Whether private addresses stay refused although the host is named exactly; not with `allowed_ips`. Default `false`: an \
             exact name may lead to the operator's own network.",
        ),
        field(
            "allow_encoded_slash",
            Kind::Bool,
            "Whether `%2F` may stand in a path (npm's scoped packages). Default `false`: refused.",
        ),
        field(
            "websocket_credential_rewrite",
            Kind::Bool,
            "Whether placeholders of credentials in the client's text messages are replaced, on `rest` and `websocket`. Default \
             `false`: a message that holds one is refused. See docs/credentials.md.",
        ),
        field(
            "request_body_credential_rewrite",
            Kind::Bool,
            "Whether placeholders of credentials in JSON, form and text bodies are replaced; not on `websocket`. Default `false`: \
             a body that holds one is refused. See docs/credentials.md.",
        ),
        later("allow_uninspected_credentials", Kind::Bool, "credentials on endpoints that are not inspected"),
        field(
            "persisted_queries",
            Kind::OneOf(&["deny", "allow_registered"]),
            "Whether GraphQL requests may name their document by hash or id alone: never (the default), or where \
             `graphql_persisted_queries` has it.",
        ),
        field(
            "graphql_persisted_queries",
            Kind::Map(&Kind::Object(&PERSISTED)),
            "What is registered, by hash or id.",
        ),
        field(
            "graphql_max_body_bytes",
            BODY_BYTES,
            "The longest body of a `graphql` request. Default 65536.",
        ),
        field("mcp", Kind::Object(&MCP), "Options of `protocol: mcp`."),
        field("json_rpc", Kind::Object(&JSON_RPC), "Options of `protocol: json-rpc`."),
        never("credential_signing", Kind::Text, "cofferdam signs no requests"),
        never("signing_service", Kind::Text, "cofferdam signs no requests"),
        never("signing_region", Kind::Text, "cofferdam signs no requests"),
    ],
};

const BODY_BYTES: Kind = Kind::Integer(1, crate::content::MAX_BODY_BYTES);

/// `mcp`.
pub(crate) static MCP: Object = Object {
    name: "mcp",
    fields: &[
        field("max_body_bytes", BODY_BYTES, "The longest body. Default 65536."),
        field(
            "strict_tool_names",
            Kind::Bool,
            "Whether the names of tools that are called must match `^[A-Za-z0-9_.-]{1,128}$`. Default `true`.",
        ),
        field(
            "allow_all_known_mcp_methods",
            Kind::Bool,
            "Whether no `rules`, or a rule without `method`, stands for every method that MCP defines. Default `false`.",
        ),
        field(
            "allow_client_responses",
            Kind::Bool,
            "Whether the client may answer requests of the server's (elicitation, sampling, roots). Default `true`. Ours.",
        ),
    ],
};

/// `json_rpc`.
pub(crate) static JSON_RPC: Object = Object {
    name: "json_rpc",
    fields: &[field("max_body_bytes", BODY_BYTES, "The longest body. Default 65536.")],
};

/// An item of `graphql_persisted_queries`.
pub(crate) static PERSISTED: Object = Object {
    name: "persisted query",
    fields: &[
        required(
            "operation_type",
            Kind::OneOf(&["query", "mutation", "subscription"]),
            "What the registered operation does.",
        ),
        field("operation_name", Kind::Text, "Its name."),
        field(
            "fields",
            Kind::List(&Kind::Text),
            "Its root fields. Absent: unknown; then no rule with `fields` allows it, and each one denies it.",
        ),
    ],
};

/// An item of `rules`.
pub(crate) static ALLOW: Object = Object {
    name: "rule",
    fields: &[required("allow", ANY_RULE, "What the rule lets through; of which form, `protocol` says.")],
};

const ANY_RULE: Kind =
    Kind::Either(&[Kind::Object(&RULE), Kind::Object(&GRAPHQL_RULE), Kind::Object(&RPC_RULE)]);

/// A rule under `allow`, or in `deny_rules`, of `rest` and `websocket`.
pub(crate) static RULE: Object = Object {
    name: "request rule",
    fields: &[
        required(
            "method",
            Kind::Text,
            "The method, in its own case; `GET` covers `HEAD`; `*` is any. On `websocket` endpoints `GET` is the handshake \
             and `WEBSOCKET_TEXT` the client's messages.",
        ),
        required("path", Kind::Text, "A pattern over the canonical path (of the handshake, for messages)."),
        field(
            "query",
            Kind::Map(&QUERY),
            "Parameters by decoded name, each with a pattern for the decoded value or `{ any: [patterns] }`. To allow, every \
             value must match; to deny, one is enough.",
        ),
        field(
            "text",
            QUERY,
            "A pattern for the whole message, or `{ any: [patterns] }`; with `method: WEBSOCKET_TEXT` only. Ours.",
        ),
        field(
            "json",
            Kind::Map(&VALUE),
            "What must stand in a message that is JSON, by member or JSON pointer; with `method: WEBSOCKET_TEXT` only. Ours.",
        ),
        later("command", Kind::Text, "SQL rules"),
    ],
};

/// A rule under `allow`, or in `deny_rules`, of `graphql`, and of `websocket` for messages of GraphQL.
pub(crate) static GRAPHQL_RULE: Object = Object {
    name: "graphql rule",
    fields: &[
        required(
            "operation_type",
            Kind::OneOf(&["query", "mutation", "subscription", "*"]),
            "What the operation does. On a `websocket` endpoint: an operation that a message of the client's asks for (`subscribe` of \
             graphql-transport-ws, `start` of graphql-ws); the handshake has a rule of its own, with `method: GET`.",
        ),
        field("operation_name", Kind::Loose, "A pattern for its name. Absent: any name, or none."),
        field(
            "fields",
            Kind::List(&Kind::Loose),
            "Patterns for the real names of its root fields. To allow, every root field must match one; to deny, one is enough.",
        ),
    ],
};

/// A rule under `allow`, or in `deny_rules`, of `mcp` and `json-rpc`.
pub(crate) static RPC_RULE: Object = Object {
    name: "call rule",
    fields: &[
        field(
            "method",
            Kind::Loose,
            "A pattern for the method of the call, `*` for any. Needed, but for `mcp.allow_all_known_mcp_methods`.",
        ),
        field(
            "tool",
            QUERY,
            "A pattern for the tool, or `{ any: [patterns] }`; with `method: tools/call` of `mcp` only.",
        ),
        field(
            "params",
            Kind::Map(&VALUE),
            "What must stand in `params`, by member or JSON pointer (`name` of `mcp` is the same as `tool`). Beyond `name`: ours.",
        ),
        field(
            "arguments",
            Kind::Map(&VALUE),
            "What must stand in the tool's arguments, by member or JSON pointer. Those that aren't named may be anything. Ours.",
        ),
    ],
};

const VALUE: Kind = Kind::Either(&[Kind::Text, Kind::Bool, Kind::Number, Kind::Object(&VALUE_MATCHER)]);

/// A JSON matcher with alternatives.
pub(crate) static VALUE_MATCHER: Object = Object {
    name: "value matcher",
    fields: &[required(
        "any",
        Kind::List(&Kind::Either(&[Kind::Text, Kind::Bool, Kind::Number])),
        "Patterns for texts, numbers and booleans, one of which must stand there.",
    )],
};

const QUERY: Kind = Kind::Either(&[Kind::Loose, Kind::Object(&MATCHER)]);

/// A query matcher with alternatives.
pub(crate) static MATCHER: Object = Object {
    name: "query matcher",
    fields: &[required("any", Kind::List(&Kind::Loose), "Patterns, one of which the value must match.")],
};

/// An item of `binaries`.
pub(crate) static BINARY: Object = Object {
    name: "binary",
    fields: &[
        required(
            "path",
            Kind::Text,
            "The program's path inside the sandbox after symbolic links, exact or as a pattern.",
        ),
        field("sha256", Kind::Loose, "The SHA-256 that the file must have, in 64 hex digits."),
        field(
            "ancestors",
            Kind::Bool,
            "Whether programs that it started, directly or not, are covered too. Default `true`, as OpenShell has it.",
        ),
        field(
            "allow_foreign_code",
            Kind::Bool,
            "Whether it may have code mapped that lies on a writable mount, is deleted or a memory file, such as native \
             Python packages in /sandbox. Default `false`: such code has the program's identity, but not its hash.",
        ),
    ],
};

/// Every object, in the order of the reference.
pub(crate) static OBJECTS: [&Object; 19] = [
    &POLICY,
    &FILESYSTEM,
    &PATH_RULE,
    &LANDLOCK,
    &PROCESS,
    &ENTRY,
    &ENDPOINT,
    &MCP,
    &JSON_RPC,
    &PERSISTED,
    &ALLOW,
    &RULE,
    &GRAPHQL_RULE,
    &RPC_RULE,
    &MATCHER,
    &VALUE_MATCHER,
    &BINARY,
    &PRESET_FILE,
    &PRESET,
];

/// The known name that is nearest to `written`, if one is near enough to have been meant.
#[must_use]
pub fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = |name: &&&'k str| distance(written, name) <= 1 + name.len().min(written.len()) / 4;
    known.iter().filter(near).min_by_key(|name| distance(written, name)).copied()
}

/// Levenshtein distance, ignoring case and taking `-` for `_`.
fn distance(a: &str, b: &str) -> usize {
    let fold = |s: &str| s.bytes().map(|b| if b == b'-' { b'_' } else { b.to_ascii_lowercase() }).collect();
    let (a, b): (Vec<u8>, Vec<u8>) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let cost = (diagonal + usize::from(x != y)).min(left + 1).min(above + 1);
            diagonal = *above;
            left = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("read-only", "read_only"), 0);
        assert_eq!(nearest("endpoint", &["endpoints", "binaries"]), Some("endpoints"));
        assert_eq!(nearest("hosst", &["host", "port"]), Some("host"));
        assert_eq!(nearest("zzz", &["host", "port"]), None);
    }
}
