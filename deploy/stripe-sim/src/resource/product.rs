//! `/v1/products`.
//!
//! A product that prices name cannot be deleted. Absent on purpose: package dimensions, tax details.

use super::{Answer, Call, object, page, price};
use crate::error::ApiError;
use crate::ids;
use crate::list::Range;
use crate::params::{Params, merge_metadata};
use crate::store::table::id_of;
use serde_json::{Value, json};

const PLAIN: [&str; 8] = [
    "active",
    "description",
    "shippable",
    "statement_descriptor",
    "tax_code",
    "type",
    "unit_label",
    "url",
];

/// `POST /v1/products`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let own_id = params.text("id");
    if let Some(id) = own_id.as_ref().filter(|id| call.world.store.products.get(id).is_some()) {
        let message = format!("Product already exists: {id}");
        return Err(ApiError::refused(Some("resource_already_exists"), "id", message));
    }
    let name = params.required_text("name")?;
    let mut product = blank(call, own_id, &name);
    fill(&mut product, &mut params)?;
    let first = match params.hash("default_price_data") {
        None => None,
        Some(data) => Some(price::of_product(call, data, id_of(&product))?),
    };
    params.finish()?;
    let product = add(call, product);
    match first {
        None => Ok(product),
        Some(first) => Ok(make_default(call, product, &first)),
    }
}

/// Stores a product's first price. Answers the product, whose creation was told without it.
fn make_default(call: &mut Call<'_>, mut product: Value, first: &Value) -> Value {
    call.store().prices.insert(first.clone());
    call.emit("price.created", first, None);
    product["default_price"] = first["id"].clone();
    call.save(|store| &mut store.products, product, "product.updated")
}

/// `DELETE /v1/products/{id}`: one without prices.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let found = call.world.store.products.get(id).cloned();
    let product = found.ok_or_else(|| ApiError::not_found("product", id))?;
    if call.world.store.prices.newest_first().any(|row| row["product"] == id) {
        let message =
            "This product cannot be deleted because it has one or more user-created prices.";
        return Err(ApiError::refused(None, "id", message));
    }
    call.store().products.remove(id);
    call.emit("product.deleted", &product, None);
    Ok(json!({ "id": id, "object": "product", "deleted": true }))
}

/// The product of a price that was created with `product_data`; added by [`add`] once the price is sure.
pub fn from_price_data(call: &mut Call<'_>, mut data: Params) -> Answer {
    let own_id = data.text("id");
    let name = data.required_text("name")?;
    let mut product = blank(call, own_id, &name);
    data.copy_into(&mut product, &["active", "statement_descriptor", "tax_code", "unit_label"]);
    merge_metadata(&mut product["metadata"], data.take("metadata"))?;
    data.finish()?;
    Ok(product)
}

/// Stores a new product and tells of it.
pub fn add(call: &mut Call<'_>, product: Value) -> Value {
    call.store().products.insert(product.clone());
    call.emit("product.created", &product, None);
    product
}

fn blank(call: &mut Call<'_>, own_id: Option<String>, name: &str) -> Value {
    let fields = json!({
        "id": own_id.unwrap_or_else(|| call.mint(ids::PRODUCT)), "object": "product", "active": true, "created": call.now(),
        "default_price": null, "images": [], "livemode": false, "marketing_features": [], "metadata": {}, "name": name,
        "statement_descriptor": null, "tax_code": null, "type": "service", "unit_label": null, "updated": call.now(),
    });
    object("product", fields)
}

fn fill(product: &mut Value, params: &mut Params) -> Result<(), ApiError> {
    params.copy_into(product, &PLAIN);
    for name in ["images", "marketing_features"] {
        if let Some(rows) = params.take_nullable(name) {
            product[name] = if rows.is_null() { json!([]) } else { rows };
        }
    }
    merge_metadata(&mut product["metadata"], params.take("metadata"))
}

/// `GET /v1/products/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.products, "product", id, params)
}

/// `POST /v1/products/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.products.get(id).cloned();
    let mut product = found.ok_or_else(|| ApiError::not_found("product", id))?;
    if let Some(name) = params.text("name") {
        product["name"] = json!(name);
    }
    if let Some(price) = params.text("default_price") {
        let known = call.world.store.prices.get(&price).is_some_and(|row| row["product"] == id);
        if !known {
            return Err(ApiError::no_such("price", &price, "default_price"));
        }
        product["default_price"] = json!(price);
    }
    fill(&mut product, &mut params)?;
    params.finish()?;
    product["updated"] = json!(call.now());
    Ok(call.save(|store| &mut store.products, product, "product.updated"))
}

/// `GET /v1/products`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let wanted = [
        ("active", params.take("active")),
        ("type", params.take("type")),
        ("url", params.take("url")),
    ];
    let ids = params.texts("ids");
    page(call.world, &call.world.store.products, "product", "/v1/products", params, |row| {
        created.contains(row["created"].as_i64().unwrap_or_default())
            && wanted
                .iter()
                .all(|(name, value)| value.as_ref().is_none_or(|value| row[*name] == *value))
            && ids.as_ref().is_none_or(|ids| ids.iter().any(|id| row["id"] == id.as_str()))
    })
}
