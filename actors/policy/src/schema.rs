//! `policy schema`: the schema as JSON Schema, for editors. Made from the field tables; fields that aren't supported are
//! not in it.

use serde_json::{Map, Value, json};

use crate::fields::{ENDPOINT, Kind, OBJECTS, Object, POLICY, PRESET_FILE, Support};

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
    let there = || object.fields.iter().filter(|f| f.support == Support::Now);
    let properties: Map<String, Value> = there()
        .map(|field| {
            let mut value = kind_schema(&field.kind);
            if let Some(map) = value.as_object_mut() {
                map.insert("description".into(), field.doc.into());
            }
            (field.name.to_owned(), value)
        })
        .collect();
    let required: Vec<&str> = there().filter(|f| f.required).map(|f| f.name).collect();
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

fn kind_schema(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::List(item) => json!({ "type": "array", "items": kind_schema(item) }),
        Kind::Map(value) => json!({ "type": "object", "additionalProperties": kind_schema(value) }),
        Kind::Object(object) => reference(object),
        Kind::Either(kinds) => json!({ "anyOf": kinds.iter().map(kind_schema).collect::<Vec<_>>() }),
    }
}
