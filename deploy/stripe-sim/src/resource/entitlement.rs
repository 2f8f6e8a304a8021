//! `/v1/entitlements/active_entitlements`: which features a customer has by its subscriptions.
//!
//! They follow from the products of its subscriptions that are trialing, active, past due or paused: a pause takes no feature away, as
//! at Stripe. Every change is told by one summary event that lists ten at most; the rest is read from the list. Looked at again
//! whenever a subscription changes ([`Call::emit`]) or a product's features do.

use super::{Answer, Call, feature, object};
use crate::error::ApiError;
use crate::ids;
use crate::list::{self, Page};
use crate::params::Params;
use serde_json::{Map, Value, json};

/// How many entitlements an event lists.
const LISTED: usize = 10;
const STATUSES: [&str; 4] = ["trialing", "active", "past_due", "paused"];

/// `GET /v1/entitlements/active_entitlements`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.required_text("customer")?;
    let page = Page::take(&mut params)?;
    params.finish()?;
    if call.world.store.customers.get(&customer).is_none() {
        return Err(ApiError::no_such("customer", &customer, "customer"));
    }
    let rows = call.world.store.entitlements.get(&customer).cloned().unwrap_or_default();
    let (cut, has_more) = page.cut("active entitlement", rows.iter(), |_| true)?;
    let url = "/v1/entitlements/active_entitlements";
    Ok(list::object(url, cut.into_iter().cloned().collect(), has_more))
}

/// `GET /v1/entitlements/active_entitlements/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut rows = call.world.store.entitlements.values().flatten();
    let found = rows.find(|row| row["id"] == id).cloned();
    found.ok_or_else(|| ApiError::not_found("active entitlement", id))
}

/// As [`refresh`], for every customer: a product's features changed.
pub fn refresh_all(call: &mut Call<'_>) {
    let rows = call.world.store.subscriptions.newest_first();
    let mut customers: Vec<String> =
        rows.filter_map(|row| row["customer"].as_str().map(str::to_owned)).collect();
    customers.sort();
    customers.dedup();
    for customer in customers {
        refresh(call, &customer);
    }
}

/// Looks at what a customer has now, and tells of it if that is a change.
pub fn refresh(call: &mut Call<'_>, customer: &str) {
    let had = call.world.store.entitlements.get(customer).cloned().unwrap_or_default();
    if had.is_empty() && call.world.store.product_features.len() == 0 {
        return;
    }
    let has = active(call, customer);
    if has == had {
        return;
    }
    call.store().entitlements.insert(customer.to_owned(), has.clone());
    let previous = Map::from_iter([("entitlements".to_owned(), listed(customer, &had))]);
    let summary = json!({
        "object": "entitlements.active_entitlement_summary", "customer": customer, "entitlements": listed(customer, &has),
        "livemode": false,
    });
    call.emit("entitlements.active_entitlement_summary.updated", &summary, Some(previous));
}

fn listed(customer: &str, rows: &[Value]) -> Value {
    let url = format!("/v1/customer/{customer}/entitlements");
    list::object(&url, rows.iter().take(LISTED).cloned().collect(), rows.len() > LISTED)
}

/// One entitlement for each feature, in the order of the features' creation.
fn active(call: &Call<'_>, customer: &str) -> Vec<Value> {
    let store = &call.world.store;
    let grants = |row: &&Value| {
        row["customer"] == customer
            && row["status"].as_str().is_some_and(|status| STATUSES.contains(&status))
    };
    let items = store.subscriptions.newest_first().filter(grants);
    let items = items.flat_map(|row| row["items"]["data"].as_array().into_iter().flatten());
    let prices = items.filter_map(|item| store.prices.get(item["price"].as_str()?));
    let products = prices.filter_map(|price| price["product"].as_str());
    let mut features: Vec<&Value> =
        products.flat_map(|product| feature::of_product(call, product)).collect();
    let text = |feature: &Value, name: &str| feature[name].as_str().unwrap_or_default().to_owned();
    features.sort_by_key(|feature| store.features.place(&text(feature, "id")));
    features.dedup_by_key(|feature| text(feature, "id"));
    let entitlement = |feature: &Value| {
        let id = text(feature, "id");
        let material = [customer.as_bytes(), id.as_bytes()];
        let fields = json!({
            "id": ids::derive(ids::ENTITLEMENT, &material), "object": "entitlements.active_entitlement", "feature": id,
            "livemode": false, "lookup_key": feature["lookup_key"],
        });
        object("entitlements.active_entitlement", fields)
    };
    features.into_iter().map(entitlement).collect()
}
