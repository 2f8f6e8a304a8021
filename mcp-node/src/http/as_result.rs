//! A refused call told as a result that failed: what most hosts show to their model, which then can do as it says.
//!
//! The same headers and data as of an error; the status is 200, or clients would not read the result. Absent on
//! purpose: refusals that are not about how much may be called, which a model cannot act on.

use axum::{http::StatusCode, response::Response};
use mcp_node_core::Refusal;
use serde_json::{json, value::RawValue};

use crate::{clock, wire::answer};

/// The member of the result's `_meta` that holds what a program can read.
const META: &str = "dev.tollbook/refusal";

/// Whether a refusal can be told so.
pub fn is_for_models(refusal: &Refusal) -> bool {
    refusal.status() == StatusCode::TOO_MANY_REQUESTS
}

/// The refusal as the result of the call `id`; `modern` = of a revision whose results say their type.
#[must_use]
pub fn result(refusal: &Refusal, id: &str, modern: bool) -> Response {
    let now = clock::wall();
    let mut data = answer::data(refusal, now);
    data["code"] = refusal.code().into();
    let text = json!({ "type": "text", "text": refusal.advice(now) });
    let mut result = json!({ "content": [text], "isError": true, "_meta": { META: data } });
    if modern {
        result["resultType"] = "complete".into();
    }
    // The id goes back byte for byte, whatever number or text it is.
    let id = RawValue::from_string(id.to_owned()).map_or("null".into(), |id| id.get().to_owned());
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    let mut response = answer::refuse(refusal, Some(&id));
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = body.into();
    response
}
