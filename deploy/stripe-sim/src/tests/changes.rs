//! Changes in mid-period, prices of every model on invoices, previews.

use super::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const PERIOD: i64 = 30 * DAY;

struct Own {
    id: String,
    item: String,
    customer: String,
    meter: String,
}

async fn metered(sim: &Sim, more: &str) -> Own {
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let price = sim.metered_price(&meter).await;
    let form = format!("customer={customer}&items[0][price]={price}{more}");
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    Own { id: id(&made), item: id(&made["items"]["data"][0]), customer, meter }
}

/// A metered price from the parameters that differ.
async fn price(sim: &Sim, meter: &str, more: &str) -> String {
    let form = format!(
        "currency=usd&product_data[name]=Calls&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}&{more}"
    );
    id(&sim.post("/v1/prices", &form).await.ok())
}

/// `(amount, quantity, from, to)` of each line, in order.
fn lines(invoice: &Value) -> Vec<(i64, i64, i64, i64)> {
    let rows = invoice["lines"]["data"].as_array().unwrap().iter();
    let number = |value: &Value| value.as_i64().unwrap();
    rows.map(|row| {
        let period = &row["period"];
        let (from, to) = (number(&period["start"]) - NOW, number(&period["end"]) - NOW);
        (number(&row["amount"]), number(&row["quantity"]), from, to)
    })
    .collect()
}

#[tokio::test]
async fn a_price_changed_in_mid_period_bills_the_old_usage_at_the_old_price() {
    let sim = Sim::start().await;
    let own = metered(&sim, "").await;
    let dear = price(&sim, &own.meter, "unit_amount=10").await;
    sim.used(&own.customer, "5", NOW).await;
    sim.advance(10 * DAY).await;
    let form = format!("items[0][id]={}&items[0][price]={dear}", own.item);
    sim.post(&format!("/v1/subscriptions/{}", own.id), &form).await.ok();
    let pending = sim.get("/v1/invoiceitems?pending=true").await.ok();
    assert_eq!(
        (&pending["data"][0]["amount"], &pending["data"][0]["proration"]),
        (&json!(5), &json!(false))
    );
    sim.used(&own.customer, "3", NOW + 10 * DAY).await;
    sim.advance(20 * DAY + HOUR).await;
    let cycle = sim.invoices_of(&own.id).await.remove(0);
    let mut got = lines(&cycle);
    got.sort_unstable();
    assert_eq!(got, [(5, 5, 0, 10 * DAY), (30, 3, 10 * DAY, PERIOD)]);
    assert_eq!(cycle["amount_paid"], 35);
    sim.assert_sound().await;
}

#[tokio::test]
async fn without_proration_or_in_classic_mode_the_old_usage_is_lost() {
    for (mode, more) in [("", "&proration_behavior=none"), ("&billing_mode[type]=classic", "")] {
        let sim = Sim::start().await;
        let own = metered(&sim, mode).await;
        let dear = price(&sim, &own.meter, "unit_amount=10").await;
        sim.used(&own.customer, "5", NOW).await;
        sim.advance(DAY).await;
        let form = format!("items[0][id]={}&items[0][price]={dear}{more}", own.item);
        sim.post(&format!("/v1/subscriptions/{}", own.id), &form).await.ok();
        sim.used(&own.customer, "3", NOW + DAY).await;
        sim.advance(PERIOD).await;
        assert_eq!(sim.invoices_of(&own.id).await[0]["total"], 30);
        sim.assert_sound().await;
    }
}

#[tokio::test]
async fn a_licence_changed_in_mid_period_is_prorated_by_the_second() {
    let sim = Sim::start().await;
    let (customer, seat) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={seat}");
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    let (own, item) = (id(&made), id(&made["items"]["data"][0]));
    sim.advance(10 * DAY).await;
    let form =
        format!("items[0][id]={item}&items[0][quantity]=3&proration_behavior=always_invoice");
    let now = sim.post(&format!("/v1/subscriptions/{own}"), &form).await.ok();
    assert_eq!(now["items"]["data"][0]["quantity"], 3);
    let change = sim.invoices_of(&own).await.remove(0);
    // Two thirds of the period are left: of 1000 back, of 3000 due.
    assert_eq!(lines(&change), [(-667, 1, 10 * DAY, PERIOD), (2000, 3, 10 * DAY, PERIOD)]);
    assert_eq!(
        (&change["status"], &change["billing_reason"], &change["amount_paid"]),
        (&json!("paid"), &json!("subscription_update"), &json!(1333))
    );
    let path = format!("/v1/subscription_items/{item}");
    sim.post(&path, "quantity=1&proration_behavior=none").await.ok();
    assert_eq!(ids(&sim.get("/v1/invoiceitems?pending=true").await.ok()).len(), 0);
    let gone =
        sim.delete(&format!("/v1/subscriptions/{own}?prorate=true&invoice_now=true")).await.ok();
    assert_eq!(gone["status"], "canceled");
    let last = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&last["total"], &last["ending_balance"]), (&json!(-667), &json!(-667)));
    sim.assert_sound().await;
}

#[tokio::test]
async fn every_price_model_is_rated_and_rounded_once_a_line() {
    #[track_caller]
    fn check(name: &str, invoice: &Value, expect: &[i64]) {
        let got: Vec<i64> = lines(invoice).iter().map(|line| line.0).collect();
        assert_eq!(got, expect, "{name}");
    }
    let graduated = "billing_scheme=tiered&tiers_mode=graduated&tiers[0][up_to]=10&tiers[0][unit_amount]=0\
                     &tiers[1][up_to]=inf&tiers[1][unit_amount_decimal]=0.5&tiers[1][flat_amount]=20";
    let volume = graduated.replace("graduated", "volume");
    let package = "unit_amount=100&transform_quantity[divide_by]=10&transform_quantity[round]=up";
    let cases: [(&str, &str, &[i64]); 6] = [
        ("one", "unit_amount_decimal=0.000000000001", &[0]),
        ("one", "unit_amount_decimal=1.5", &[38]),
        ("one", graduated, &[28]),
        ("per_tier", graduated, &[0, 28]),
        ("one", &volume, &[33]),
        ("one", package, &[300]),
    ];
    for (shape, model, expect) in cases {
        let sim = Sim::start().await;
        sim.settings(json!({ "graduated_lines": shape })).await;
        let (customer, meter) = (sim.customer().await, sim.meter().await);
        let price = price(&sim, &meter, model).await;
        let form = format!("customer={customer}&items[0][price]={price}");
        let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
        sim.used(&customer, "25", NOW).await;
        let path = format!("subscription={own}");
        let preview = sim.post("/v1/invoices/create_preview", &path).await.ok();
        check(model, &preview, expect);
        sim.advance(PERIOD + HOUR).await;
        check(model, &sim.invoices_of(&own).await[0], expect);
        sim.assert_sound().await;
    }
}

#[tokio::test]
async fn a_preview_keeps_nothing_and_uses_no_ids_up() {
    let mut seen = Vec::new();
    for previews in [0, 2] {
        let sim = Sim::start().await;
        let own = metered(&sim, "").await;
        sim.used(&own.customer, "5", NOW).await;
        for _ in 0..previews {
            let form = format!("customer={}", own.customer);
            let preview = sim.post("/v1/invoices/create_preview", &form).await.ok();
            assert_eq!(
                (&preview["total"], &preview["billing_reason"]),
                (&json!(5), &json!("upcoming"))
            );
        }
        assert_eq!(sim.invoices_of(&own.id).await.len(), 1);
        sim.advance(PERIOD).await;
        seen.push(id(&sim.invoices_of(&own.id).await[0]));
        sim.delete(&format!("/v1/subscriptions/{}", own.id)).await.ok();
        let none =
            sim.post("/v1/invoices/create_preview", &format!("subscription={}", own.id)).await;
        assert_eq!(none.refusal().2, Some("invoice_upcoming_none"));
        sim.assert_sound().await;
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn currencies_keep_their_own_minor_units() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    for currency in ["jpy", "kwd"] {
        let customer = sim.customer().await;
        let form = format!(
            "currency={currency}&unit_amount=3&product_data[name]=Calls&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}"
        );
        let price = id(&sim.post("/v1/prices", &form).await.ok());
        let form = format!("customer={customer}&items[0][price]={price}");
        let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
        sim.used(&customer, "4", NOW).await;
        sim.control("/clock", &json!({ "freeze": NOW + PERIOD + HOUR })).await.ok();
        let cycle = sim.invoices_of(&own).await.remove(0);
        assert_eq!((&cycle["currency"], &cycle["amount_paid"]), (&json!(currency), &json!(12)));
        sim.control("/clock", &json!({ "freeze": NOW })).await.ok();
    }
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_new_anchor_begins_a_period_that_is_billed_at_once() {
    let sim = Sim::start().await;
    let own = metered(&sim, "").await;
    let seat = sim.licensed_price().await;
    let path = format!("/v1/subscriptions/{}", own.id);
    let form = format!("items[0][price]={seat}&proration_behavior=always_invoice");
    sim.post(&path, &form).await.ok();
    sim.used(&own.customer, "40", NOW).await;
    sim.advance(15 * DAY).await;
    let same = sim.post(&path, "billing_cycle_anchor[type]=unchanged").await.ok();
    assert_eq!(same["billing_cycle_anchor"], json!(NOW));
    let moved = sim.post(&path, "billing_cycle_anchor[type]=now").await.ok();
    let start = &moved["items"]["data"][0]["current_period_start"];
    let now = json!(NOW + 15 * DAY);
    assert_eq!((&moved["billing_cycle_anchor"], start), (&now, &now));
    let bill = sim.invoices_of(&own.id).await.remove(0);
    assert_eq!((&moved["latest_invoice"], &bill["amount_paid"]), (&bill["id"], &json!(540)));
    let amounts: Vec<i64> = lines(&bill).into_iter().map(|line| line.0).collect();
    assert_eq!(amounts, [1000, 40, -500]);
    sim.used(&own.customer, "3", NOW + 15 * DAY).await;
    sim.advance(31 * DAY + HOUR).await;
    assert_eq!(sim.invoices_of(&own.id).await[0]["total"], 1003);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_change_that_must_be_paid_is_refused_with_its_card_and_changes_nothing() {
    let sim = Sim::start().await;
    let own = metered(&sim, "").await;
    let seat = sim.licensed_price().await;
    sim.card(&own.customer, "decline", None).await;
    let path = format!("/v1/subscriptions/{}", own.id);
    let form = format!("items[0][price]={seat}&proration_behavior=always_invoice");
    let refused = sim.post(&path, &format!("{form}&payment_behavior=error_if_incomplete")).await;
    assert_eq!(refused.refusal(), (402, "card_error", Some("card_declined"), None));
    assert_eq!(ids(&sim.get(&path).await.ok()["items"]).len(), 1);
    let pending = sim.post(&path, &format!("{form}&payment_behavior=pending_if_incomplete")).await;
    assert_eq!(pending.status, 501);
    assert_eq!(sim.post(&path, &form).await.ok()["status"], "past_due");
}

#[tokio::test]
async fn an_end_is_set_at_creation() {
    let sim = Sim::start().await;
    let end = NOW + 40 * DAY;
    let own = metered(&sim, &format!("&cancel_at={end}")).await;
    let shown = sim.get(&format!("/v1/subscriptions/{}", own.id)).await.ok();
    let expect = (&json!(end), &json!(false));
    assert_eq!((&shown["cancel_at"], &shown["cancel_at_period_end"]), expect);
    sim.advance(40 * DAY).await;
    assert_eq!(sim.status_of(&own.id).await, "canceled");
    let seat = sim.licensed_price().await;
    let form = format!("customer={}&items[0][price]={seat}", own.customer);
    let past = sim.post("/v1/subscriptions", &format!("{form}&cancel_at={NOW}")).await;
    assert_eq!(past.refusal().3, Some("cancel_at"));
    let made =
        sim.post("/v1/subscriptions", &format!("{form}&cancel_at=min_period_end")).await.ok();
    assert_eq!(made["cancel_at_period_end"], true);
    sim.assert_sound().await;
}
