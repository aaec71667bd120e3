//! `policy schema`: the schema as JSON Schema, for editors. Made from the field tables; it takes every file
//! that the reader takes. Of fields that aren't supported it has those that may be there as `false`.

use serde_json::{Map, Value, json};

use crate::fields::{ENDPOINT, Field, Kind, OBJECTS, Object, POLICY, PORTS, PRESET_FILE, Support};

/// The JSON Schema (draft 2020-12) of policy files and, under `$defs`, of preset files.
#[must_use]
pub fn schema() -> Value {
    let definitions: Map<String, Value> =
        OBJECTS.iter().map(|object| (identifier(object), object_schema(object))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cofferdam policy, version 1",
        "anyOf": [ reference(&POLICY), reference(&PRESET_FILE) ],
        "$defs": definitions,
    })
}

fn identifier(object: &Object) -> String {
    object.name.replace(' ', "_")
}

fn reference(object: &Object) -> Value {
    json!({ "$ref": format!("#/$defs/{}", identifier(object)) })
}

fn object_schema(object: &Object) -> Value {
    let properties: Map<String, Value> = object
        .fields
        .iter()
        .filter(|field| !matches!(field.support, Support::Never(_)))
        .map(|field| (field.name.to_owned(), field_schema(field)))
        .collect();
    let required: Vec<&str> = object.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    let mut out = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    if std::ptr::eq(object, &ENDPOINT)
        && let Some(map) = out.as_object_mut()
    {
        map.insert("oneOf".into(), json!([ { "required": ["port"] }, { "required": ["ports"] } ]));
    }
    out
}

fn field_schema(field: &Field) -> Value {
    let mut value = match field.support {
        // Off is off.
        Support::Later(_) => json!({ "const": false }),
        _ => kind_schema(&field.kind),
    };
    if let Some(map) = value.as_object_mut() {
        // With nothing behind it: no network.
        if field.name == "network_policies" {
            map.insert("type".into(), json!(["object", "null"]));
        }
        map.insert("description".into(), field.doc.into());
    }
    value
}

fn kind_schema(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Loose => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Port => json!({ "anyOf": [
            { "type": "integer", "minimum": PORTS.start(), "maximum": PORTS.end() },
            { "type": "string", "pattern": "^0*[1-9][0-9]{0,4}$" },
        ] }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::List(item) => json!({ "type": "array", "items": kind_schema(item) }),
        Kind::Map(value) => json!({ "type": "object", "additionalProperties": kind_schema(value) }),
        Kind::Object(object) => reference(object),
        Kind::Either(kinds) => json!({ "anyOf": kinds.iter().map(kind_schema).collect::<Vec<_>>() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of JSON Schema the schema is written in, and no more.
    fn fits(schema: &Value, value: &Value, all: &Value) -> bool {
        let list = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let named = |name: &Value| match name.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            "null" => value.is_null(),
            other => panic!("{other}"),
        };
        let typed = match &schema["type"] {
            Value::Null => true,
            Value::Array(types) => types.iter().any(named),
            one => named(one),
        };
        let reference = schema["$ref"].as_str().map(|at| &all["$defs"][at.rsplit('/').next().unwrap()]);
        let within = |low: bool, key: &str| match (schema[key].as_i64(), value.as_i64()) {
            (Some(bound), Some(number)) => {
                if low {
                    number >= bound
                } else {
                    number <= bound
                }
            }
            _ => true,
        };
        let members = |(name, member): (&String, &Value)| match (
            &schema["properties"][name],
            &schema["additionalProperties"],
        ) {
            (Value::Null, Value::Null) => true,
            (Value::Null, Value::Bool(allowed)) => *allowed,
            (Value::Null, others) => fits(others, member, all),
            (known, _) => fits(known, member, all),
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let count = |key: &str| list(key).iter().filter(|one| fits(one, value, all)).count();
        typed
            && reference.is_none_or(|reference| fits(reference, value, all))
            && schema.get("const").is_none_or(|wanted| wanted == value)
            && (list("enum").is_empty() || list("enum").contains(value))
            && within(true, "minimum")
            && within(false, "maximum")
            && (schema["pattern"].is_null() || value.as_str().is_none_or(digits))
            && list("required")
                .iter()
                .all(|name| !value.is_object() || value.get(name.as_str().unwrap()).is_some())
            && value.as_object().is_none_or(|map| map.iter().all(members))
            && (schema["items"].is_null()
                || value
                    .as_array()
                    .is_none_or(|all_of| all_of.iter().all(|item| fits(&schema["items"], item, all))))
            && (list("anyOf").is_empty() || count("anyOf") > 0)
            && (list("oneOf").is_empty() || count("oneOf") == 1)
    }

    fn is_taken(text: &str) -> (bool, bool) {
        let value: Value = serde_yaml::from_str(text).unwrap();
        let preset = value.get("preset").is_some();
        let read =
            if preset { crate::parse_preset("p", text).is_ok() } else { crate::parse("p", text).is_ok() };
        (read, fits(&schema(), &value, &schema()))
    }

    #[test]
    fn what_the_reader_takes_the_schema_takes() {
        let builtins = crate::profiles().iter().chain(crate::presets()).map(|it| it.text.to_owned());
        let endpoint = |text: &str| {
            format!(
                "version: 1\nnetwork_policies: {{ a: {{ endpoints: [ {{ host: a.example.com, {text} }} ] }} }}\n"
            )
        };
        let rule = |protocol: &str, text: &str| {
            endpoint(&format!("port: 443, protocol: {protocol}, rules: [ {{ allow: {{ {text} }} }} ]"))
        };
        let odd = [
            "version: 1\nprocess: { run_as_user: 1000, run_as_group: \"1500\" }\n".to_owned(),
            "version: 1\nnetwork_policies:\n".to_owned(),
            endpoint("port: \"443\""),
            endpoint("ports: [\"443\", 22], path: \"\""),
            endpoint("port: 22, allow_uninspected_credentials: false"),
            rule(
                "rest",
                "method: GET, path: /a, query: { n: 5, on: true, of: { any: [1.5, x] } }, command: false",
            ),
            rule("graphql", "operation_type: query, operation_name: 5, fields: [5, x]"),
            rule("mcp", "method: tools/call, tool: 5, arguments: { n: -5, m: 1.5, o: { any: [-1, true] } }"),
        ];
        for text in builtins.chain(odd) {
            assert_eq!(is_taken(&text), (true, true), "{text}");
        }
    }

    #[test]
    fn what_neither_takes() {
        for text in [
            "version: 1\nnetwork_middlewares: { a: b }\n",
            "version: 1\nprocess: { run_as: sandbox }\n",
            "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 70000 } ] } }\n",
            "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: \"\" } ] } }\n",
            "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 22, allow_uninspected_credentials: true } ] } }\n",
        ] {
            assert_eq!(is_taken(text), (false, false), "{text}");
        }
    }
}
