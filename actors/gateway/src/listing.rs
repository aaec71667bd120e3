//! Answers `GET /v1/models` and `GET /v1/models/{id}` with the models of the routes, in a shape that both
//! client libraries read.
//!
//! No provider is asked. A single model exists if the list has it, and then it is the same object as in the
//! list.

use http::{Response, StatusCode};
use policy::Caller;
use serde_json::{Value, json};

use crate::{
    Body,
    refusal::{Refusal, json as json_answer},
    routes::Routes,
};

/// The list.
pub(crate) fn all(routes: &Routes, caller: &Caller, request_id: &str) -> Response<Body> {
    let listed = routes.listed(caller);
    let data: Vec<_> = listed.iter().map(|name| shown(name)).collect();
    let list = json!({"object": "list", "data": data, "has_more": false,
                      "first_id": listed.first(), "last_id": listed.last()});
    json_answer(StatusCode::OK, &list, request_id)
}

/// The model of this name.
///
/// # Errors
/// The list doesn't have the model.
pub(crate) fn one(
    routes: &Routes,
    caller: &Caller,
    id: &str,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    let listed = routes.listed(caller);
    match listed.iter().find(|name| *name == id) {
        Some(name) => Ok(json_answer(StatusCode::OK, &shown(name), request_id)),
        None => Err(Refusal::no_model(id, &listed)),
    }
}

fn shown(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": "cofferdam",
           "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"})
}
