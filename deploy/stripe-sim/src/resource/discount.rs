//! Discounts: coupons at work on a subscription or on one invoice.
//!
//! A discount counts on every invoice that its subscription makes while it lasts: once, for some months, or for ever. It lowers the
//! discountable lines one by one, a percentage rounded half up per line, an amount from the first line on; the next discount lowers
//! what is left, credit grants come after all of them. It works on with the coupon as it was. Absent on purpose: discounts of
//! customers and of single items.

use super::invoice::draft;
use super::subscription::period;
use super::{Call, coupon, object};
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::rating;
use crate::store::Store;
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// A discount to be made: its coupon, and the promotion code that stood for it.
#[derive(Clone, Debug)]
pub struct Source {
    coupon: Value,
    code: Option<String>,
}

/// What a `discounts` parameter asks for: discounts that stay, and new ones.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    kept: Vec<String>,
    new: Vec<Source>,
}

impl Wanted {
    /// Coupon and promotion code of each new one, as checkout shows them.
    pub fn sources(&self) -> Value {
        let rows = self.new.iter().map(|source| {
            let coupon = if source.code.is_some() { &Value::Null } else { &source.coupon["id"] };
            json!({ "coupon": coupon, "promotion_code": source.code })
        });
        rows.collect()
    }
}

/// Takes `discounts`; an empty text asks for none.
///
/// # Errors
/// 400 for coupons and codes that cannot be redeemed by this customer.
pub fn take(
    call: &Call<'_>,
    params: &mut Params,
    customer: &str,
) -> Result<Option<Wanted>, ApiError> {
    let path = params.path_of("discounts");
    let Some(rows) = params.take("discounts") else { return Ok(None) };
    let mut wanted = Wanted::default();
    for (index, row) in rows.as_array().into_iter().flatten().enumerate() {
        let fields = row.as_object().cloned().unwrap_or_default();
        let mut row = Params::within(&format!("{path}[{index}]"), fields);
        let (coupon_path, code_path) = (row.path_of("coupon"), row.path_of("promotion_code"));
        if let Some(id) = row.text("discount") {
            if call.world.store.discounts.get(&id).is_none() {
                return Err(ApiError::no_such("discount", &id, &row.path_of("discount")));
            }
            wanted.kept.push(id);
        } else if let Some(id) = row.text("coupon") {
            let coupon = coupon::redeemable(call, &id, &coupon_path)?;
            wanted.new.push(Source { coupon, code: None });
        } else {
            let id = row.required_text("promotion_code")?;
            wanted.new.push(of_code(call, &id, customer, &code_path)?);
        }
        row.finish()?;
    }
    Ok(Some(wanted))
}

fn of_code(call: &Call<'_>, id: &str, customer: &str, param: &str) -> Result<Source, ApiError> {
    let row = call.world.store.promotion_codes.get(id);
    let row = row.ok_or_else(|| ApiError::no_such("promotion code", id, param))?;
    let is_over = row["expires_at"].as_i64().is_some_and(|at| at <= call.now());
    let is_others = row["customer"].as_str().is_some_and(|own| own != customer);
    if row["active"] != true || is_over || is_others {
        let message = format!("The promotion code {id} cannot be redeemed by this customer now.");
        return Err(ApiError::refused(Some("promotion_code_expired"), param, message));
    }
    let coupon = row["promotion"]["coupon"].as_str().unwrap_or_default();
    Ok(Source { coupon: coupon::redeemable(call, coupon, param)?, code: Some(id.to_owned()) })
}

/// Makes the new discounts of a holder (`subscription` or `invoice`). Answers the ids of all that it has now.
pub fn make(call: &mut Call<'_>, wanted: Wanted, customer: &str, holder: (&str, &str)) -> Value {
    let mut ids = wanted.kept;
    for source in wanted.new {
        let coupon_id = source.coupon["id"].as_str().unwrap_or_default().to_owned();
        coupon::redeem(call, &coupon_id, source.code.as_deref());
        let months = source.coupon["duration_in_months"].as_u64();
        let months = months.and_then(|months| u32::try_from(months).ok());
        let end = months.and_then(|months| period::add(call.now(), "month", months));
        let mut fields = json!({
            "id": call.mint(ids::DISCOUNT), "object": "discount", "customer": customer, "end": end,
            "promotion_code": source.code, "source": { "coupon": coupon_id, "type": "coupon" }, "start": call.now(),
        });
        fields[holder.0] = json!(holder.1);
        let row = object("discount", fields);
        let id = row["id"].as_str().unwrap_or_default().to_owned();
        call.store().discount_coupons.insert(id.clone(), source.coupon);
        call.store().discounts.insert(row.clone());
        call.emit("customer.discount.created", &row, None);
        ids.push(id);
    }
    json!(ids)
}

/// Counts an invoice that is kept nowhere as if these discounts were at work on it; none is made or redeemed.
pub fn try_on(call: &mut Call<'_>, wanted: Wanted, invoice: &mut Value) {
    let mut ids = wanted.kept;
    let mut tried = Vec::new();
    for source in wanted.new {
        let id = call.mint(ids::DISCOUNT);
        call.store().discount_coupons.insert(id.clone(), source.coupon);
        tried.push(id);
    }
    ids.extend(tried.iter().cloned());
    invoice["discounts"] = json!(ids);
    draft::reckon(call, invoice);
    for id in tried {
        call.store().discount_coupons.remove(&id);
    }
}

/// Those of a subscription's discounts that still last at a Unix second.
pub fn lasting(store: &Store, subscription: &Value, now: i64) -> Value {
    let ids = subscription["discounts"].as_array().into_iter().flatten();
    let lasts = |id: &&Value| {
        let row = id.as_str().and_then(|id| store.discounts.get(id));
        row.is_some_and(|row| row["end"].as_i64().is_none_or(|end| end > now))
    };
    ids.filter(lasts).cloned().collect()
}

/// A subscription's discounts without those that last once and have been.
pub fn unspent(store: &Store, subscription: &Value) -> Value {
    let ids = subscription["discounts"].as_array().into_iter().flatten();
    let is_open = |id: &&Value| {
        let id = id.as_str().unwrap_or_default();
        let is_once =
            store.discount_coupons.get(id).is_some_and(|coupon| coupon["duration"] == "once");
        !is_once || store.discounts.get(id).is_some_and(|row| row["end"].is_null())
    };
    ids.filter(is_open).cloned().collect()
}

/// An invoice with something to pay was made: what lasts once has been.
pub fn spend(call: &mut Call<'_>, invoice: &Value) {
    let now = call.now();
    let ids: Vec<String> = invoice["discounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    for id in ids {
        let is_once =
            call.world.store.discount_coupons.get(&id).is_some_and(|c| c["duration"] == "once");
        if let Some(row) = call.store().discounts.get_mut(&id).filter(|_| is_once) {
            row["end"] = json!(now);
        }
    }
}

/// Lowers the lines of an invoice by its discounts; counted anew each time.
pub fn apply(call: &Call<'_>, invoice: &mut Value) {
    let ids = invoice["discounts"].as_array().cloned().unwrap_or_default();
    let Value::Array(mut lines) = invoice["lines"]["data"].take() else { return };
    for line in &mut lines {
        line["discount_amounts"] = json!([]);
    }
    let mut totals = Vec::new();
    for id in ids.iter().filter_map(Value::as_str) {
        let Some(coupon) = call.world.store.discount_coupons.get(id) else { continue };
        let mut left = coupon["amount_off"].as_i64();
        let percent = rating::decimal(&json!(coupon["percent_off"].to_string()));
        let mut total = 0;
        for line in lines.iter_mut().filter(|line| applies(coupon, line)) {
            let open = net(line);
            let off = match (percent, &mut left) {
                (Some(percent), _) => share(open, percent),
                (None, Some(left)) => {
                    let off = open.min(*left);
                    *left -= off;
                    off
                }
                (None, None) => 0,
            };
            total += off;
            if let Some(rows) = line["discount_amounts"].as_array_mut().filter(|_| off > 0) {
                rows.push(json!({ "amount": off, "discount": id }));
            }
        }
        totals.push(json!({ "amount": total, "discount": id }));
    }
    invoice["lines"]["data"] = Value::Array(lines);
    invoice["total_discount_amounts"] = Value::Array(totals);
}

/// What is left of a line's amount after its discounts.
pub fn net(line: &Value) -> i64 {
    let off = line["discount_amounts"].as_array().into_iter().flatten();
    let off: i64 = off.filter_map(|row| row["amount"].as_i64()).sum();
    line["amount"].as_i64().unwrap_or_default() - off
}

fn applies(coupon: &Value, line: &Value) -> bool {
    let product = &line["pricing"]["price_details"]["product"];
    let fits =
        coupon["applies_to"]["products"].as_array().is_none_or(|only| only.contains(product));
    fits && line["discountable"] == true && net(line) > 0
}

/// A percentage of an amount, half up; never more than the amount.
fn share(open: i64, percent: Decimal) -> i64 {
    let exact =
        Decimal::from(open).checked_mul(percent).map(|product| product / Decimal::ONE_HUNDRED);
    exact.and_then(|exact| rating::round(exact).ok()).unwrap_or(open).min(open)
}
