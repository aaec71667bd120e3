//! A small world of policies and requests, thrown by dice: few names, so that things meet.

use cofferdam_policy::{Caller, Executable, Protocol};
use serde_json::{Value, json};

use super::slow::{Part, Said};

const HOSTS: [&str; 7] = [
    "a.example.com",
    "b.example.com",
    "x.a.example.com",
    "example.com",
    "a-1.example.com",
    "10.1.1.1",
    "10.2.2.2",
];
const PROGRAMS: [&str; 4] = ["/usr/bin/a", "/usr/bin/b", "/usr/lib/x/a", "/sandbox/v/bin/a"];
const PATHS: [&str; 19] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/b",
    "/b/x%2Fy",
    "/ab/b",
    "/A",
    "/a/B/",
    "/a/%2562",
    "/%2541b/b",
    "/b.",
    "/a%20./b",
    "/A./",
    "/a::$DATA",
    "/b:$I30:$INDEX_ALLOCATION/%E2%80%8BB.",
    "/a/b:c",
    "/a/%EF%BB%BFb%C2%AD",
];
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "POST", "DELETE", "OPTIONS", "post", "Head"];
const CALLS: [&str; 6] = ["tools/call", "tools/call", "tools/list", "initialize", "x/own", "reports"];
const TOOLS: [&str; 4] = ["read", "read_all", "drop", "odd name"];
const FIELDS: [&str; 4] = ["viewer", "repo", "repos", "drop"];

/// What is asked, but for what stands behind the head.
pub struct Question {
    pub caller: Caller,
    pub host: &'static str,
    pub port: u16,
    pub method: &'static str,
    pub path: &'static str,
    pub query: Vec<(&'static str, &'static str)>,
    pub websocket: bool,
}

/// A generator whose throws are the same every time: bytes given for it, and after them xorshift64*.
pub struct Dice {
    loaded: std::vec::IntoIter<u8>,
    seed: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { loaded: Vec::new().into_iter(), seed: seed | 1 }
    }

    /// Dice that fall as `bytes` say, a throw a byte.
    pub fn loaded(bytes: &[u8]) -> Self {
        Self { loaded: Vec::from(bytes).into_iter(), ..Self::new(1) }
    }

    fn throw(&mut self) -> usize {
        if let Some(byte) = self.loaded.next() {
            return byte.into();
        }
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    /// One in `n`.
    fn once_in(&mut self, n: usize) -> bool {
        self.throw().is_multiple_of(n)
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.throw() % list.len()]
    }

    fn many<T>(&mut self, from: usize, to: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = from + self.throw() % (to - from + 1);
        (0..count).map(|_| one(self)).collect()
    }

    // Policies.

    fn pattern(&mut self) -> &'static str {
        self.of(&["/**", "/**", "/a/**", "/*", "/a/*", "/**/b", "/a*/b", "/*/*", "/a", "/b"])
    }

    fn values(&mut self) -> String {
        let one = |dice: &mut Self| dice.of(&["x", "'5'", "5", "true", "false", "'x*'", "0", "'**'"]);
        let list = self.many(1, 2, one);
        if list.len() == 1 { list[0].to_owned() } else { format!("{{ any: [{}] }}", list.join(", ")) }
    }

    fn matchers(&mut self) -> String {
        let keys = self.of(&[&["k"][..], &["/k/j"], &["/0"], &["k", "/l/0"]]);
        let list: Vec<String> = keys.iter().map(|key| format!("'{key}': {}", self.values())).collect();
        format!("{{ {} }}", list.join(", "))
    }

    fn http_rule(&mut self, websocket: bool) -> String {
        let method = match websocket {
            true => self.of(&["GET", "WEBSOCKET_TEXT", "WEBSOCKET_TEXT", "*"]),
            false => self.of(&["GET", "POST", "*", "HEAD"]),
        };
        let mut out = format!("method: '{method}', path: '{}'", self.pattern());
        if self.once_in(5) {
            out += ", query: { ";
            out += self.of(&["q: '1'", "q: { any: ['1', '2*'] }", "q: '*', r: '1'", "q_r: '1'"]);
            out += " }";
        }
        if method == "WEBSOCKET_TEXT" && self.once_in(3) {
            out += ", text: ";
            out += self.of(&["'**'", "'*k*'", "{ any: [x, '*5*'] }"]);
        }
        if method == "WEBSOCKET_TEXT" && self.once_in(3) {
            out += &format!(", json: {}", self.matchers());
        }
        format!("{{ {out} }}")
    }

    fn rpc_rule(&mut self, mcp: bool, profile: bool, single: bool) -> String {
        let mut out = Vec::new();
        let tools = if single { self.once_in(2) } else { false };
        if tools {
            let tool = self.of(&["read", "'read*'", "{ any: [drop, read] }", "'**'"]);
            if !(profile && self.once_in(2)) {
                out.push("method: tools/call".to_owned());
            }
            out.push(format!("tool: {tool}"));
            if self.once_in(2) {
                out.push(format!("arguments: {}", self.matchers()));
            }
        } else {
            let methods: &[&str] = match (mcp, single) {
                (_, true) => &["tools/list", "initialize", "'x/*'"],
                _ => &["tools/list", "tools/call", "'tools/*'", "'*'", "'**'", "initialize", "reports"],
            };
            out.push(format!("method: {}", self.of(methods)));
            if self.once_in(4) {
                out.push(format!("params: {}", self.matchers()));
            }
        }
        format!("{{ {} }}", out.join(", "))
    }

    fn graphql_rule(&mut self) -> String {
        let mut out = format!("operation_type: '{}'", self.of(&["query", "mutation", "subscription", "*"]));
        if self.once_in(3) {
            out += &format!(", operation_name: '{}'", self.of(&["N", "M*", "*"]));
        }
        if self.once_in(2) {
            let fields = self.many(1, 3, |dice| dice.of(&["viewer", "'repo*'", "drop", "'**'"]));
            out += &format!(", fields: [{}]", fields.join(", "));
        }
        format!("{{ {out} }}")
    }

    fn ruled(&mut self, low: usize, mut rule: impl FnMut(&mut Self) -> String) -> String {
        let allow: Vec<String> =
            self.many(low, 2, &mut rule).into_iter().map(|rule| format!("{{ allow: {rule} }}")).collect();
        let deny = self.many(0, 1, &mut rule);
        let mut out = String::new();
        if !allow.is_empty() {
            out += &format!(", rules: [ {} ]", allow.join(", "));
        }
        if !deny.is_empty() {
            out += &format!(", deny_rules: [ {} ]", deny.join(", "));
        }
        out
    }

    fn access_or_rules(&mut self, mut rule: impl FnMut(&mut Self) -> String) -> String {
        if self.once_in(2) {
            return self.ruled(1, rule);
        }
        let access = self.of(&["read-only", "read-write", "full"]);
        let deny = self.many(0, 1, &mut rule);
        let deny =
            if deny.is_empty() { String::new() } else { format!(", deny_rules: [ {} ]", deny.join(", ")) };
        format!(", access: {access}{deny}")
    }

    fn inspected(&mut self) -> String {
        let mut out = match self.throw() % 10 {
            0..=2 => format!("protocol: rest{}", self.access_or_rules(|dice| dice.http_rule(false))),
            3 | 4 => format!("protocol: websocket{}", self.messages()),
            5 | 6 => self.mcp(),
            7 => format!("protocol: json-rpc{}", self.ruled(1, |dice| dice.rpc_rule(false, false, false))),
            _ => self.graphql(),
        };
        if self.once_in(3) {
            out += &format!(", path: '{}'", self.pattern());
        }
        if self.once_in(3) {
            out += ", enforcement: audit";
        }
        if self.once_in(3) {
            out += ", allow_encoded_slash: true";
        }
        out
    }

    /// A WebSocket's messages are judged as they are, or as GraphQL's.
    fn messages(&mut self) -> String {
        if self.once_in(2) {
            return self.access_or_rules(|dice| dice.http_rule(true));
        }
        let deny = |dice: &mut Self| if dice.once_in(4) { dice.http_rule(true) } else { dice.graphql_rule() };
        let mut out = match self.throw() % 3 {
            0 => format!(", access: {}", self.of(&["read-only", "read-write", "full"])),
            _ => {
                let allow = self.many(1, 2, |dice| format!("{{ allow: {} }}", dice.graphql_rule()));
                let handshake = format!("{{ allow: {{ method: GET, path: '{}' }} }}", self.pattern());
                format!(", rules: [ {handshake}, {} ]", allow.join(", "))
            }
        };
        let deny = self.many(0, 1, deny);
        if !deny.is_empty() {
            out += &format!(", deny_rules: [ {} ]", deny.join(", "));
        }
        if out.contains("operation_type") {
            out += self.registered();
        }
        out
    }

    fn mcp(&mut self) -> String {
        let (strict, profile, answers) = (!self.once_in(3), self.once_in(3), !self.once_in(3));
        let single = self.once_in(2);
        let low = if profile { 0 } else { 1 };
        let rules = self.ruled(low, |dice| dice.rpc_rule(true, profile, single));
        format!(
            "protocol: mcp, mcp: {{ strict_tool_names: {strict}, allow_all_known_mcp_methods: {profile}, allow_client_responses: {answers} }}{rules}"
        )
    }

    fn graphql(&mut self) -> String {
        let registered = self.registered();
        format!("protocol: graphql{registered}{}", self.access_or_rules(Self::graphql_rule))
    }

    fn registered(&mut self) -> &'static str {
        match self.once_in(2) {
            true => {
                ", persisted_queries: allow_registered, graphql_persisted_queries: { \
                 h1: { operation_type: query, fields: [viewer] }, h2: { operation_type: mutation, operation_name: N } }"
            }
            false => "",
        }
    }

    fn endpoint(&mut self) -> String {
        let ports = self.of(&["[443]", "[80]", "[80, 443]"]);
        if self.once_in(8) {
            return format!("{{ ports: {ports}, allowed_ips: [10.2.0.0/16] }}");
        }
        let host = self.of(&[
            "a.example.com",
            "a.example.com",
            "b.example.com",
            "*.example.com",
            "**.example.com",
            "a-*.example.com",
            "10.1.1.1",
        ]);
        let rest = match self.throw() % 8 {
            0 => String::from("protocol: tcp"),
            1 => String::from("tls: skip"),
            _ => self.inspected(),
        };
        format!("{{ host: '{host}', ports: {ports}, {rest} }}")
    }

    fn binary(&mut self) -> String {
        let pin = [7u8; 32].map(|b| format!("{b:02x}")).concat();
        let path =
            self.of(&["/usr/bin/a", "/usr/bin/b", "/usr/bin/*", "/usr/**", "/sandbox/**/bin/a", "/**"]);
        let pin = if self.once_in(5) { format!(", sha256: '{pin}'") } else { String::new() };
        let (ancestors, foreign) = (self.once_in(2), self.once_in(2));
        format!("{{ path: '{path}', ancestors: {ancestors}, allow_foreign_code: {foreign}{pin} }}")
    }

    pub fn policy(&mut self) -> String {
        let mut out = String::from("version: 1\nnetwork_policies:\n");
        for index in 0..1 + self.throw() % 3 {
            out += &format!("  e{index}:\n    endpoints:\n");
            for endpoint in self.many(1, 3, Self::endpoint) {
                out += &format!("      - {endpoint}\n");
            }
            if !self.once_in(6) {
                out += &format!("    binaries: [ {} ]\n", self.many(0, 2, Self::binary).join(", "));
            }
        }
        out
    }

    // Requests.

    fn program(&mut self) -> Executable {
        let byte = self.of(&[7u8, 8]);
        Executable { path: self.of(&PROGRAMS).into(), sha256: [byte; 32] }
    }

    pub fn question(&mut self) -> Question {
        Question {
            caller: Caller {
                executable: self.program(),
                ancestors: self.many(0, 2, Self::program).into(),
                foreign_code: self.once_in(4),
                party: cofferdam_policy::Party::UNKNOWN,
            },
            host: self.of(&HOSTS),
            port: self.of(&[80, 443]),
            method: self.of(&METHODS),
            path: self.of(&PATHS),
            query: self.many(0, 2, |dice| {
                let names = ["q", "r", "q", "r", "Q", "r[]", "q[a]", "[q]", "[r", "q_r", "q[r", "[q[r]"];
                (dice.of(&names), dice.of(&["1", "2", "22", "3"]))
            }),
            websocket: self.once_in(6),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.throw() % if depth == 0 { 9 } else { 12 } {
            0 => json!(5),
            1 => json!(6),
            2 => json!("5"),
            3 => json!(true),
            4 => json!("true"),
            5 => json!("x"),
            6 => json!("xy"),
            7 => json!(0),
            8 => Value::Null,
            9 => Value::Array(self.many(0, 2, |dice| dice.value(depth - 1))),
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let members =
            self.many(0, 3, |dice| (dice.of(&["k", "k", "K", "j", "l"]).to_owned(), dice.value(depth)));
        Value::Object(members.into_iter().collect())
    }

    /// What stands behind the head, in parts and as it is written.
    pub fn content(&mut self, body: Option<Protocol>, websocket: bool) -> (Vec<Part>, String) {
        if self.once_in(20) {
            return (vec![Part::Unreadable], String::new());
        }
        if websocket {
            let said = |text: String, graphql: Said| (vec![Part::Text { text: text.clone(), graphql }], text);
            return match self.throw() % 7 {
                0 => (vec![Part::Head], String::new()),
                1 => (vec![Part::Binary], String::new()),
                2 => {
                    let text = self.of(&["x", "k5k", "5", "{\"k\":", "\"x\""]).to_owned();
                    said(text, Said::Nothing)
                }
                3 => said(self.object(2).to_string(), Said::Nothing),
                4 => {
                    let text = self.of(&[
                        "{\"type\":\"ping\"}",
                        "{\"type\":\"connection_init\",\"payload\":{\"k\":5}}",
                        "{\"id\":\"5\",\"type\":\"complete\"}",
                        "{\"type\":\"stop\",\"id\":\"k\"}",
                    ]);
                    said(text.to_owned(), Said::Lifecycle)
                }
                _ => {
                    let (operation, payload) = self.operation();
                    let kind = self.of(&["subscribe", "start"]);
                    let text = json!({ "id": "1", "type": kind, "payload": payload }).to_string();
                    said(text, Said::Operation(Box::new(operation)))
                }
            };
        }
        match body {
            Some(Protocol::Graphql) if !self.once_in(8) => self.operations(),
            Some(protocol) if !self.once_in(8) => self.calls(protocol == Protocol::Mcp),
            _ => match self.throw() % 4 {
                0 => self.calls(body != Some(Protocol::JsonRpc)),
                1 => self.operations(),
                _ => (vec![Part::Head], String::new()),
            },
        }
    }

    fn written<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> (Part, T),
        text: fn(&T) -> String,
    ) -> (Vec<Part>, String) {
        if self.once_in(5) {
            let (parts, members): (Vec<Part>, Vec<T>) = self.many(1, 3, one).into_iter().unzip();
            let members: Vec<String> = members.iter().map(text).collect();
            return (parts, format!("[{}]", members.join(",")));
        }
        let (part, member) = one(self);
        (vec![part], text(&member))
    }

    fn calls(&mut self, mcp: bool) -> (Vec<Part>, String) {
        self.written(|dice| dice.call(mcp), Value::to_string)
    }

    fn call(&mut self, mcp: bool) -> (Part, Value) {
        if self.once_in(10) {
            return (Part::Answer, json!({ "jsonrpc": "2.0", "id": 1, "result": {} }));
        }
        let method = self.of(&CALLS);
        let mut message = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        let mut tool = None;
        let params = if method == "tools/call" {
            let name = self.of(&TOOLS);
            tool = mcp.then(|| name.to_owned());
            let mut params = json!({ "name": name });
            if !self.once_in(4) {
                params["arguments"] = self.object(2);
            }
            Some(params)
        } else {
            match self.throw() % 3 {
                0 => None,
                1 => Some(Value::Array(self.many(0, 2, |dice| dice.value(1)))),
                _ => Some(self.object(2)),
            }
        };
        if let Some(params) = &params {
            message["params"] = params.clone();
        }
        (Part::Call { method: method.to_owned(), tool, params }, message)
    }

    fn operations(&mut self) -> (Vec<Part>, String) {
        self.written(Self::operation, Value::to_string)
    }

    fn operation(&mut self) -> (Part, Value) {
        let name = self.once_in(2).then(|| self.of(&["N", "M1", "O"]).to_owned());
        if self.once_in(4) {
            let id = self.of(&["h1", "h2", "h3"]).to_owned();
            let body = json!({ "documentId": id, "operationName": name });
            return (Part::Operation { kind: "query", name, fields: None, persisted: Some(id) }, body);
        }
        let kind = self.of(&["query", "mutation", "subscription"]);
        let mut fields = self.many(1, 3, |dice| dice.of(&FIELDS).to_owned());
        let mut text = format!("{kind} {} {{", name.as_deref().unwrap_or_default());
        let mut fragment = String::new();
        for (index, field) in fields.iter().enumerate() {
            match self.throw() % 4 {
                0 => text += &format!(" viewer: {field} {{ drop }}"),
                1 => text += &format!(" ... on Q {{ {field} }}"),
                2 => {
                    text += &format!(" ...F{index}");
                    fragment += &format!(" fragment F{index} on Q {{ {field} ...F{index} }}");
                }
                _ => text += &format!(" {field}"),
            }
        }
        text += " }";
        text += &fragment;
        fields.sort();
        fields.dedup();
        let mut body = json!({ "query": text });
        if let Some(name) = name.as_ref().filter(|_| self.once_in(2)) {
            body["query"] = json!(format!("{text} query Other {{ drop }}"));
            body["operationName"] = json!(name);
        }
        (Part::Operation { kind, name, fields: Some(fields), persisted: None }, body)
    }
}
