//! `/v1/entitlements/features` and `/v1/products/{id}/features`: what a product lets its buyers do.
//!
//! A lookup key belongs to one feature for good. An archived feature keeps the products that it has and gets no new ones. Who has
//! which feature follows in [`super::entitlement`].

use super::{Answer, Call, entitlement, object, page};
use crate::error::ApiError;
use crate::ids;
use crate::params::{Params, merge_metadata};
use crate::store::table::id_of;
use serde_json::{Value, json};

/// The longest lookup key, in characters.
const KEY_LIMIT: usize = 80;

/// `POST /v1/entitlements/features`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let lookup_key = params.required_text("lookup_key")?;
    let name = params.required_text("name")?;
    let mut metadata = json!({});
    merge_metadata(&mut metadata, params.take("metadata"))?;
    params.finish()?;
    if lookup_key.chars().count() > KEY_LIMIT {
        let message = format!("A lookup key has at most {KEY_LIMIT} characters.");
        return Err(ApiError::invalid("lookup_key", message));
    }
    let is_it = |row: &Value| row["lookup_key"] == lookup_key.as_str();
    if call.world.store.features.newest_first().any(is_it) {
        let message = format!("A feature with the lookup key {lookup_key} already exists.");
        return Err(ApiError::refused(Some("resource_already_exists"), "lookup_key", message));
    }
    let fields = json!({
        "id": call.mint(ids::FEATURE), "object": "entitlements.feature", "active": true, "livemode": false,
        "lookup_key": lookup_key, "metadata": metadata, "name": name,
    });
    let feature = object("entitlements.feature", fields);
    call.store().features.insert(feature.clone());
    Ok(feature)
}

/// `GET /v1/entitlements/features/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.features, "feature", id, params)
}

/// `POST /v1/entitlements/features/{id}`: its name, its metadata, and whether it is archived.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut feature = found(call, id)?;
    if let Some(name) = params.text("name") {
        feature["name"] = json!(name);
    }
    if let Some(active) = params.flag("active") {
        feature["active"] = json!(active);
    }
    merge_metadata(&mut feature["metadata"], params.take("metadata"))?;
    params.finish()?;
    call.store().features.replace(feature.clone());
    Ok(feature)
}

fn found(call: &Call<'_>, id: &str) -> Answer {
    call.world.store.features.get(id).cloned().ok_or_else(|| ApiError::not_found("feature", id))
}

/// `GET /v1/entitlements/features`: archived ones only when they are asked for.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let archived = params.flag("archived").unwrap_or(false);
    let key = params.text("lookup_key");
    let (table, url) = (&call.world.store.features, "/v1/entitlements/features");
    page(call.world, table, "feature", url, params, |row| {
        row["active"] == !archived
            && key.as_ref().is_none_or(|key| row["lookup_key"] == key.as_str())
    })
}

/// `POST /v1/products/{id}/features`.
pub fn attach(call: &mut Call<'_>, product: &str, mut params: Params) -> Answer {
    let id = params.required_text("entitlement_feature")?;
    params.finish()?;
    if call.world.store.products.get(product).is_none() {
        return Err(ApiError::not_found("product", product));
    }
    let feature = call.world.store.features.get(&id).cloned();
    let feature =
        feature.ok_or_else(|| ApiError::no_such("feature", &id, "entitlement_feature"))?;
    if feature["active"] != true {
        let message = format!("The feature {id} is archived.");
        return Err(ApiError::refused(None, "entitlement_feature", message));
    }
    let is_it = |row: &Value| row["product"] == product && row["feature"] == id.as_str();
    if call.world.store.product_features.newest_first().any(is_it) {
        let message = format!("The product {product} already has the feature {id}.");
        return Err(ApiError::refused(None, "entitlement_feature", message));
    }
    let row = json!({ "id": call.mint(ids::PRODUCT_FEATURE), "product": product, "feature": id });
    call.store().product_features.insert(row.clone());
    entitlement::refresh_all(call);
    Ok(shown(call, &row))
}

/// The description has the feature in its place, and not the product.
fn shown(call: &Call<'_>, row: &Value) -> Value {
    let feature = row["feature"].as_str().and_then(|id| call.world.store.features.get(id));
    let fields = json!({
        "id": row["id"], "object": "product_feature", "entitlement_feature": feature, "livemode": false,
    });
    object("product_feature", fields)
}

/// `GET /v1/products/{id}/features`.
pub fn list_of_product(call: &mut Call<'_>, product: &str, params: Params) -> Answer {
    if call.world.store.products.get(product).is_none() {
        return Err(ApiError::not_found("product", product));
    }
    let url = format!("/v1/products/{product}/features");
    let table = &call.world.store.product_features;
    let mut list =
        page(call.world, table, "product feature", &url, params, |row| row["product"] == product)?;
    for row in list["data"].as_array_mut().into_iter().flatten() {
        *row = shown(call, row);
    }
    Ok(list)
}

/// `DELETE /v1/products/{productId}/features/{id}`. The path gives both, with what stands between them.
pub fn detach(call: &mut Call<'_>, path: &str, params: Params) -> Answer {
    params.finish()?;
    let (product, id) = path.split_once("/features/").unwrap_or_default();
    let row = call.world.store.product_features.get(id);
    if row.is_none_or(|row| row["product"] != product) {
        return Err(ApiError::not_found("product feature", id));
    }
    call.store().product_features.remove(id);
    entitlement::refresh_all(call);
    Ok(json!({ "id": id, "object": "product_feature", "deleted": true }))
}

/// The features of a product, the oldest first.
pub fn of_product<'a>(call: &'a Call<'_>, product: &str) -> Vec<&'a Value> {
    let store = &call.world.store;
    let rows = store.product_features.newest_first().filter(|row| row["product"] == product);
    let mut found: Vec<_> =
        rows.filter_map(|row| store.features.get(row["feature"].as_str()?)).collect();
    found.sort_by_key(|feature| store.features.place(id_of(feature)));
    found
}
