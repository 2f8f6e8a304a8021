//! `/v1/billing/credit_grants`, the balance summary and its transactions: money that pays for metered usage before the card does.
//!
//! Grants apply when an invoice is finalized, never earlier: to lines of metered prices only, by priority, then expiry, then
//! category (promotional first), then the time they take effect, then age. A grant's balance is the sum of its transactions. Voiding
//! the invoice gives the credit back; a credit note does not. A grant that expires by itself leaves no transaction.

use super::invoice::line;
use super::{Answer, Call, discount, object, page};
use crate::currency;
use crate::error::ApiError;
use crate::ids;
use crate::params::{Params, merge_metadata};
use crate::store::table::id_of;
use serde_json::{Value, json};

/// Unused grants that a customer may have.
const GRANT_LIMIT: usize = 100;

/// `POST /v1/billing/credit_grants`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.required_text("customer")?;
    call.enter_clock_of_customer(&customer, "customer")?;
    let amount = read_amount(&mut params)?;
    let config = params.take("applicability_config").unwrap_or_default();
    check_scope(call, &config["scope"])?;
    let now = call.now();
    let effective = params.int("effective_at").unwrap_or(now);
    let expires = params.int("expires_at");
    let priority = params.int("priority").unwrap_or(50);
    if !(0..=100).contains(&priority) {
        return Err(ApiError::invalid("priority", "The priority must be between 0 and 100."));
    }
    if expires.is_some_and(|at| at <= now.max(effective)) {
        return Err(ApiError::invalid(
            "expires_at",
            "The expiry must be in the future and after `effective_at`.",
        ));
    }
    let mut metadata = json!({});
    merge_metadata(&mut metadata, params.take("metadata"))?;
    let (category, name) = (params.text("category"), params.text("name"));
    params.finish()?;
    let unused = call
        .world
        .store
        .credit_grants
        .newest_first()
        .filter(|row| row["customer"] == customer.as_str() && balance(call, id_of(row)) > 0);
    if unused.count() >= GRANT_LIMIT {
        return Err(ApiError::refused(
            None,
            "customer",
            "A customer can have at most 100 unused credit grants.",
        ));
    }
    let clock = call
        .world
        .store
        .customers
        .get(&customer)
        .map_or(Value::Null, |row| row["test_clock"].clone());
    let fields = json!({
        "id": call.mint(ids::CREDIT_GRANT), "object": "billing.credit_grant", "amount": amount, "applicability_config": config,
        "category": category.unwrap_or_else(|| "paid".to_owned()), "created": now, "customer": customer,
        "effective_at": effective, "expires_at": expires, "livemode": false, "metadata": metadata, "name": name,
        "priority": priority, "test_clock": clock, "updated": now,
    });
    let grant = object("billing.credit_grant", fields);
    call.store().credit_grants.insert(grant.clone());
    call.emit("billing.credit_grant.created", &grant, None);
    let value = grant["amount"]["monetary"]["value"].as_i64().unwrap_or_default();
    credit(call, &grant, value, "credits_granted", Value::Null);
    Ok(grant)
}

fn read_amount(params: &mut Params) -> Answer {
    let mut amount = params.hash("amount").unwrap_or_default();
    let mut monetary =
        amount.hash("monetary").ok_or_else(|| ApiError::missing("amount[monetary]"))?;
    let currency = currency::required(&mut monetary)?;
    let value = monetary.int("value").unwrap_or_default();
    monetary.finish()?;
    amount.ignore(&["type"]);
    amount.finish()?;
    if value <= 0 {
        return Err(ApiError::invalid(
            "amount[monetary][value]",
            "The value must be greater than zero.",
        ));
    }
    let fields =
        json!({ "type": "monetary", "monetary": { "currency": currency, "value": value } });
    Ok(object("billing.credit_grant.amount", fields))
}

fn check_scope(call: &Call<'_>, scope: &Value) -> Result<(), ApiError> {
    if scope["price_type"].is_null() == scope["prices"].is_null() {
        let param = "applicability_config[scope]";
        return Err(ApiError::only_one_of("price_type", "prices", param));
    }
    for id in scope["prices"].as_array().into_iter().flatten().filter_map(|row| row["id"].as_str())
    {
        let found = call.world.store.prices.get(id);
        let price = found
            .ok_or_else(|| ApiError::no_such("price", id, "applicability_config[scope][prices]"))?;
        if !line::is_metered(price) {
            let message = format!("The price {id} is not metered.");
            return Err(ApiError::invalid("applicability_config[scope][prices]", message));
        }
    }
    Ok(())
}

/// What is left of a grant, used or not: the sum of its transactions.
fn balance(call: &Call<'_>, grant: &str) -> i64 {
    let rows = call.world.store.credit_transactions.newest_first();
    rows.filter(|row| row["credit_grant"] == grant)
        .map(|row| {
            let value =
                |side: &str| row[side]["amount"]["monetary"]["value"].as_i64().unwrap_or_default();
            value("credit") - value("debit")
        })
        .sum()
}

fn is_usable(grant: &Value, now: i64) -> bool {
    grant["voided_at"].is_null()
        && grant["effective_at"].as_i64().is_none_or(|at| at <= now)
        && grant["expires_at"].as_i64().is_none_or(|at| at > now)
}

fn covers(scope: &Value, price: &str) -> bool {
    match scope["prices"].as_array() {
        Some(prices) => prices.iter().any(|row| row["id"] == price),
        None => true,
    }
}

/// Takes what a customer's grants cover off an invoice that is being finalized.
pub fn apply(call: &mut Call<'_>, invoice: &mut Value) {
    let Value::Array(mut lines) = invoice["lines"]["data"].take() else { return };
    let mut totals = Vec::new();
    for grant in in_order(call, invoice) {
        let mut left = balance(call, id_of(&grant));
        for line in &mut lines {
            let taken = left.min(open_amount(call, &grant, line));
            if taken <= 0 {
                continue;
            }
            left -= taken;
            let about = json!({ "invoice": invoice["id"], "invoice_line_item": line["id"] });
            let transaction = debit(call, &grant, taken, "credits_applied", about);
            let row = json!({ "amount": taken, "credit_balance_transaction": transaction, "type": "credit_balance_transaction" });
            if let Some(rows) = line["pretax_credit_amounts"].as_array_mut() {
                rows.push(row.clone());
            }
            totals.push(row);
        }
    }
    invoice["lines"]["data"] = Value::Array(lines);
    invoice["total_pretax_credit_amounts"] = Value::Array(totals);
}

/// The grants that can pay for an invoice, in the order in which they do.
fn in_order(call: &Call<'_>, invoice: &Value) -> Vec<Value> {
    let now = call.now();
    let rows = call.world.store.credit_grants.newest_first();
    let mut grants: Vec<Value> = rows
        .filter(|row| {
            row["customer"] == invoice["customer"]
                && row["amount"]["monetary"]["currency"] == invoice["currency"]
                && is_usable(row, now)
        })
        .cloned()
        .collect();
    grants.reverse(); // Oldest first; the sort keeps that among equals.
    grants.sort_by_key(|row| {
        (
            row["priority"].as_i64().unwrap_or(50),
            row["expires_at"].as_i64().unwrap_or(i64::MAX),
            row["category"] != "promotional",
            row["effective_at"].as_i64().unwrap_or_default(),
            row["created"].as_i64().unwrap_or_default(),
        )
    });
    grants
}

/// What a grant may still pay of a line.
fn open_amount(call: &Call<'_>, grant: &Value, line: &Value) -> i64 {
    let Some(id) = line["pricing"]["price_details"]["price"].as_str() else { return 0 };
    let price = call.world.store.prices.get(id);
    if !price.is_some_and(line::is_metered) || !covers(&grant["applicability_config"]["scope"], id)
    {
        return 0;
    }
    let paid = line["pretax_credit_amounts"].as_array().into_iter().flatten();
    let paid: i64 = paid.filter_map(|row| row["amount"].as_i64()).sum();
    discount::net(line) - paid
}

/// Gives back what an invoice took that is void now.
pub fn restore(call: &mut Call<'_>, invoice: &str) {
    let rows = call.world.store.credit_transactions.newest_first();
    let mut taken: Vec<Value> =
        rows.filter(|row| row["debit"]["credits_applied"]["invoice"] == invoice).cloned().collect();
    taken.reverse();
    for row in taken {
        let grant = row["credit_grant"]
            .as_str()
            .and_then(|id| call.world.store.credit_grants.get(id))
            .cloned();
        let Some(grant) = grant else { continue };
        let value = row["debit"]["amount"]["monetary"]["value"].as_i64().unwrap_or_default();
        let about = row["debit"]["credits_applied"].clone();
        credit(call, &grant, value, "credits_application_invoice_voided", about);
    }
}

fn credit(call: &mut Call<'_>, grant: &Value, value: i64, kind: &str, about: Value) -> String {
    let mut side = side(grant, value, kind);
    side["credits_application_invoice_voided"] = about;
    record(call, grant, "credit", object("billing.credit_balance_transaction.credit", side))
}

fn debit(call: &mut Call<'_>, grant: &Value, value: i64, kind: &str, about: Value) -> String {
    let mut side = side(grant, value, kind);
    side["credits_applied"] = about;
    record(call, grant, "debit", object("billing.credit_balance_transaction.debit", side))
}

fn side(grant: &Value, value: i64, kind: &str) -> Value {
    let currency = &grant["amount"]["monetary"]["currency"];
    json!({ "amount": { "type": "monetary", "monetary": { "currency": currency, "value": value } }, "type": kind })
}

fn record(call: &mut Call<'_>, grant: &Value, name: &str, side: Value) -> String {
    let id = call.mint(ids::CREDIT_TRANSACTION);
    let mut fields = json!({
        "id": id, "object": "billing.credit_balance_transaction", "created": call.now(), "credit_grant": grant["id"],
        "effective_at": call.now(), "livemode": false, "test_clock": grant["test_clock"], "type": name,
    });
    fields[name] = side;
    let row = object("billing.credit_balance_transaction", fields);
    call.store().credit_transactions.insert(row.clone());
    call.emit("billing.credit_balance_transaction.created", &row, None);
    id
}

/// `GET /v1/billing/credit_grants/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.credit_grants, "credit grant", id, params)
}

/// `GET /v1/billing/credit_grants`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.take("customer");
    let rows = &call.world.store.credit_grants;
    page(call.world, rows, "credit grant", "/v1/billing/credit_grants", params, |row| {
        customer.as_ref().is_none_or(|customer| row["customer"] == *customer)
    })
}

fn find(call: &mut Call<'_>, id: &str) -> Answer {
    let found = call.world.store.credit_grants.get(id).cloned();
    let grant = found.ok_or_else(|| ApiError::not_found("credit grant", id))?;
    call.enter_clock_of(&grant);
    Ok(grant)
}

fn save(call: &mut Call<'_>, mut grant: Value) -> Value {
    grant["updated"] = json!(call.now());
    call.save(|store| &mut store.credit_grants, grant, "billing.credit_grant.updated")
}

/// `POST /v1/billing/credit_grants/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut grant = find(call, id)?;
    merge_metadata(&mut grant["metadata"], params.take("metadata"))?;
    params.copy_into(&mut grant, &["expires_at"]);
    params.finish()?;
    Ok(save(call, grant))
}

/// `POST /v1/billing/credit_grants/{id}/expire`: what is left is gone now.
pub fn expire(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut grant = find(call, id)?;
    grant["expires_at"] = json!(call.now());
    close(call, grant, "credits_expired")
}

/// `POST /v1/billing/credit_grants/{id}/void`: only a grant that nothing was paid with.
pub fn void(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut grant = find(call, id)?;
    if Some(balance(call, id)) != grant["amount"]["monetary"]["value"].as_i64() {
        let message = "Only credit grants that have not been used can be voided.";
        return Err(ApiError::refused(None, "id", message));
    }
    grant["voided_at"] = json!(call.now());
    close(call, grant, "credits_voided")
}

fn close(call: &mut Call<'_>, grant: Value, kind: &str) -> Answer {
    let left = balance(call, id_of(&grant));
    let shown = save(call, grant);
    if left > 0 {
        debit(call, &shown, left, kind, Value::Null);
    }
    Ok(shown)
}

/// `GET /v1/billing/credit_balance_transactions/{id}`.
pub fn transaction(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(
        call,
        &call.world.store.credit_transactions,
        "credit balance transaction",
        id,
        params,
    )
}

/// `GET /v1/billing/credit_balance_transactions`.
pub fn transactions(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let (customer, grant) = (params.text("customer"), params.text("credit_grant"));
    let store = &call.world.store;
    let url = "/v1/billing/credit_balance_transactions";
    page(call.world, &store.credit_transactions, "credit balance transaction", url, params, |row| {
        let own = row["credit_grant"].as_str().unwrap_or_default();
        grant.as_ref().is_none_or(|grant| own == grant)
            && customer.as_ref().is_none_or(|customer| {
                store.credit_grants.get(own).is_some_and(|row| row["customer"] == customer.as_str())
            })
    })
}

/// `GET /v1/billing/credit_balance_summary`: what is there, and what can be used now.
pub fn summary(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.required_text("customer")?;
    call.enter_clock_of_customer(&customer, "customer")?;
    let mut filter = params.hash("filter").unwrap_or_default();
    let (grant, scope) = (filter.text("credit_grant"), filter.take("applicability_scope"));
    filter.ignore(&["type"]);
    filter.finish()?;
    params.finish()?;
    let wanted = |row: &&Value| {
        let own = &row["applicability_config"]["scope"];
        row["customer"] == customer.as_str()
            && row["voided_at"].is_null()
            && grant.as_ref().is_none_or(|grant| row["id"] == grant.as_str())
            && scope.as_ref().is_none_or(|scope| {
                let mut prices = scope["prices"].as_array().into_iter().flatten();
                prices.all(|price| covers(own, price["id"].as_str().unwrap_or_default()))
            })
    };
    let mut sums: std::collections::BTreeMap<String, (i64, i64)> =
        std::collections::BTreeMap::new();
    for row in call.world.store.credit_grants.newest_first().filter(wanted) {
        let currency = row["amount"]["monetary"]["currency"].as_str().unwrap_or_default();
        let (left, sum) = (balance(call, id_of(row)), sums.entry(currency.to_owned()).or_default());
        sum.0 += if is_usable(row, call.now()) { left } else { 0 };
        sum.1 += left;
    }
    let money = |currency: &str, value: i64| json!({ "type": "monetary", "monetary": { "currency": currency, "value": value } });
    let balances: Vec<Value> = sums
        .iter()
        .map(|(currency, (available, ledger))| {
            json!({ "available_balance": money(currency, *available), "ledger_balance": money(currency, *ledger) })
        })
        .collect();
    let fields = json!({
        "object": "billing.credit_balance_summary", "balances": balances, "customer": customer, "livemode": false,
    });
    Ok(object("billing.credit_balance_summary", fields))
}
