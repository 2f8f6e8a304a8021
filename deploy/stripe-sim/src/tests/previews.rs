//! Previews of what a change or a new subscription would be billed, and one-time prices beside a subscription's items.

use super::*;

const DAY: i64 = 86_400;
const PREVIEW: &str = "/v1/invoices/create_preview";

/// Amounts of an invoice's lines.
fn amounts(invoice: &Value) -> Vec<i64> {
    let lines = invoice["lines"]["data"].as_array().unwrap().iter();
    lines.map(|line| line["amount"].as_i64().unwrap()).collect()
}

async fn licensed(sim: &Sim) -> (Value, String) {
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={price}");
    (sim.post("/v1/subscriptions", &form).await.ok(), price)
}

#[tokio::test]
async fn a_change_is_previewed_with_its_prorations_and_happens_as_previewed() {
    let sim = Sim::start().await;
    let (made, _) = licensed(&sim).await;
    let (own, item) = (id(&made), id(&made["items"]["data"][0]));
    sim.advance(15 * DAY).await; // Half of the period.
    let asked = format!(
        "subscription={own}&subscription_details[items][0][id]={item}&subscription_details[items][0][quantity]=3"
    );
    let next = sim.post(PREVIEW, &asked).await.ok();
    assert_eq!((amounts(&next), &next["total"]), (vec![3000, -500, 1500], &json!(4000)));
    let none = format!("{asked}&subscription_details[proration_behavior]=none");
    assert_eq!(amounts(&sim.post(PREVIEW, &none).await.ok()), [3000]);
    let at = NOW + 24 * DAY;
    let later = format!("{asked}&subscription_details[proration_date]={at}");
    assert_eq!(amounts(&sim.post(PREVIEW, &later).await.ok()), [3000, -200, 600]);
    let at_once = format!("{asked}&subscription_details[proration_behavior]=always_invoice");
    let at_once = sim.post(PREVIEW, &at_once).await.ok();
    assert_eq!(amounts(&at_once), [-500, 1500]);
    let as_it_is = sim.get(&format!("/v1/subscriptions/{own}")).await.ok();
    assert_eq!(as_it_is["items"]["data"][0]["quantity"], 1);
    assert_eq!(ids(&sim.get("/v1/invoiceitems").await.ok()).len(), 0);
    let form =
        format!("items[0][id]={item}&items[0][quantity]=3&proration_behavior=always_invoice");
    sim.post(&format!("/v1/subscriptions/{own}"), &form).await.ok();
    assert_eq!(amounts(&sim.invoices_of(&own).await[0]), amounts(&at_once));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_metered_price_in_a_preview_counts_from_now_on() {
    let sim = Sim::start().await;
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let (old, new) = (sim.metered_price(&meter).await, sim.metered_price(&meter).await);
    let made = format!("customer={customer}&items[0][price]={old}");
    let made = sim.post("/v1/subscriptions", &made).await.ok();
    sim.used(&customer, "7", NOW).await;
    sim.advance(DAY).await;
    let item = id(&made["items"]["data"][0]);
    let asked = format!(
        "subscription={}&subscription_details[items][0][id]={item}&subscription_details[items][0][price]={new}",
        id(&made)
    );
    assert_eq!(amounts(&sim.post(PREVIEW, &asked).await.ok()), [0, 7]);
    let plain = format!("subscription={}", id(&made)); // The first preview has left nothing behind.
    assert_eq!(amounts(&sim.post(PREVIEW, &plain).await.ok()), [7]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_subscription_that_is_not_there_is_previewed_as_it_would_begin() {
    let sim = Sim::start().await;
    let (customer, product) = (sim.customer().await, sim.product().await);
    let data = "[price_data][currency]=usd&ITEM[price_data][unit_amount]=700&ITEM[price_data][recurring][interval]=month&ITEM[quantity]=2";
    let item = |name: &str| {
        format!("{name}{}&{name}[price_data][product]={product}", data.replace("ITEM", name))
    };
    let asked = format!("customer={customer}&{}", item("subscription_details[items][0]"));
    let preview = sim.post(PREVIEW, &asked).await.ok();
    assert_eq!((amounts(&preview), &preview["amount_due"]), (vec![1400], &json!(1400)));
    assert_eq!(ids(&sim.get("/v1/subscriptions").await.ok()).len(), 0);
    assert_eq!(ids(&sim.get("/v1/prices").await.ok()).len(), 0);
    let made = format!("customer={customer}&{}&expand[]=latest_invoice", item("items[0]"));
    let made = sim.post("/v1/subscriptions", &made).await.ok();
    assert_eq!(amounts(&made["latest_invoice"]), [1400]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_end_and_items_of_the_preview_alone_are_previewed() {
    let sim = Sim::start().await;
    let (made, _) = licensed(&sim).await;
    let own = id(&made);
    sim.advance(15 * DAY).await;
    let ends = format!("subscription={own}&subscription_details[cancel_now]=true");
    assert_eq!(amounts(&sim.post(PREVIEW, &ends).await.ok()), [-500]);
    let ends = format!("subscription={own}&subscription_details[cancel_at_period_end]=true");
    assert_eq!(sim.post(PREVIEW, &ends).await.ok()["total"], 0);
    let more = format!(
        "subscription={own}&invoice_items[0][amount]=250&invoice_items[0][description]=Setup&invoice_items[1][unit_amount]=5&invoice_items[1][quantity]=3"
    );
    let preview = sim.post(PREVIEW, &more).await.ok();
    assert_eq!(amounts(&preview), [1000, 250, 15]);
    assert_eq!(preview["lines"]["data"][1]["description"], "Setup");
    let customer = sim.customer().await;
    let alone = format!("customer={customer}&invoice_items[0][amount]=250");
    assert_eq!(sim.post(PREVIEW, &alone).await.ok()["total"], 250);
    let nothing = sim.post(PREVIEW, &format!("customer={customer}")).await;
    assert_eq!(nothing.refusal().2, Some("invoice_upcoming_none"));
    sim.assert_sound().await;
}

#[tokio::test]
async fn one_time_prices_go_on_the_first_invoice_or_the_next() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let once = "currency=usd&unit_amount=400&product_data[name]=Setup";
    let once = id(&sim.post("/v1/prices", once).await.ok());
    let form = format!(
        "customer={customer}&items[0][price]={price}&add_invoice_items[0][price]={once}&add_invoice_items[0][quantity]=2&expand[]=latest_invoice"
    );
    let trial = sim.post("/v1/subscriptions", &format!("{form}&trial_period_days=3")).await.ok();
    assert_eq!(amounts(&trial["latest_invoice"]), [0, 800]);
    assert_eq!(trial["latest_invoice"]["amount_paid"], 800);
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    assert_eq!(amounts(&made["latest_invoice"]), [1000, 800]);
    let path = format!("/v1/subscriptions/{}", id(&made));
    let more = format!("add_invoice_items[0][price]={once}");
    sim.post(&path, &more).await.ok();
    assert_eq!(sim.invoices_of(&id(&made)).await.len(), 1);
    sim.post(&path, &format!("{more}&proration_behavior=always_invoice")).await.ok();
    assert_eq!(amounts(&sim.invoices_of(&id(&made)).await[0]), [400, 400]);
    let wrong = format!("add_invoice_items[0][price]={price}");
    let expect = Some("add_invoice_items[0][price]");
    assert_eq!(sim.post(&path, &wrong).await.refusal().3, expect);
    sim.card(&customer, "decline", None).await;
    let free = "currency=usd&unit_amount=0&product_data[name]=Free&recurring[interval]=month";
    let free = id(&sim.post("/v1/prices", free).await.ok());
    let form = format!("customer={customer}&items[0][price]={free}&{more}");
    assert_eq!(sim.post("/v1/subscriptions", &form).await.ok()["status"], "incomplete");
    sim.assert_sound().await;
}
