//! `/v1/invoices`: read, list, change by hand. Making them is [`draft`]'s matter, the rest of their life [`finalize`]'s and [`pay`]'s.
//!
//! An invoice is stored with all its lines and shown with the first ten; `/lines` pages through the rest. Only a draft changes.

pub mod draft;
pub mod finalize;
pub mod line;
pub mod pay;
pub mod payment;

use super::{Answer, Call, discount, page, payment_method};
use crate::currency;
use crate::error::ApiError;
use crate::list::{self, Page, Range};
use crate::params::{Params, merge_metadata};
use crate::store::cards::Outcome;
use draft::Draft;
use serde_json::{Value, json};

/// How many lines an invoice shows inside itself.
const LINES_SHOWN: usize = 10;
const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 86_400;

/// The invoice as the API shows it.
pub fn render(invoice: &Value) -> Value {
    let mut shown = invoice.clone();
    if let Some(lines) = shown["lines"]["data"].as_array_mut()
        && lines.len() > LINES_SHOWN
    {
        lines.truncate(LINES_SHOWN);
        shown["lines"]["has_more"] = json!(true);
    }
    shown
}

fn find(call: &mut Call<'_>, id: &str) -> Answer {
    let found = call.world.store.invoices.get(id).cloned();
    let invoice = found.ok_or_else(|| ApiError::not_found("invoice", id))?;
    call.enter_clock_of(&invoice);
    Ok(invoice)
}

/// `GET /v1/invoices/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.invoices, "invoice", id, params)
}

/// `GET /v1/invoices/{id}/lines`.
pub fn lines(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let page = Page::take(&mut params)?;
    params.finish()?;
    let invoice = find(call, id)?;
    let rows = invoice["lines"]["data"].as_array().into_iter().flatten();
    let (rows, has_more) = page.cut("line_item", rows, |_| true)?;
    let rows = rows.into_iter().cloned().collect();
    Ok(list::object(&format!("/v1/invoices/{id}/lines"), rows, has_more))
}

/// `GET /v1/invoices`. Invoices on a test clock show only when asked for by customer or subscription.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let due = Range::take(&mut params, "due_date")?;
    let names = ["collection_method", "customer", "status"];
    let wanted: Vec<(&str, Value)> =
        names.into_iter().filter_map(|name| Some((name, params.take(name)?))).collect();
    let subscription = params.text("subscription");
    let scoped = subscription.is_some() || wanted.iter().any(|(name, _)| *name == "customer");
    let rows = &call.world.store.invoices;
    page(call.world, rows, "invoice", "/v1/invoices", params, |row| {
        let own = &row["parent"]["subscription_details"]["subscription"];
        (scoped || row["test_clock"].is_null())
            && created.contains(row["created"].as_i64().unwrap_or_default())
            && due.contains_if_bound(row["due_date"].as_i64())
            && wanted.iter().all(|(name, value)| row[*name] == *value)
            && subscription.as_ref().is_none_or(|id| *own == id.as_str())
    })
}

/// `POST /v1/invoices`: a draft by hand, with or without the pending items.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    if params.take("from_invoice").is_some() {
        return Err(ApiError::not_simulated("a revision of an invoice"));
    }
    let subscription = match params.text("subscription") {
        None => None,
        Some(id) => {
            let found = call.world.store.subscriptions.get(&id).cloned();
            Some(found.ok_or_else(|| ApiError::no_such("subscription", &id, "subscription"))?)
        }
    };
    let customer = match (params.text("customer"), &subscription) {
        (Some(customer), _) => customer,
        (None, Some(own)) => own["customer"].as_str().unwrap_or_default().to_owned(),
        (None, None) => return Err(ApiError::missing("customer")),
    };
    call.enter_clock_of_customer(&customer, "customer")?;
    let takes = subscription.is_some()
        || params.text("pending_invoice_items_behavior").as_deref() == Some("include");
    let own = subscription.as_ref().and_then(|own| own["currency"].as_str());
    let currency =
        currency::take(&mut params)?.or(own.map(str::to_owned)).unwrap_or_else(|| "usd".to_owned());
    let auto = params.flag("auto_advance").unwrap_or(false);
    let method = params.text("collection_method");
    let mut fields = json!({ "metadata": {} });
    params.copy_into(&mut fields, &["custom_fields", "description", "footer", "due_date"]);
    if let Some(at) = due_in(call, &mut params, method.as_deref())? {
        fields["due_date"] = json!(at);
    }
    merge_metadata(&mut fields["metadata"], params.take("metadata"))?;
    let discounts = discount::take(call, &mut params, &customer)?;
    params.finish()?;
    let now = call.now();
    let made = Draft {
        customer: &customer,
        subscription: subscription.as_ref(),
        reason: "manual",
        currency: &currency,
        lines: Vec::new(),
        period: (now, now),
        finalizes_at: auto.then_some(now + HOUR_S),
    };
    let mut invoice = if takes {
        draft::make(call, made)
    } else {
        let id = call.mint(crate::ids::INVOICE);
        let built = draft::build(call, &id, made, &[]);
        call.store().invoices.insert(built.clone());
        built
    };
    for (name, value) in fields.as_object().into_iter().flatten() {
        invoice[name] = value.clone();
    }
    if let Some(method) = method {
        invoice["collection_method"] = json!(method);
    }
    if let Some(wanted) = discounts {
        let id = invoice["id"].as_str().unwrap_or_default().to_owned();
        invoice["discounts"] = discount::make(call, wanted, &customer, ("invoice", &id));
        draft::reckon(call, &mut invoice);
    }
    call.store().invoices.replace(invoice.clone());
    draft::announce(call, &invoice);
    Ok(render(&invoice))
}

/// Reads `days_until_due`, which only an invoice that is sent can have.
fn due_in(
    call: &Call<'_>,
    params: &mut Params,
    method: Option<&str>,
) -> Result<Option<i64>, ApiError> {
    match params.int("days_until_due") {
        Some(_) if method != Some("send_invoice") => {
            let message = "You can only specify `days_until_due` if invoice `collection_method` is set to `send_invoice`.";
            Err(ApiError::invalid("days_until_due", message))
        }
        days => Ok(days.map(|days| call.now() + days * DAY_S)),
    }
}

/// `POST /v1/invoices/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut invoice = find(call, id)?;
    merge_metadata(&mut invoice["metadata"], params.take("metadata"))?;
    let is_draft = invoice["status"] == "draft";
    let before = invoice.clone();
    params.copy_into(
        &mut invoice,
        &[
            "automatically_finalizes_at",
            "collection_method",
            "custom_fields",
            "description",
            "due_date",
            "footer",
        ],
    );
    let method = invoice["collection_method"].as_str().map(str::to_owned);
    if let Some(at) = due_in(call, &mut params, method.as_deref())? {
        invoice["due_date"] = json!(at);
    }
    if let Some(auto) = params.flag("auto_advance") {
        invoice["auto_advance"] = json!(auto);
        if is_draft && auto && invoice["automatically_finalizes_at"].is_null() {
            invoice["automatically_finalizes_at"] = json!(call.now() + HOUR_S);
        }
        if is_draft && !auto {
            invoice["automatically_finalizes_at"] = Value::Null;
        }
    }
    params.finish()?;
    let edited = ["automatically_finalizes_at", "collection_method", "description", "footer"];
    if !is_draft && edited.iter().any(|name| invoice[*name] != before[*name]) {
        return Err(ApiError::refused(
            Some("invoice_not_editable"),
            "",
            "Finalized invoices can't be updated in this way.",
        ));
    }
    Ok(call.save(|store| &mut store.invoices, invoice, "invoice.updated"))
}

/// `DELETE /v1/invoices/{id}`: drafts made by hand only. Its invoice items are pending again.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let invoice = find(call, id)?;
    if invoice["status"] != "draft" || invoice["billing_reason"] != "manual" {
        let message = "You can only delete draft invoices that are not of a subscription.";
        return Err(ApiError::refused(None, "", message));
    }
    let items = call.world.store.invoice_items.newest_first();
    let own: Vec<Value> = items.filter(|row| row["invoice"] == id).cloned().collect();
    for mut row in own {
        row["invoice"] = Value::Null;
        call.store().invoice_items.replace(row);
    }
    call.store().invoices.remove(id);
    call.emit("invoice.deleted", &render(&invoice), None);
    Ok(json!({ "id": id, "object": "invoice", "deleted": true }))
}

/// `POST /v1/invoices/{id}/finalize`.
pub fn finalize(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let auto = params.flag("auto_advance");
    params.finish()?;
    let invoice = find(call, id)?;
    let advances = auto.unwrap_or(invoice["auto_advance"] == true);
    let mut invoice = finalize::finalize(call, invoice, advances)?;
    if invoice["status"] == "open" && invoice["amount_remaining"] == 0 {
        invoice = pay::settle(call, invoice);
    }
    Ok(render(&invoice))
}

/// `POST /v1/invoices/{id}/pay`. A draft is finalized first.
pub fn pay(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let out_of_band = params.flag("paid_out_of_band").unwrap_or(false);
    let method = params.text("payment_method");
    params.ignore(&["forgive", "off_session"]);
    params.finish()?;
    let mut invoice = find(call, id)?;
    if let Some(method) = &method {
        let customer = invoice["customer"].as_str().unwrap_or_default().to_owned();
        payment_method::check(call, method, &customer, "payment_method")?;
        payment_method::use_for(call, method, &customer);
    }
    match invoice["status"].as_str() {
        Some("draft") => invoice = finalize::finalize(call, invoice, false)?,
        Some("paid") => return Err(ApiError::refused(None, "", "Invoice is already paid")),
        Some("void") => {
            return Err(ApiError::refused(None, "", "Voided invoices can't be paid."));
        }
        _ => {}
    }
    if out_of_band || invoice["amount_remaining"] == 0 {
        return Ok(render(&pay::settle(call, invoice)));
    }
    match pay::attempt(call, id, pay::Trigger::Request) {
        (invoice, Outcome::Ok) => Ok(render(&invoice)),
        (_, outcome) => Err(pay::refusal(outcome)),
    }
}

/// `POST /v1/invoices/{id}/send`: an open one, or a draft that is finalized first. No mail leaves; it is told.
pub fn send(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut invoice = find(call, id)?;
    if invoice["collection_method"] != "send_invoice" {
        let message =
            "You can only manually send an invoice if its collection method is 'send_invoice'.";
        return Err(ApiError::refused(None, "", message));
    }
    if invoice["status"] == "draft" {
        invoice = finalize::finalize(call, invoice, false)?;
    }
    if invoice["status"] != "open" {
        let message =
            format!("You can only send open invoices. This one is {}.", invoice["status"]);
        return Err(ApiError::refused(None, "", message));
    }
    let shown = render(&invoice);
    call.emit("invoice.sent", &shown, None);
    Ok(shown)
}

/// `POST /v1/invoices/{id}/void`.
pub fn void(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let invoice = closable(call, id, &["open", "uncollectible"])?;
    Ok(render(&pay::void(call, invoice)))
}

/// `POST /v1/invoices/{id}/mark_uncollectible`.
pub fn mark_uncollectible(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let invoice = closable(call, id, &["open"])?;
    Ok(render(&pay::give_up(call, invoice)))
}

fn closable(call: &mut Call<'_>, id: &str, statuses: &[&str]) -> Answer {
    let invoice = find(call, id)?;
    let status = invoice["status"].as_str().unwrap_or_default();
    if statuses.contains(&status) {
        return Ok(invoice);
    }
    let message =
        format!("You can only pass in open invoices. This invoice isn't open: it is {status}.");
    Err(ApiError::refused(None, "", message))
}
