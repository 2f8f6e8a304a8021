//! `expand[]`: puts objects in the place of their ids, and adds the parts that Stripe sends only on demand.
//!
//! Paths go through lists by `data`, at most four levels deep. An object that Stripe has there and the simulator has not is 501; where
//! the field is null, it stays null.

use crate::error::ApiError;
use crate::list;
use crate::resource;
use crate::schema::spec;
use crate::store::World;
use serde_json::{Value, json};

const DEPTH_LIMIT: usize = 4;
/// How many rows a list inside an object shows.
const ROWS_SHOWN: usize = 10;

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
        walk(world, answer, &segments, "").map_err(|why| match why {
            Miss::NotHere => ApiError::not_simulated(&format!("the expansion of `{path}`")),
            Miss::NotAtStripe => {
                ApiError::invalid("expand", format!("This property cannot be expanded ({path})."))
            }
        })?;
    }
    Ok(())
}

/// Why a path leads nowhere.
enum Miss {
    NotAtStripe,
    /// Stripe has an object there.
    NotHere,
}

/// `inside` is the component of a node that does not name its own.
fn walk(world: &World, node: &mut Value, path: &[&str], inside: &str) -> Result<(), Miss> {
    let Some((field, rest)) = path.split_first() else { return Ok(()) };
    if let Value::Array(rows) = node {
        return rows.iter_mut().try_for_each(|row| walk(world, row, path, inside));
    }
    if let Some(part) = on_demand(world, node, field) {
        node[*field] = part;
        return walk(world, &mut node[*field], rest, "");
    }
    let component = node["object"].as_str().unwrap_or(inside).to_owned();
    if spec().is_cut_to_id(&component, field) {
        let is_empty = matches!(&node[*field], Value::Null)
            || node[*field].as_array().is_some_and(Vec::is_empty);
        return if is_empty { Ok(()) } else { Err(Miss::NotHere) };
    }
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
                _ => Err(Miss::NotAtStripe),
            }
        }
        Some(Value::Array(ids)) if is_expandable => ids.iter_mut().try_for_each(|id| {
            let found = id.as_str().and_then(|id| world.store.find(id)).ok_or(Miss::NotAtStripe)?;
            *id = resource::render(world, found);
            walk(world, id, rest, "")
        }),
        // A hash that is there already may be asked for too.
        Some(inner @ (Value::Object(_) | Value::Array(_)))
            if is_expandable || !rest.is_empty() || spec().is_listed(&component, field) =>
        {
            walk(world, inner, rest, holds)
        }
        Some(Value::Null) => Ok(()),
        _ => Err(Miss::NotAtStripe),
    }
}

/// Parts that are not in an object until asked for.
fn on_demand(world: &World, node: &Value, field: &str) -> Option<Value> {
    let id = node["id"].as_str()?;
    match (node["object"].as_str()?, field) {
        ("price", "tiers") => {
            Some(world.store.price_tiers.get(id).cloned().unwrap_or_else(|| json!([])))
        }
        ("price", "currency_options") => Some(resource::price::currency_options(world, node)),
        ("checkout.session", "line_items") => {
            let lines = world.store.session_lines.get(id)?;
            let lines = lines.iter().map(|line| resource::render(world, line)).collect();
            Some(list::object(&format!("/v1/checkout/sessions/{id}/line_items"), lines, false))
        }
        ("customer", "subscriptions") => {
            let rows = world.store.subscriptions.newest_first();
            let own: Vec<Value> = rows
                .filter(|row| row["customer"] == id && row["status"] != "canceled")
                .map(|row| resource::render(world, row))
                .collect();
            let has_more = own.len() > ROWS_SHOWN;
            let own = own.into_iter().take(ROWS_SHOWN).collect();
            Some(list::object(&format!("/v1/customers/{id}/subscriptions"), own, has_more))
        }
        // There are none of either here, and no way to make them.
        ("customer", "sources" | "tax_ids") => {
            Some(list::object(&format!("/v1/customers/{id}/{field}"), Vec::new(), false))
        }
        ("invoice", "confirmation_secret") => Some(resource::invoice::payment::secret(node)),
        ("invoice", "payments") => Some(resource::invoice::payment::list(node)),
        _ => None,
    }
}
