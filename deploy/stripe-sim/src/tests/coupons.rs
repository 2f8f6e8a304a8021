//! Coupons, promotion codes, and what they take off invoices.

use super::*;

async fn coupon(sim: &Sim, form: &str) -> String {
    id(&sim.post("/v1/coupons", form).await.ok())
}

fn totals(invoice: &Value) -> (i64, i64) {
    (invoice["subtotal"].as_i64().unwrap(), invoice["total"].as_i64().unwrap())
}

#[tokio::test]
async fn a_percentage_lasts_for_its_months() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let quarter = coupon(&sim, "percent_off=25&duration=repeating&duration_in_months=2").await;
    let form = format!(
        "customer={customer}&items[0][price]={price}&discounts[0][coupon]={quarter}&expand[]=discounts.source.coupon"
    );
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    assert_eq!(made["discounts"][0]["source"]["coupon"]["percent_off"], 25);
    sim.advance(93 * 86_400).await;
    let invoices = sim.invoices_of(&id(&made)).await;
    let seen: Vec<_> = invoices.iter().rev().map(totals).collect();
    assert_eq!(seen, [(1000, 750), (1000, 750), (1000, 1000), (1000, 1000)]);
    let line = &invoices[3]["lines"]["data"][0];
    assert_eq!(
        (&line["amount"], &line["discount_amounts"][0]["amount"]),
        (&json!(1000), &json!(250))
    );
    assert_eq!(invoices[3]["total_discount_amounts"][0]["amount"], 250);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_amount_is_taken_once_by_a_code_that_can_be_used_up() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let off = coupon(&sim, "id=TEN&amount_off=300&currency=usd&duration=once").await;
    let form =
        format!("promotion[type]=coupon&promotion[coupon]={off}&code=HELLO&max_redemptions=1");
    let code = sim.post("/v1/promotion_codes", &form).await.ok();
    assert_eq!(ids(&sim.get("/v1/promotion_codes?code=hello").await.ok()), [id(&code)]);
    let form = format!(
        "customer={customer}&items[0][price]={price}&discounts[0][promotion_code]={}",
        id(&code)
    );
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    assert_eq!(made["discounts"], json!([]), "it has been");
    let again = sim.post("/v1/subscriptions", &form).await;
    assert_eq!(again.refusal().2, Some("promotion_code_expired"));
    sim.advance(32 * 86_400).await;
    let seen: Vec<_> = sim.invoices_of(&id(&made)).await.iter().rev().map(totals).collect();
    assert_eq!(seen, [(1000, 700), (1000, 1000)]);
    assert_eq!(sim.get("/v1/coupons/TEN").await.ok()["times_redeemed"], 1);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_discount_is_taken_off_a_subscription_and_a_deleted_coupon_works_on() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let half = coupon(&sim, "percent_off=50&duration=forever").await;
    let made = sim
        .post("/v1/subscriptions", &format!("customer={customer}&items[0][price]={price}"))
        .await
        .ok();
    let path = format!("/v1/subscriptions/{}", id(&made));
    sim.post(&path, &format!("discounts[0][coupon]={half}")).await.ok();
    assert_eq!(sim.delete(&format!("/v1/coupons/{half}")).await.ok()["deleted"], true);
    sim.advance(31 * 86_400).await;
    let without = sim.post(&path, "discounts=").await.ok();
    assert_eq!(without["discounts"], json!([]));
    sim.advance(31 * 86_400).await;
    let seen: Vec<_> = sim.invoices_of(&id(&made)).await.iter().rev().map(totals).collect();
    assert_eq!(seen, [(1000, 1000), (1000, 500), (1000, 1000)]);
    let gone = sim.post(&path, &format!("discounts[0][coupon]={half}")).await;
    assert_eq!(
        gone.refusal(),
        (400, "invalid_request_error", Some("resource_missing"), Some("discounts[0][coupon]"))
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_discount_is_expanded_from_lines_and_totals_to_its_promotion_code() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let half = coupon(&sim, "percent_off=50&duration=forever").await;
    let code = format!("promotion[type]=coupon&promotion[coupon]={half}");
    let code = id(&sim.post("/v1/promotion_codes", &code).await.ok());
    let form =
        format!("customer={customer}&items[0][price]={price}&discounts[0][promotion_code]={code}");
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    let path = format!("/v1/invoices/{}", made["latest_invoice"].as_str().unwrap());
    let ask = "expand[]=total_discount_amounts.discount.promotion_code&expand[]=lines.data.discount_amounts.discount";
    let shown = sim.get(&format!("{path}?{ask}")).await.ok();
    let of_total = &shown["total_discount_amounts"][0]["discount"];
    let of_line = &shown["lines"]["data"][0]["discount_amounts"][0]["discount"];
    assert_eq!(
        (&of_total["promotion_code"]["id"], &of_line["id"]),
        (&json!(code), &of_total["id"])
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_checkout_session_has_its_discount_and_the_subscription_after_it() {
    let sim = Sim::start().await;
    let price = sim.licensed_price().await;
    let off = coupon(&sim, "amount_off=300&currency=usd&duration=forever").await;
    let form = format!(
        "mode=subscription&success_url=https://example.test&line_items[0][price]={price}&line_items[0][quantity]=1&discounts[0][coupon]={off}"
    );
    let both = format!("{form}&allow_promotion_codes=true");
    let refused = sim.post("/v1/checkout/sessions", &both).await;
    assert_eq!(refused.refusal().3, Some("discounts"));
    let made = sim.post("/v1/checkout/sessions", &format!("{form}&expand[]=line_items")).await.ok();
    let line = &made["line_items"]["data"][0];
    assert_eq!((&line["amount_discount"], &line["amount_total"]), (&json!(300), &json!(700)));
    assert_eq!(
        (&made["amount_subtotal"], &made["amount_total"], &made["discounts"][0]["coupon"]),
        (&json!(1000), &json!(700), &json!(off))
    );
    let path = format!("/v1/coupons/{off}");
    assert_eq!(sim.get(&path).await.ok()["times_redeemed"], 0, "nobody has paid yet");
    let complete = format!("/checkout/sessions/{}/complete", id(&made));
    let done = sim.control(&complete, &json!({})).await.ok();
    let own = done["subscription"].as_str().unwrap();
    assert_eq!(totals(&sim.invoices_of(own).await[0]), (1000, 700));
    assert_eq!(sim.get(&path).await.ok()["times_redeemed"], 1);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_preview_tries_a_discount_on() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let half = coupon(&sim, "percent_off=50&duration=once").await;
    let own = format!("customer={customer}&items[0][price]={price}");
    let own = id(&sim.post("/v1/subscriptions", &own).await.ok());
    let path = "/v1/invoices/create_preview";
    let tried = format!("subscription={own}&discounts[0][coupon]={half}");
    assert_eq!(totals(&sim.post(path, &tried).await.ok()), (1000, 500));
    let new = format!(
        "customer={customer}&subscription_details[items][0][price]={price}&discounts[0][coupon]={half}"
    );
    assert_eq!(totals(&sim.post(path, &new).await.ok()), (1000, 500));
    assert_eq!(totals(&sim.post(path, &format!("subscription={own}")).await.ok()), (1000, 1000));
    assert_eq!(sim.get(&format!("/v1/coupons/{half}")).await.ok()["times_redeemed"], 0);
    sim.assert_sound().await;
}
