//! `/v1/coupons` and `/v1/promotion_codes`: what a discount is made from. Discounts at work are in [`super::discount`].
//!
//! A coupon never changes but in name and metadata, and a deleted one goes on working where it is in use. A code is a word for a
//! coupon, for everybody or for one customer. Absent on purpose: other currencies, minimum amounts.

use super::{Answer, Call, object, page};
use crate::currency;
use crate::error::ApiError;
use crate::ids;
use crate::list::Range;
use crate::params::{Params, merge_metadata};
use serde_json::{Value, json};

/// `POST /v1/coupons`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let (percent, amount) = (params.take("percent_off"), params.int("amount_off"));
    let currency = currency::take(&mut params)?;
    match (&percent, amount, &currency) {
        (None, None, _) => return Err(ApiError::missing("percent_off")),
        (Some(_), Some(_), _) => {
            return Err(ApiError::only_one_of("percent_off", "amount_off", "amount_off"));
        }
        (None, Some(amount), _) if amount < 1 => {
            return Err(ApiError::invalid("amount_off", "`amount_off` is at least 1."));
        }
        (None, Some(_), None) => return Err(ApiError::missing("currency")),
        (Some(percent), ..) if !percent.as_f64().is_some_and(|p| p > 0.0 && p <= 100.0) => {
            let message = "`percent_off` is more than 0 and at most 100.";
            return Err(ApiError::invalid("percent_off", message));
        }
        _ => {}
    }
    let duration = params.text("duration").unwrap_or_else(|| "once".to_owned());
    let months = params.int("duration_in_months");
    if months.is_some() != (duration == "repeating") || months.is_some_and(|months| months < 1) {
        let message = "`duration_in_months` goes with `duration=repeating`, and with nothing else.";
        return Err(ApiError::invalid("duration_in_months", message));
    }
    let own_id = params.text("id");
    if let Some(id) = own_id.as_ref().filter(|id| call.world.store.coupons.get(id).is_some()) {
        let message = format!("Coupon already exists: {id}");
        return Err(ApiError::refused(Some("resource_already_exists"), "id", message));
    }
    let fields = json!({
        "id": own_id.unwrap_or_else(|| call.mint(ids::COUPON)), "object": "coupon", "amount_off": amount, "created": call.now(),
        "currency": currency, "duration": duration, "duration_in_months": months, "livemode": false, "metadata": {},
        "percent_off": percent, "times_redeemed": 0, "valid": true,
    });
    let mut coupon = object("coupon", fields);
    if let Some(mut applies) = params.hash("applies_to") {
        coupon["applies_to"] = json!({ "products": applies.texts("products").unwrap_or_default() });
        applies.finish()?;
    }
    params.copy_into(&mut coupon, &["max_redemptions", "name", "redeem_by"]);
    merge_metadata(&mut coupon["metadata"], params.take("metadata"))?;
    params.finish()?;
    call.store().coupons.insert(coupon.clone());
    call.emit("coupon.created", &coupon, None);
    Ok(coupon)
}

/// `GET /v1/coupons/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.coupons, "coupon", id, params)
}

/// `POST /v1/coupons/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.coupons.get(id).cloned();
    let mut coupon = found.ok_or_else(|| ApiError::not_found("coupon", id))?;
    params.copy_into(&mut coupon, &["name"]);
    merge_metadata(&mut coupon["metadata"], params.take("metadata"))?;
    params.finish()?;
    Ok(call.save(|store| &mut store.coupons, coupon, "coupon.updated"))
}

/// `DELETE /v1/coupons/{id}`: nobody gets it any more; who has it keeps it.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let removed = call.store().coupons.remove(id);
    let coupon = removed.ok_or_else(|| ApiError::not_found("coupon", id))?;
    call.emit("coupon.deleted", &coupon, None);
    Ok(json!({ "id": id, "object": "coupon", "deleted": true }))
}

/// `GET /v1/coupons`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    page(call.world, &call.world.store.coupons, "coupon", "/v1/coupons", params, |row| {
        created.contains(row["created"].as_i64().unwrap_or_default())
    })
}

/// The coupon that can be redeemed now.
///
/// # Errors
/// 400 for one that does not exist, has expired, or is used up.
pub fn redeemable(call: &Call<'_>, id: &str, param: &str) -> Answer {
    let found = call.world.store.coupons.get(id).cloned();
    let coupon = found.ok_or_else(|| ApiError::no_such("coupon", id, param))?;
    let is_over = coupon["redeem_by"].as_i64().is_some_and(|by| by < call.now());
    if is_over || coupon["valid"] != true {
        let message = format!("Coupon {id} is expired or used up and cannot be applied.");
        return Err(ApiError::refused(Some("coupon_expired"), param, message));
    }
    Ok(coupon)
}

/// Counts one redemption.
pub fn redeem(call: &mut Call<'_>, id: &str, code: Option<&str>) {
    let count = |row: &mut Value, spent: &str| {
        let times = row["times_redeemed"].as_i64().unwrap_or_default() + 1;
        row["times_redeemed"] = json!(times);
        if row["max_redemptions"].as_i64().is_some_and(|max| times >= max) {
            row[spent] = json!(false);
        }
    };
    if let Some(row) = call.store().coupons.get_mut(id) {
        count(row, "valid");
    }
    if let Some(row) = code.and_then(|code| call.store().promotion_codes.get_mut(code)) {
        count(row, "active");
    }
}

/// `POST /v1/promotion_codes`.
pub fn create_code(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let Some(mut promotion) = params.hash("promotion") else {
        return Err(ApiError::missing("promotion"));
    };
    promotion.ignore(&["type"]); // `coupon` is the only one.
    let coupon = promotion.required_text("coupon")?;
    promotion.finish()?;
    redeemable(call, &coupon, "promotion[coupon]")?;
    let customer = params.text("customer");
    if let Some(id) = customer.as_ref().filter(|id| call.world.store.live_customer(id).is_none()) {
        return Err(ApiError::no_such("customer", id, "customer"));
    }
    let code = params.text("code").unwrap_or_else(|| call.mint(ids::CODE).to_uppercase());
    let is_taken = |row: &Value| {
        row["active"] == true
            && row["code"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(&code))
    };
    if call.world.store.promotion_codes.newest_first().any(is_taken) {
        let message = format!("An active promotion code with `code: {code}` already exists.");
        return Err(ApiError::refused(None, "code", message));
    }
    let restrictions = json!({ "first_time_transaction": false });
    let fields = json!({
        "id": call.mint(ids::PROMOTION_CODE), "object": "promotion_code", "active": params.flag("active").unwrap_or(true),
        "code": code, "created": call.now(), "customer": customer, "livemode": false, "metadata": {},
        "promotion": { "coupon": coupon, "type": "coupon" },
        "restrictions": object("promotion_code.restrictions", restrictions), "times_redeemed": 0,
    });
    let mut row = object("promotion_code", fields);
    params.copy_into(&mut row, &["expires_at", "max_redemptions"]);
    merge_metadata(&mut row["metadata"], params.take("metadata"))?;
    params.finish()?;
    call.store().promotion_codes.insert(row.clone());
    call.emit("promotion_code.created", &row, None);
    Ok(row)
}

/// `GET /v1/promotion_codes/{id}`.
pub fn retrieve_code(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.promotion_codes, "promotion code", id, params)
}

/// `POST /v1/promotion_codes/{id}`.
pub fn update_code(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.promotion_codes.get(id).cloned();
    let mut row = found.ok_or_else(|| ApiError::not_found("promotion code", id))?;
    params.copy_into(&mut row, &["active"]);
    merge_metadata(&mut row["metadata"], params.take("metadata"))?;
    params.finish()?;
    Ok(call.save(|store| &mut store.promotion_codes, row, "promotion_code.updated"))
}

/// `GET /v1/promotion_codes`.
pub fn list_codes(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let (code, coupon) = (params.text("code"), params.text("coupon"));
    let wanted = [("active", params.take("active")), ("customer", params.take("customer"))];
    let (table, url) = (&call.world.store.promotion_codes, "/v1/promotion_codes");
    page(call.world, table, "promotion code", url, params, |row| {
        let own = row["code"].as_str().unwrap_or_default();
        created.contains(row["created"].as_i64().unwrap_or_default())
            && code.as_ref().is_none_or(|code| own.eq_ignore_ascii_case(code))
            && coupon.as_ref().is_none_or(|id| row["promotion"]["coupon"] == id.as_str())
            && wanted
                .iter()
                .all(|(name, value)| value.as_ref().is_none_or(|value| row[*name] == *value))
    })
}
