//! `/v1/payment_methods`: cards, attached to customers.
//!
//! Stripe's test cards are known by their ids (`pm_card_visa`), tokens (`tok_visa`) and numbers; any other number is a good card. What
//! a card answers to a payment follows from which one it is, and holds for its customer from the moment that it becomes a default, of
//! the customer or of one of its subscriptions; an order of the control API goes before it. Absent on purpose: every kind but cards,
//! setup intents, and the check that a customer has any card at all: without one, payments succeed unless a test says otherwise.

use super::{Answer, Call, object, page};
use crate::error::ApiError;
use crate::ids;
use crate::params::{Params, merge_metadata};
use crate::store::cards::Outcome;
use serde_json::{Value, json};

/// One of Stripe's test cards: what follows `pm_card_` and `tok_`, its number, brand, and what it does.
struct TestCard(&'static str, &'static str, &'static str, Behavior);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behavior {
    Pays,
    /// Refused when it is attached, with this error code and decline code.
    Refused(&'static str, &'static str),
    Declines,
    WantsAction,
}

const DECLINED: Behavior = Behavior::Refused("card_declined", "generic_decline");
const NO_FUNDS: Behavior = Behavior::Refused("card_declined", "insufficient_funds");
const EXPIRED: Behavior = Behavior::Refused("expired_card", "expired_card");
const WRONG_CVC: Behavior = Behavior::Refused("incorrect_cvc", "incorrect_cvc");
const NOT_PROCESSED: Behavior = Behavior::Refused("processing_error", "processing_error");

const TEST_CARDS: [TestCard; 15] = [
    TestCard("visa", "4242424242424242", "visa", Behavior::Pays),
    TestCard("visa_debit", "4000056655665556", "visa", Behavior::Pays),
    TestCard("mastercard", "5555555555554444", "mastercard", Behavior::Pays),
    TestCard("amex", "378282246310005", "amex", Behavior::Pays),
    TestCard("discover", "6011111111111117", "discover", Behavior::Pays),
    TestCard("chargeDeclined", "4000000000000002", "visa", DECLINED),
    TestCard("visa_chargeDeclined", "4000000000000002", "visa", DECLINED),
    TestCard("chargeDeclinedInsufficientFunds", "4000000000009995", "visa", NO_FUNDS),
    TestCard("visa_chargeDeclinedInsufficientFunds", "4000000000009995", "visa", NO_FUNDS),
    TestCard("chargeDeclinedExpiredCard", "4000000000000069", "visa", EXPIRED),
    TestCard("chargeDeclinedIncorrectCvc", "4000000000000127", "visa", WRONG_CVC),
    TestCard("chargeDeclinedProcessingError", "4000000000000119", "visa", NOT_PROCESSED),
    TestCard("chargeCustomerFail", "4000000000000341", "visa", Behavior::Declines),
    TestCard("authenticationRequired", "4000002760003184", "visa", Behavior::WantsAction),
    TestCard("threeDSecure2Required", "4000000000003220", "visa", Behavior::WantsAction),
];

fn test_card(id: &str, prefix: &str) -> Option<&'static TestCard> {
    let name = id.strip_prefix(prefix)?;
    TEST_CARDS.iter().find(|card| card.0 == name)
}

/// `POST /v1/payment_methods`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let kind = params.text("type").unwrap_or_else(|| "card".to_owned());
    if kind != "card" {
        return Err(ApiError::not_simulated(&format!("a payment method of type {kind}")));
    }
    let Some(mut card) = params.hash("card") else { return Err(ApiError::missing("card")) };
    let (number, expiry) = read_card(call, &mut card)?;
    card.ignore(&["cvc"]);
    card.finish()?;
    let mut method = document(call, &number, expiry);
    fill(&mut method, &mut params)?;
    params.finish()?;
    call.store().payment_methods.insert(method.clone());
    call.store().card_numbers.insert(text(&method, "id"), number);
    Ok(method)
}

/// The number behind a token or a number as given, and the month and year of its end.
fn read_card(call: &Call<'_>, card: &mut Params) -> Result<(String, (i64, i64)), ApiError> {
    let default = default_expiry(call);
    if let Some(token) = card.text("token") {
        let known = test_card(&token, "tok_");
        let known = known.ok_or_else(|| ApiError::no_such("token", &token, "card[token]"))?;
        return Ok((known.1.to_owned(), default));
    }
    let number = card.required_text("number")?;
    if number.len() < 12 || number.len() > 19 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = "Your card number is incorrect.";
        let mut error = ApiError::card("incorrect_number", message);
        error.param = Some("number".to_owned());
        return Err(error);
    }
    let month = card.int("exp_month").unwrap_or(default.0);
    let year = card.int("exp_year").unwrap_or(default.1);
    if !(1..=12).contains(&month) {
        return Err(ApiError::card(
            "invalid_expiry_month",
            "Your card's expiration month is invalid.",
        ));
    }
    Ok((number, (month, if year < 100 { 2000 + year } else { year })))
}

/// The end of next year.
fn default_expiry(call: &Call<'_>) -> (i64, i64) {
    use chrono::Datelike;
    let year = crate::clock::utc(call.now()).map_or(2030, |at| i64::from(at.year()) + 1);
    (12, year)
}

fn document(call: &mut Call<'_>, number: &str, (month, year): (i64, i64)) -> Value {
    let known = TEST_CARDS.iter().find(|card| card.1 == number);
    let brand = known.map_or("visa", |card| card.2);
    let funding =
        if known.is_some_and(|card| card.0.ends_with("debit")) { "debit" } else { "credit" };
    let card = json!({
        "brand": brand, "checks": object("payment_method.card.checks", json!({ "cvc_check": "pass" })), "country": "US",
        "display_brand": brand, "exp_month": month, "exp_year": year,
        "fingerprint": ids::derive(ids::FINGERPRINT, &[number.as_bytes()]), "funding": funding,
        "last4": number[number.len() - 4..],
        "networks": object("payment_method.card.networks", json!({ "available": [brand] })),
        "regulated_status": "unregulated", "three_d_secure_usage": { "supported": true },
    });
    let fields = json!({
        "id": call.mint(ids::PAYMENT_METHOD), "object": "payment_method", "allow_redisplay": "unspecified",
        "billing_details": object("payment_method.billing_details", json!({})), "card": object("payment_method.card", card),
        "created": call.now(), "livemode": false, "metadata": {}, "type": "card",
    });
    object("payment_method", fields)
}

/// Applies the parameters that creation and update share.
fn fill(method: &mut Value, params: &mut Params) -> Result<(), ApiError> {
    params.copy_into(method, &["allow_redisplay"]);
    if let Some(mut details) = params.hash("billing_details") {
        let own = &mut method["billing_details"];
        details.copy_into(own, &["email", "name", "phone", "tax_id"]);
        if let Some(address) = details.take_nullable("address") {
            own["address"] = if address.is_null() { address } else { object("address", address) };
        }
        details.finish()?;
    }
    merge_metadata(&mut method["metadata"], params.take("metadata"))
}

/// `GET /v1/payment_methods/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.payment_methods, "PaymentMethod", id, params)
}

/// `GET /v1/customers/{customer}/payment_methods/{id}`. The path gives both, with what stands between them.
pub fn retrieve_of_customer(call: &mut Call<'_>, path: &str, params: Params) -> Answer {
    let (customer, id) = path.split_once("/payment_methods/").unwrap_or_default();
    let method = retrieve(call, id, params)?;
    if method["customer"] == customer {
        Ok(method)
    } else {
        Err(ApiError::not_found("PaymentMethod", id))
    }
}

/// `POST /v1/payment_methods/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut method = found(call, id)?;
    fill(&mut method, &mut params)?;
    if let Some(mut card) = params.hash("card") {
        card.copy_into(&mut method["card"], &["exp_month", "exp_year"]);
        card.finish()?;
    }
    params.finish()?;
    Ok(call.save(|store| &mut store.payment_methods, method, "payment_method.updated"))
}

fn found(call: &Call<'_>, id: &str) -> Answer {
    let found = call.world.store.payment_methods.get(id).cloned();
    found.ok_or_else(|| ApiError::not_found("PaymentMethod", id))
}

/// `GET /v1/payment_methods`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.text("customer");
    listed(call, customer.as_deref(), "/v1/payment_methods", params)
}

/// `GET /v1/customers/{id}/payment_methods`.
pub fn list_of_customer(call: &mut Call<'_>, customer: &str, params: Params) -> Answer {
    if call.world.store.live_customer(customer).is_none() {
        return Err(ApiError::not_found("customer", customer));
    }
    let url = format!("/v1/customers/{customer}/payment_methods");
    listed(call, Some(customer), &url, params)
}

fn listed(call: &Call<'_>, customer: Option<&str>, url: &str, mut params: Params) -> Answer {
    let customer = json!(customer);
    let wanted =
        [("type", params.take("type")), ("allow_redisplay", params.take("allow_redisplay"))];
    page(call.world, &call.world.store.payment_methods, "PaymentMethod", url, params, |row| {
        row["customer"] == customer
            && wanted
                .iter()
                .all(|(name, value)| value.as_ref().is_none_or(|value| row[*name] == *value))
    })
}

/// `POST /v1/payment_methods/{id}/attach`.
pub fn attach(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let customer = params.required_text("customer")?;
    params.finish()?;
    if call.world.store.live_customer(&customer).is_none() {
        return Err(ApiError::no_such("customer", &customer, "customer"));
    }
    attach_to(call, id, &customer)
}

/// Attaches a payment method, or a new one made from the id of a test card.
///
/// # Errors
/// 402 for a card that refuses, 404 for an unknown one, 400 for one that has a customer.
pub fn attach_to(call: &mut Call<'_>, id: &str, customer: &str) -> Answer {
    let is_ours = call.world.store.payment_methods.get(id).is_some();
    let known = test_card(id, "pm_card_").filter(|_| !is_ours);
    let number = match known {
        Some(card) => Some(card.1.to_owned()),
        None => call.world.store.card_numbers.get(id).cloned(),
    };
    let number = number.ok_or_else(|| ApiError::not_found("PaymentMethod", id))?;
    if let Behavior::Refused(code, why) = behavior(&number) {
        return Err(ApiError::declined(code, why));
    }
    let mut method = if known.is_some() {
        let expiry = default_expiry(call);
        let made = document(call, &number, expiry);
        call.store().payment_methods.insert(made.clone());
        call.store().card_numbers.insert(text(&made, "id"), number);
        made
    } else {
        found(call, id)?
    };
    if !method["customer"].is_null() && method["customer"] != customer {
        let message = "The payment method you provided has already been attached to a customer.";
        return Err(ApiError::refused(None, "", message));
    }
    method["customer"] = json!(customer);
    call.store().payment_methods.replace(method.clone());
    call.emit("payment_method.attached", &method, None);
    Ok(method)
}

/// `POST /v1/payment_methods/{id}/detach`: it is nobody's default any more, and can be attached to nobody else.
pub fn detach(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut method = found(call, id)?;
    let Some(customer) = method["customer"].as_str().map(str::to_owned) else {
        let message = "The payment method you provided is not attached to a customer so detachment is impossible.";
        return Err(ApiError::refused(None, "", message));
    };
    method["customer"] = Value::Null;
    call.store().payment_methods.replace(method.clone());
    call.store().card_numbers.remove(id);
    if let Some(mut row) = call.world.store.live_customer(&customer).cloned()
        && row["invoice_settings"]["default_payment_method"] == id
    {
        row["invoice_settings"]["default_payment_method"] = Value::Null;
        call.world.cards.forget_default(&customer);
        call.save(|store| &mut store.customers, row, "customer.updated");
    }
    let previous = serde_json::Map::from_iter([("customer".to_owned(), json!(customer))]);
    call.emit("payment_method.detached", &method, Some(previous));
    Ok(method)
}

/// Checks that a payment method can be a customer's default.
///
/// # Errors
/// 400 for one that is not attached to the customer.
pub fn check(call: &Call<'_>, id: &str, customer: &str, param: &str) -> Result<(), ApiError> {
    match call.world.store.payment_methods.get(id) {
        None => Err(ApiError::no_such("PaymentMethod", id, param)),
        Some(row) if row["customer"] != customer => {
            let message =
                format!("The customer {customer} does not have a payment method with the ID {id}.");
            Err(ApiError::refused(Some("resource_missing"), param, message))
        }
        Some(_) => Ok(()),
    }
}

/// From now on a customer's payments meet this card.
pub fn use_for(call: &mut Call<'_>, id: &str, customer: &str) {
    let number = call.world.store.card_numbers.get(id).cloned().unwrap_or_default();
    let outcome = match behavior(&number) {
        Behavior::Pays => Outcome::Ok,
        Behavior::Declines | Behavior::Refused(..) => Outcome::Decline,
        Behavior::WantsAction => Outcome::RequiresAction,
    };
    call.world.cards.set_default(customer, outcome);
}

fn behavior(number: &str) -> Behavior {
    let known = TEST_CARDS.iter().find(|card| card.1 == number);
    known.map_or(Behavior::Pays, |card| card.3)
}

fn text(document: &Value, name: &str) -> String {
    document[name].as_str().unwrap_or_default().to_owned()
}
