//! Invoices by hand, invoice items, and the money on them.

use super::*;

const DAY: i64 = 86_400;

#[tokio::test]
async fn a_draft_by_hand_takes_items_and_is_finalized_and_paid() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let item = |more: &str| format!("customer={customer}&currency=usd&{more}");
    sim.post("/v1/invoiceitems", &item("amount=500&description=Setup")).await.ok();
    let draft = sim
        .post(
            "/v1/invoices",
            &format!("customer={customer}&pending_invoice_items_behavior=include"),
        )
        .await
        .ok();
    assert_eq!((&draft["status"], &draft["total"]), (&json!("draft"), &json!(500)));
    let own = id(&draft);
    let more = item(&format!("unit_amount_decimal=0.5&quantity=3&invoice={own}"));
    let half = sim.post("/v1/invoiceitems", &more).await.ok();
    assert_eq!(half["amount"], 2);
    let lines = sim.get(&format!("/v1/invoices/{own}/lines?limit=1")).await.ok();
    assert_eq!(lines["has_more"], true);
    let open = sim.post(&format!("/v1/invoices/{own}/finalize"), "").await.ok();
    assert_eq!((&open["status"], &open["amount_due"]), (&json!("open"), &json!(502)));
    assert!(open["number"].as_str().unwrap().ends_with("-0001"));
    let again = sim.post(&format!("/v1/invoices/{own}/finalize"), "").await;
    assert_eq!(again.refusal().2, Some("invoice_not_editable"));
    assert_eq!(sim.delete(&format!("/v1/invoiceitems/{}", id(&half))).await.status, 400);
    let paid = sim.post(&format!("/v1/invoices/{own}/pay"), "").await.ok();
    assert_eq!(
        (&paid["status"], &paid["amount_paid"], &paid["amount_remaining"]),
        (&json!("paid"), &json!(502), &json!(0))
    );
    assert_eq!(sim.post(&format!("/v1/invoices/{own}/void"), "").await.status, 400);
    sim.assert_sound().await;
}

#[tokio::test]
async fn invoices_are_voided_and_given_up() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let item = format!("customer={customer}&currency=usd&amount=100");
        sim.post("/v1/invoiceitems", &item).await.ok();
        let form = format!("customer={customer}&pending_invoice_items_behavior=include");
        let own = id(&sim.post("/v1/invoices", &form).await.ok());
        sim.post(&format!("/v1/invoices/{own}/finalize"), "").await.ok();
        made.push(own);
    }
    let void = sim.post(&format!("/v1/invoices/{}/void", made[0]), "").await.ok();
    assert_eq!(void["status"], "void");
    let bad = sim.post(&format!("/v1/invoices/{}/mark_uncollectible", made[1]), "").await.ok();
    assert_eq!(bad["status"], "uncollectible");
    assert_eq!(sim.post(&format!("/v1/invoices/{}/pay", made[1]), "").await.ok()["status"], "paid");
    assert_eq!(ids(&sim.get("/v1/invoices?status=void").await.ok()), [made[0].clone()]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_draft_by_hand_can_be_deleted_and_its_items_are_pending_again() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let item = format!("customer={customer}&currency=usd&amount=100");
    let row = id(&sim.post("/v1/invoiceitems", &item).await.ok());
    let form = format!("customer={customer}&pending_invoice_items_behavior=include");
    let own = id(&sim.post("/v1/invoices", &form).await.ok());
    sim.delete(&format!("/v1/invoices/{own}")).await.ok();
    assert_eq!(sim.get(&format!("/v1/invoices/{own}")).await.status, 404);
    assert_eq!(ids(&sim.get("/v1/invoiceitems?pending=true").await.ok())[0], row);
    sim.delete(&format!("/v1/invoiceitems/{row}")).await.ok();
    assert_eq!(ids(&sim.get("/v1/invoiceitems").await.ok()).len(), 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_negative_total_is_nothing_to_pay_and_stays_with_the_customer() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={price}");
    let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
    let item = format!("customer={customer}&currency=usd&amount=-1500&subscription={own}");
    sim.post("/v1/invoiceitems", &item).await.ok();
    sim.advance(30 * DAY + 3_600).await;
    let cycle = sim.invoices_of(&own).await.remove(0);
    assert_eq!(
        (&cycle["status"], &cycle["total"], &cycle["amount_due"], &cycle["ending_balance"]),
        (&json!("paid"), &json!(-500), &json!(0), &json!(-500))
    );
    assert_eq!(sim.get(&format!("/v1/customers/{customer}")).await.ok()["balance"], -500);
    sim.advance(31 * DAY).await;
    let next = sim.invoices_of(&own).await.remove(0);
    assert_eq!(
        (&next["total"], &next["amount_paid"], &next["ending_balance"]),
        (&json!(1000), &json!(500), &json!(0))
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_hand_made_invoice_is_edited_sent_and_due() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let form = format!(
        "customer={customer}&collection_method=send_invoice&days_until_due=10&custom_fields[0][name]=PO&custom_fields[0][value]=1"
    );
    let invoice = sim.post("/v1/invoices", &form).await.ok();
    assert_eq!(
        (&invoice["due_date"], &invoice["custom_fields"][0]["name"]),
        (&json!(NOW + 864_000), &json!("PO"))
    );
    let form = format!("customer={customer}&invoice={}&amount=100&currency=usd", id(&invoice));
    let item = sim.post("/v1/invoiceitems", &form).await.ok();
    let path = format!("/v1/invoices/{}", id(&invoice));
    sim.post(&format!("/v1/invoiceitems/{}", id(&item)), "amount=250&description=x").await.ok();
    let shown = sim.get(&path).await.ok();
    assert_eq!(
        (&shown["total"], &shown["lines"]["data"][0]["description"]),
        (&json!(250), &json!("x"))
    );
    let sent = sim.post(&format!("{path}/send"), "").await.ok();
    assert_eq!(sent["status"], "open");
    assert_eq!(sim.latest_events(1).await, ["invoice.sent"]);
    let refused = sim.post("/v1/invoices", &format!("customer={customer}&days_until_due=3")).await;
    assert_eq!(refused.refusal().3, Some("days_until_due"));
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_item_brings_its_price_along_and_a_credit_note_takes_some_of_a_line() {
    let sim = Sim::start().await;
    let (customer, product) = (sim.customer().await, sim.product().await);
    let draft = sim.post("/v1/invoices", &format!("customer={customer}")).await.ok();
    assert_eq!(draft["hosted_invoice_url"], Value::Null);
    let form = format!(
        "customer={customer}&invoice={}&price_data[currency]=usd&price_data[product]={product}&price_data[unit_amount]=150&quantity=4&tax_behavior=exclusive",
        id(&draft)
    );
    assert_eq!(sim.post("/v1/invoiceitems", &form).await.ok()["amount"], 600);
    let path = format!("/v1/invoices/{}", id(&draft));
    let open = sim.post(&format!("{path}/finalize"), "").await.ok();
    assert!(open["hosted_invoice_url"].as_str().unwrap().starts_with("https://"));
    assert!(open["invoice_pdf"].as_str().unwrap().ends_with("/pdf"));
    let line = id(&open["lines"]["data"][0]);
    let form = format!(
        "invoice={}&lines[0][type]=invoice_line_item&lines[0][invoice_line_item]={line}&lines[0][quantity]=1",
        id(&draft)
    );
    let note = sim.post("/v1/credit_notes", &form).await.ok();
    assert_eq!((&note["total"], &note["lines"]["data"][0]["quantity"]), (&json!(150), &json!(1)));
    assert_eq!(sim.get(&path).await.ok()["amount_remaining"], 450);
    sim.assert_sound().await;
    let from = format!("from_invoice[action]=revision&from_invoice[invoice]={}", id(&draft));
    assert_eq!(sim.post("/v1/invoices", &from).await.status, 501);
}
