//! `/v1/subscription_items`: one item at a time, settled like any change of a subscription's items.

use super::subscription::update::{self, Change};
use super::{Answer, Call, page, subscription};
use crate::error::ApiError;
use crate::params::Params;
use serde_json::{Map, Value, json};

/// The subscription that has an item, and the item's place in it, as the API shows both.
fn find(call: &mut Call<'_>, id: &str) -> Result<(Value, Value), ApiError> {
    let rows = call.world.store.subscriptions.newest_first();
    let holds = |row: &&Value| items(row).any(|item| item["id"] == id);
    let found = rows.filter(|row| !subscription::is_terminal(row)).find(holds).cloned();
    let own = found.ok_or_else(|| ApiError::not_found("subscription_item", id))?;
    call.enter_clock_of(&own);
    let item = items(&subscription::render(&call.world.store, &own))
        .find(|item| item["id"] == id)
        .cloned();
    Ok((own, item.unwrap_or_default()))
}

fn items(row: &Value) -> impl Iterator<Item = &Value> {
    row["items"]["data"].as_array().into_iter().flatten()
}

/// `GET /v1/subscription_items/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    Ok(find(call, id)?.1)
}

/// `GET /v1/subscription_items?subscription=`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let id = params.required_text("subscription")?;
    let found = call.world.store.subscriptions.get(&id);
    let own = found.ok_or_else(|| ApiError::no_such("subscription", &id, "subscription"))?;
    let mut table = crate::store::table::Table::default();
    for item in
        items(&subscription::render(&call.world.store, own)).collect::<Vec<_>>().into_iter().rev()
    {
        table.insert(item.clone());
    }
    page(call.world, &table, "subscription_item", "/v1/subscription_items", params, |_| true)
}

/// The parameters of one item as a change inside `items`.
fn change(mut fields: Map<String, Value>, id: Option<&str>) -> Vec<Params> {
    if let Some(id) = id {
        fields.insert("id".to_owned(), json!(id));
    }
    vec![Params::new(fields)]
}

fn take(params: &mut Params) -> Map<String, Value> {
    let names = ["billing_thresholds", "metadata", "price", "quantity"];
    names.into_iter().filter_map(|name| Some((name.to_owned(), params.take(name)?))).collect()
}

/// `POST /v1/subscription_items`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let id = params.required_text("subscription")?;
    let found = call.world.store.subscriptions.get(&id).cloned();
    let own = found.filter(|row| !subscription::is_terminal(row));
    let own = own.ok_or_else(|| ApiError::no_such("subscription", &id, "subscription"))?;
    call.enter_clock_of(&own);
    let asked = change(take(&mut params), None);
    let change = Change::take(call, &own, asked, &mut params)?;
    params.ignore(&["payment_behavior"]);
    params.finish()?;
    let shown = update::change_items(call, own, change)?;
    Ok(items(&shown).last().cloned().unwrap_or_default())
}

/// `POST /v1/subscription_items/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let (own, _) = find(call, id)?;
    let asked = change(take(&mut params), Some(id));
    let change = Change::take(call, &own, asked, &mut params)?;
    params.ignore(&["off_session", "payment_behavior"]);
    params.finish()?;
    let shown = update::change_items(call, own, change)?;
    Ok(items(&shown).find(|item| item["id"] == id).cloned().unwrap_or_default())
}

/// `DELETE /v1/subscription_items/{id}`.
pub fn delete(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let (own, _) = find(call, id)?;
    let asked = change(Map::from_iter([("deleted".to_owned(), json!(true))]), Some(id));
    let change = Change::take(call, &own, asked, &mut params)?;
    params.ignore(&["clear_usage", "payment_behavior"]); // Usage belongs to the meter and stays there.
    params.finish()?;
    update::change_items(call, own, change)?;
    Ok(json!({ "id": id, "object": "subscription_item", "deleted": true }))
}
