//! `/v1/credit_notes`: what is taken back from a finalized invoice.
//!
//! On an open invoice a note lowers what remains to be paid, down to paid. On a paid one the caller says where the money goes: the
//! customer's balance, a refund, or out of band; refunds move nothing here, since there are no charges. Notes never exceed the
//! invoice. Absent on purpose: taxes, shipping, refund objects.

use super::invoice::{finalize, pay};
use super::{Answer, Call, object, page};
use crate::error::ApiError;
use crate::ids;
use crate::list::{self, Page, Range};
use crate::params::{Params, merge_metadata};
use crate::rating;
use crate::store::table::id_of;
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// A note that fits its invoice, stored nowhere.
struct Draft {
    invoice: Value,
    note: Value,
    total: i64,
    /// What goes to the customer's balance.
    credited: i64,
}

/// `POST /v1/credit_notes`.
pub fn create(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let Draft { invoice, note, total, credited } = draft(call, params)?;
    call.store().credit_notes.insert(note.clone());
    call.emit("credit_note.created", &note, None);
    settle(call, invoice, total, credited);
    Ok(note)
}

/// `GET /v1/credit_notes/preview`: what [`create`] would make.
pub fn preview(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let counters = call.world.ids.clone(); // A preview uses no ids up.
    let made = draft(call, params);
    call.world.ids = counters;
    Ok(made?.note)
}

/// `GET /v1/credit_notes/preview/lines`.
pub fn preview_lines(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let page = Page::take(&mut params)?;
    let note = preview(call, id, params)?;
    page_of_lines(&page, &note, "/v1/credit_notes/preview/lines")
}

fn draft(call: &mut Call<'_>, mut params: Params) -> Result<Draft, ApiError> {
    let id = params.required_text("invoice")?;
    let found = call.world.store.invoices.get(&id).cloned();
    let invoice = found.ok_or_else(|| ApiError::no_such("invoice", &id, "invoice"))?;
    call.enter_clock_of(&invoice);
    let given = params.hashes("lines").unwrap_or_default();
    let amount = params.int("amount");
    let credited = params.int("credit_amount");
    let elsewhere = [params.int("refund_amount"), params.int("out_of_band_amount")];
    let mut fields = json!({ "metadata": {} });
    params.copy_into(&mut fields, &["memo", "reason"]);
    merge_metadata(&mut fields["metadata"], params.take("metadata"))?;
    params.ignore(&["email_type"]);
    params.finish()?;
    let lines = match (given.is_empty(), amount) {
        (true, Some(amount)) => vec![custom(amount, None)],
        (true, None) => return Err(ApiError::missing("amount")),
        (false, None) => read_lines(&invoice, given)?,
        (false, Some(_)) => return Err(ApiError::only_one_of("amount", "lines", "lines")),
    };
    let total: i64 = lines.iter().filter_map(|line| line["amount"].as_i64()).sum();
    let is_open = invoice["status"] == "open";
    check(call, &invoice, total)?;
    let after = [credited, elsewhere[0], elsewhere[1]];
    let moved: i64 = after.iter().flatten().sum();
    if is_open && moved != 0 || !is_open && moved != total {
        let message = "The sum of credit amount, refund amount and out of band amount must equal the credit note amount of a paid \
                       invoice, and be zero for an open one.";
        return Err(ApiError::invalid("credit_amount", message));
    }
    let number = format!(
        "{}-CN-{:02}",
        invoice["number"].as_str().unwrap_or_default(),
        of(call, &id).count() + 1
    );
    let mut note = document(call, &invoice, lines, total, is_open);
    note["number"] = json!(number);
    note["out_of_band_amount"] = json!(elsewhere[1]);
    for (name, value) in fields.as_object().into_iter().flatten() {
        note[name] = value.clone();
    }
    Ok(Draft { invoice, note, total, credited: credited.unwrap_or(0) })
}

fn read_lines(invoice: &Value, given: Vec<Params>) -> Result<Vec<Value>, ApiError> {
    let read = |mut line: Params| -> Result<Value, ApiError> {
        let place = line.path_of("amount");
        let own_path = line.path_of("invoice_line_item");
        let own = line.text("invoice_line_item");
        let of = match &own {
            None => None,
            Some(id) => {
                let mut rows = invoice["lines"]["data"].as_array().into_iter().flatten();
                let found = rows.find(|row| row["id"] == id.as_str());
                Some(found.ok_or_else(|| ApiError::no_such("line_item", id, &own_path))?)
            }
        };
        let quantity = line.int("quantity");
        let unit = match (line.int("unit_amount"), line.text("unit_amount_decimal")) {
            (Some(unit), _) => Some(Decimal::from(unit)),
            (None, Some(text)) => Decimal::from_str_exact(&text).ok(),
            (None, None) => None,
        };
        let amount = match (line.int("amount"), unit) {
            (Some(amount), _) => amount,
            (None, Some(unit)) => {
                let many = Decimal::from(quantity.unwrap_or(1));
                rating::round(unit.checked_mul(many).ok_or_else(|| ApiError::missing(&place))?)?
            }
            (None, None) => match (of, quantity) {
                (Some(of), Some(quantity)) => share(of, quantity)?,
                _ => return Err(ApiError::missing(&place)),
            },
        };
        let mut row = custom(amount, line.text("description").as_deref());
        row["quantity"] = json!(quantity);
        row["unit_amount_decimal"] = json!(unit.map(|unit| unit.normalize().to_string()));
        row["type"] = json!(line.text("type"));
        if let Some(own) = own {
            row["invoice_line_item"] = json!(own);
        }
        line.finish()?;
        Ok(row)
    };
    given.into_iter().map(read).collect()
}

/// What some of a line's quantity comes to.
fn share(line: &Value, quantity: i64) -> Result<i64, ApiError> {
    let whole = line["quantity"].as_i64().filter(|whole| *whole > 0).unwrap_or(1);
    rating::share(line["amount"].as_i64().unwrap_or_default(), quantity, whole)
}

fn custom(amount: i64, description: Option<&str>) -> Value {
    let fields = json!({
        "id": "", "object": "credit_note_line_item", "amount": amount, "description": description, "discount_amount": 0,
        "discount_amounts": [], "livemode": false, "metadata": {}, "pretax_credit_amounts": [], "tax_rates": [], "taxes": [],
        "type": "custom_line_item",
    });
    object("credit_note_line_item", fields)
}

/// The notes of an invoice that still stand.
fn of<'a>(call: &'a Call<'_>, invoice: &str) -> impl Iterator<Item = &'a Value> {
    let invoice = json!(invoice);
    call.world.store.credit_notes.newest_first().filter(move |row| row["invoice"] == invoice)
}

fn check(call: &Call<'_>, invoice: &Value, total: i64) -> Result<(), ApiError> {
    let status = invoice["status"].as_str().unwrap_or_default();
    if !matches!(status, "open" | "paid") {
        let message = format!(
            "Credit notes can only be made for invoices that are open or paid; this one is {status}."
        );
        return Err(ApiError::refused(None, "invoice", message));
    }
    let noted: i64 = of(call, id_of(invoice))
        .filter(|row| row["status"] == "issued")
        .filter_map(|row| row["total"].as_i64())
        .sum();
    let limit = if status == "open" {
        invoice["amount_remaining"].as_i64().unwrap_or_default()
    } else {
        invoice["total"].as_i64().unwrap_or_default() - noted
    };
    if total <= 0 || total > limit {
        let message =
            format!("A credit note of {total} does not fit: at most {limit} can be credited.");
        return Err(ApiError::invalid("amount", message));
    }
    Ok(())
}

fn document(
    call: &mut Call<'_>,
    invoice: &Value,
    mut lines: Vec<Value>,
    total: i64,
    is_open: bool,
) -> Value {
    let id = call.mint(ids::CREDIT_NOTE);
    for line in &mut lines {
        line["id"] = json!(call.mint(ids::CREDIT_NOTE_LINE));
    }
    let (before, after) = if is_open { (total, 0) } else { (0, total) };
    let fields = json!({
        "id": id, "object": "credit_note", "amount": total, "amount_shipping": 0, "created": call.now(),
        "currency": invoice["currency"], "customer": invoice["customer"], "discount_amount": 0, "discount_amounts": [],
        "effective_at": call.now(), "invoice": invoice["id"],
        "lines": list::object(&format!("/v1/credit_notes/{id}/lines"), lines, false), "livemode": false, "metadata": {},
        "number": "", "pdf": format!("https://stripe-sim.invalid/credit_notes/{id}/pdf"), "post_payment_amount": after,
        "pre_payment_amount": before, "pretax_credit_amounts": [], "refunds": [], "status": "issued", "subtotal": total,
        "subtotal_excluding_tax": total, "total": total, "total_excluding_tax": total, "total_taxes": [],
        "type": if is_open { "pre_payment" } else { "post_payment" },
    });
    object("credit_note", fields)
}

/// Moves the money: off the invoice while it is open, to the customer's balance after that.
fn settle(call: &mut Call<'_>, mut invoice: Value, total: i64, credited: i64) {
    if invoice["status"] == "open" {
        lower(&mut invoice, total);
        call.store().invoices.replace(invoice.clone());
        if invoice["amount_remaining"] == 0 {
            pay::settle(call, invoice);
        }
        return;
    }
    let noted = invoice["post_payment_credit_notes_amount"].as_i64().unwrap_or_default();
    invoice["post_payment_credit_notes_amount"] = json!(noted + total);
    let customer = invoice["customer"].as_str().unwrap_or_default().to_owned();
    call.store().invoices.replace(invoice);
    let balance = call.world.store.live_customer(&customer).and_then(|row| row["balance"].as_i64());
    if let Some(balance) = balance {
        finalize::set_balance(call, &customer, balance - credited);
    }
}

fn lower(invoice: &mut Value, by: i64) {
    for (name, sign) in
        [("amount_due", -1), ("amount_remaining", -1), ("pre_payment_credit_notes_amount", 1)]
    {
        let old = invoice[name].as_i64().unwrap_or_default();
        invoice[name] = json!(old + sign * by);
    }
}

/// `GET /v1/credit_notes/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.credit_notes, "credit_note", id, params)
}

/// `GET /v1/credit_notes`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let names = ["customer", "invoice"];
    let wanted: Vec<(&str, Value)> =
        names.into_iter().filter_map(|name| Some((name, params.take(name)?))).collect();
    let rows = &call.world.store.credit_notes;
    page(call.world, rows, "credit_note", "/v1/credit_notes", params, |row| {
        created.contains(row["created"].as_i64().unwrap_or_default())
            && wanted.iter().all(|(name, value)| row[*name] == *value)
    })
}

/// `GET /v1/credit_notes/{id}/lines`.
pub fn lines(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let page = Page::take(&mut params)?;
    params.finish()?;
    let found = call.world.store.credit_notes.get(id);
    let note = found.ok_or_else(|| ApiError::not_found("credit_note", id))?;
    page_of_lines(&page, note, &format!("/v1/credit_notes/{id}/lines"))
}

fn page_of_lines(page: &Page, note: &Value, url: &str) -> Answer {
    let rows = note["lines"]["data"].as_array().into_iter().flatten();
    let (rows, has_more) = page.cut("credit_note_line_item", rows, |_| true)?;
    let rows = rows.into_iter().cloned().collect();
    Ok(list::object(url, rows, has_more))
}

/// `POST /v1/credit_notes/{id}`: its memo and metadata.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.credit_notes.get(id).cloned();
    let mut note = found.ok_or_else(|| ApiError::not_found("credit_note", id))?;
    params.copy_into(&mut note, &["memo"]);
    merge_metadata(&mut note["metadata"], params.take("metadata"))?;
    params.finish()?;
    Ok(call.save(|store| &mut store.credit_notes, note, "credit_note.updated"))
}

/// `POST /v1/credit_notes/{id}/void`: only while its invoice is open.
pub fn void(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let found = call.world.store.credit_notes.get(id).cloned();
    let mut note = found.ok_or_else(|| ApiError::not_found("credit_note", id))?;
    let invoice = note["invoice"].as_str().and_then(|id| call.world.store.invoices.get(id));
    let mut invoice = invoice.cloned().unwrap_or_default();
    if note["status"] == "void" || invoice["status"] != "open" {
        let message = "Only credit notes of open invoices can be voided, once.";
        return Err(ApiError::refused(None, "id", message));
    }
    call.enter_clock_of(&invoice);
    lower(&mut invoice, -note["total"].as_i64().unwrap_or_default());
    call.store().invoices.replace(invoice);
    note["status"] = json!("void");
    note["voided_at"] = json!(call.now());
    call.store().credit_notes.replace(note.clone());
    call.emit("credit_note.voided", &note, None);
    Ok(note)
}
