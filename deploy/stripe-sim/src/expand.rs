//! `expand[]`: puts objects in the place of their ids, and adds the parts that Stripe sends only on demand.
//!
//! Paths go through lists by `data`, at most four levels deep. Absent on purpose: objects that the simulator does not have; their
//! fields are null here and stay null.

use crate::error::ApiError;
use crate::list;
use crate::resource;
use crate::schema::spec;
use crate::store::World;
use serde_json::{Value, json};

const DEPTH_LIMIT: usize = 4;

/// Expands every path in the answer.
///
/// # Errors
/// 400 for a path that leads nowhere or nests past four levels.
pub fn expand(world: &World, answer: &mut Value, paths: &[String]) -> Result<(), ApiError> {
    for path in paths {
        let segments: Vec<&str> = path.split('.').collect();
        if segments.len() > DEPTH_LIMIT {
            let message = format!(
                "You cannot expand more than {DEPTH_LIMIT} levels of a property. Property: {path}"
            );
            return Err(ApiError::invalid("expand", message));
        }
        walk(world, answer, &segments, "").map_err(|()| {
            ApiError::invalid("expand", format!("This property cannot be expanded ({path})."))
        })?;
    }
    Ok(())
}

/// `inside` is the component of a node that does not name its own.
fn walk(world: &World, node: &mut Value, path: &[&str], inside: &str) -> Result<(), ()> {
    let Some((field, rest)) = path.split_first() else { return Ok(()) };
    if let Value::Array(rows) = node {
        return rows.iter_mut().try_for_each(|row| walk(world, row, path, inside));
    }
    if let Some(part) = on_demand(world, node, field) {
        node[*field] = part;
        return walk(world, &mut node[*field], rest, "");
    }
    let component = node["object"].as_str().unwrap_or(inside).to_owned();
    let holds = spec().component_of(&component, field).unwrap_or_default();
    let is_expandable = spec().is_expandable(&component, field);
    match node.get_mut(*field) {
        Some(Value::String(id)) => {
            let found = world.store.find(id).map(|document| resource::render(world, document));
            match found {
                Some(object) if is_expandable => {
                    node[*field] = object;
                    walk(world, &mut node[*field], rest, "")
                }
                _ => Err(()),
            }
        }
        Some(Value::Array(ids)) if is_expandable => ids.iter_mut().try_for_each(|id| {
            let found = id.as_str().and_then(|id| world.store.find(id)).ok_or(())?;
            *id = resource::render(world, found);
            walk(world, id, rest, "")
        }),
        Some(inner @ (Value::Object(_) | Value::Array(_))) if is_expandable || !rest.is_empty() => {
            walk(world, inner, rest, holds)
        }
        Some(Value::Null) => Ok(()),
        _ => Err(()),
    }
}

/// Parts that are not in an object until asked for.
fn on_demand(world: &World, node: &Value, field: &str) -> Option<Value> {
    let id = node["id"].as_str()?;
    match (node["object"].as_str()?, field) {
        ("price", "tiers") => {
            Some(world.store.price_tiers.get(id).cloned().unwrap_or_else(|| json!([])))
        }
        ("checkout.session", "line_items") => {
            let lines = world.store.session_lines.get(id)?;
            let lines = lines.iter().map(|line| resource::render(world, line)).collect();
            Some(list::object(&format!("/v1/checkout/sessions/{id}/line_items"), lines, false))
        }
        _ => None,
    }
}
