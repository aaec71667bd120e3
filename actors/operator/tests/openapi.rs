//! openapi.json against the server: every route described, every description served, every answer as
//! described.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod house;

use std::collections::BTreeSet;

use house::{event, house, identity, status, tree};
use operator::{
    Code, Fault, OPENAPI,
    routes::TABLE,
    types::{
        AcceptIdentity, Accepted, ApprovalAnswer, ApprovalVerdict, ExecRequest, ForgetIdentity, PolicyChange,
        Scope, Stop, Window,
    },
};
use serde_json::{Value, json};

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("openapi.json is JSON")
}

/// Enough of JSON Schema for what the document uses; an unknown keyword fails.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{at}: {why}: {value}"));
    let fields = schema.as_object().ok_or("no schema")?;
    for (keyword, wanted) in fields {
        let fits = match keyword.as_str() {
            "description" => true,
            "$ref" => {
                let target = wanted.as_str().and_then(|r| document.pointer(r.trim_start_matches('#')));
                return check(document, target.ok_or(format!("{at}: dangling {wanted}"))?, value, at);
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|t| is_a(value, t.as_str().unwrap())),
                one => is_a(value, one.as_str().unwrap()),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "oneOf" => {
                wanted.as_array().unwrap().iter().filter(|s| check(document, s, value, at).is_ok()).count()
                    == 1
            }
            "minimum" => value.as_i64().is_none_or(|n| n >= wanted.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|n| n <= wanted.as_i64().unwrap()),
            "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= wanted.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|a| a.len() as u64 <= wanted.as_u64().unwrap()),
            // Of the two patterns, both are tried by their own tests.
            "format" | "pattern" => true,
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, wanted, item, &format!("{at}[{n}]"))?;
                }
                true
            }
            "required" => wanted.as_array().unwrap().iter().all(|k| value.get(k.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    if let Some(inner) = value.get(name) {
                        check(document, schema, inner, &format!("{at}.{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" if wanted == &Value::Bool(false) => {
                let known = schema["properties"].as_object().unwrap();
                value.as_object().is_none_or(|o| o.keys().all(|k| known.contains_key(k)))
            }
            "additionalProperties" => {
                value.as_object().is_none_or(|o| o.values().all(|v| check(document, wanted, v, at).is_ok()))
            }
            unknown => return Err(format!("{at}: the test does not know the keyword {unknown}")),
        };
        if !fits {
            return fail(keyword);
        }
    }
    Ok(())
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn conforms(name: &str, value: &impl serde::Serialize) {
    let document = document();
    let schema = json!({"$ref": format!("#/components/schemas/{name}")});
    check(&document, &schema, &serde_json::to_value(value).unwrap(), name).unwrap();
}

#[test]
fn the_document_and_the_table_list_the_same() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            described.insert((method.to_uppercase(), path.clone(), id.to_owned()));
        }
    }
    let served: BTreeSet<_> =
        TABLE.iter().map(|(m, p, o)| (m.to_string(), (*p).to_owned(), o.id().to_owned())).collect();
    assert_eq!(described, served);
    assert_eq!(served.len(), TABLE.len());
}

#[test]
fn every_schema_is_used_and_every_reference_leads_somewhere() {
    let document = document();
    let mut used = BTreeSet::new();
    fn walk(value: &Value, used: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(k, v)| match (k.as_str(), v) {
                ("$ref", Value::String(target)) => drop(used.insert(target.clone())),
                _ => walk(v, used),
            }),
            Value::Array(items) => items.iter().for_each(|i| walk(i, used)),
            _ => {}
        }
    }
    walk(&document, &mut used);
    let known: BTreeSet<_> = document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
        .map(|k| format!("#/components/schemas/{k}"))
        .collect();
    assert_eq!(used, known);
}

#[test]
fn types_are_as_described() {
    conforms("Status", &status());
    conforms("TreeNode", &tree());
    conforms("Event", &event(1));
    conforms(
        "PolicyChange",
        &PolicyChange { generation: 1, unchanged: true, warnings: vec!["w".into()], restarted: vec![] },
    );
    conforms("Accepted", &Accepted { action: "crash".into(), target: "proxy".into() });
    conforms("Identity", &identity());
    conforms("AcceptIdentity", &AcceptIdentity { path: "/a".into(), sha256: house::SHA.into() });
    conforms("ForgetIdentity", &ForgetIdentity { path: "/a".into() });
    conforms("Approval", &house::approval());
    let answer = ApprovalAnswer {
        verdict: ApprovalVerdict::Approve,
        scope: Some(Scope::Good),
        method: Some("*".into()),
        path: Some("/**".into()),
    };
    conforms("ApprovalAnswer", &answer);
    conforms("Stop", &Stop::default());
    let mut exec = ExecRequest { command: vec!["a".into()], ..ExecRequest::default() };
    conforms("ExecRequest", &exec);
    exec.tty = Some(Window { rows: 1, cols: 2 });
    exec.env.insert("A".into(), "b".into());
    conforms("ExecRequest", &exec);
    // The test would notice a wrong one.
    let document = document();
    let schema = &document["components"]["schemas"]["Accepted"];
    for wrong in [
        json!({"action": "stop"}),
        json!({"action": "fly", "target": "x"}),
        json!({"action": "stop", "target": "x", "y": 1}),
    ] {
        assert!(check(&document, schema, &wrong, "wrong").is_err(), "{wrong}");
    }
}

#[test]
fn every_code_is_described() {
    for code in [
        Code::BadRequest,
        Code::Forbidden,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::Conflict,
        Code::TooLarge,
        Code::InvalidPolicy,
        Code::CommandNotFound,
        Code::NotExecutable,
        Code::UpgradeRequired,
        Code::Internal,
        Code::Unavailable,
        Code::Timeout,
    ] {
        conforms("Fault", &Fault::new(code, "x").diagnostics(json!([])));
    }
}

/// What the server sends, read as JSON by nothing of ours.
#[tokio::test]
async fn answers_are_as_described() {
    use http_body_util::{BodyExt as _, Full};
    let house = house();
    let document = document();
    for (method, path, operation) in &TABLE {
        if ["events", "logs", "exec", "metrics", "crash", "openapi"].contains(&operation.id()) {
            continue;
        }
        let stream = tokio::net::UnixStream::connect(&house.path).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path.replace("{name}", "proxy"))
            .header("host", "x")
            .body(Full::new(bytes::Bytes::new()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let described = &document["paths"][path][method.as_str().to_lowercase()]["responses"];
        let described = described.get(response.status().as_str()).unwrap_or(&described["default"]);
        let schema = &described["content"]["application/json"]["schema"];
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap();
        check(&document, schema, &value, path).unwrap();
    }
}
