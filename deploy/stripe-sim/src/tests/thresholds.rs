//! Billing thresholds: what is invoiced in mid-period, and what that leaves for later.

use super::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// The month from NOW has 30 days.
const PERIOD: i64 = 30 * DAY;

struct Own {
    sim: Sim,
    subscription: String,
    customer: String,
}

async fn metered(more: &str) -> Own {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let price = sim.metered_price(&meter).await;
    subscribed(sim, &format!("items[0][price]={price}{more}")).await
}

async fn subscribed(sim: Sim, form: &str) -> Own {
    let customer = sim.customer().await;
    let made = sim.post("/v1/subscriptions", &format!("customer={customer}&{form}")).await.ok();
    Own { subscription: id(&made), customer, sim }
}

impl Own {
    async fn used(&self, value: &str, at: i64) {
        self.sim.used(&self.customer, value, at).await;
    }

    /// Reason and total of each invoice after the first, oldest first.
    async fn billed(&self) -> Vec<(String, i64)> {
        let invoices = self.sim.invoices_of(&self.subscription).await;
        let later = invoices.iter().rev().skip(1);
        later
            .map(|row| {
                let reason = row["billing_reason"].as_str().unwrap();
                let reason = reason.trim_start_matches("subscription_").to_owned();
                (reason, row["total"].as_i64().unwrap())
            })
            .collect()
    }
}

fn billed(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
    rows.iter().map(|(reason, total)| ((*reason).to_owned(), *total)).collect()
}

#[tokio::test]
async fn an_amount_that_is_reached_is_billed_and_the_renewal_bills_the_rest() {
    let own = metered("&billing_thresholds[amount_gte]=100").await;
    own.used("60", NOW).await;
    assert_eq!(own.billed().await, []);
    own.sim.advance(DAY).await;
    own.used("50", NOW + DAY).await;
    assert_eq!(own.billed().await, billed(&[("threshold", 110)]));
    let draft = own.sim.invoices_of(&own.subscription).await.remove(0);
    assert_eq!(draft["threshold_reason"], json!({ "amount_gte": 100, "item_reasons": [] }));
    assert_eq!(draft["automatically_finalizes_at"], json!(NOW + DAY + HOUR));
    assert_eq!(draft["lines"]["data"][0]["period"], json!({ "start": NOW, "end": NOW + DAY }));
    own.used("30", NOW + DAY).await; // The same second: on the next invoice.
    own.sim.advance(HOUR).await;
    let paid = own.sim.get(&format!("/v1/invoices/{}", id(&draft))).await.ok();
    assert_eq!((&paid["status"], &paid["amount_paid"]), (&json!("paid"), &json!(110)));
    own.sim.advance(PERIOD).await;
    assert_eq!(own.billed().await, billed(&[("threshold", 110), ("cycle", 30)]));
    let shown = own.sim.get(&format!("/v1/subscriptions/{}", own.subscription)).await.ok();
    assert_eq!(shown["items"]["data"][0]["current_period_start"], json!(NOW + PERIOD));
    own.sim.assert_sound().await;
}

#[tokio::test]
async fn tiers_go_on_where_a_threshold_ended() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let form = format!(
        "currency=usd&product_data[name]=Calls&billing_scheme=tiered&tiers_mode=graduated&recurring[interval]=month\
         &recurring[usage_type]=metered&recurring[meter]={meter}\
         &tiers[0][up_to]=10&tiers[0][unit_amount]=10&tiers[1][up_to]=inf&tiers[1][unit_amount]=1"
    );
    let price = id(&sim.post("/v1/prices", &form).await.ok());
    let form = format!("items[0][price]={price}&items[0][billing_thresholds][usage_gte]=8");
    let own = subscribed(sim, &form).await;
    own.used("8", NOW).await;
    own.used("7", NOW).await; // Two of them still in the first tier.
    let first = own.sim.invoices_of(&own.subscription).await.remove(0);
    let line = &first["lines"]["data"][0];
    let reason = json!([{ "line_item_ids": [line["id"]], "usage_gte": 8 }]);
    assert_eq!(
        (&line["amount"], &first["threshold_reason"]["item_reasons"]),
        (&json!(80), &reason)
    );
    own.used("1", NOW).await;
    assert_eq!(own.billed().await, billed(&[("threshold", 80), ("threshold", 26)]));
    own.used("4", NOW).await;
    own.sim.advance(PERIOD + HOUR).await;
    let seen = own.billed().await;
    assert_eq!(seen, billed(&[("threshold", 80), ("threshold", 26), ("cycle", 4)]));
    own.sim.assert_sound().await;
}

#[tokio::test]
async fn no_threshold_is_reached_in_a_trial_or_on_the_last_day() {
    let own = metered("&billing_thresholds[amount_gte]=50&trial_period_days=5").await;
    own.used("500", NOW).await;
    assert_eq!(own.billed().await, []);
    let own = metered("&billing_thresholds[amount_gte]=50").await;
    own.sim.advance(PERIOD - DAY).await;
    own.used("500", NOW + PERIOD - DAY).await;
    assert_eq!(own.billed().await, []);
    own.sim.advance(DAY).await;
    assert_eq!(own.billed().await, billed(&[("cycle", 500)]));
    own.sim.assert_sound().await;
}

#[tokio::test]
async fn a_threshold_can_begin_a_new_period() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let (price, seat) = (sim.metered_price(&meter).await, sim.licensed_price().await);
    let form = format!(
        "items[0][price]={price}&items[1][price]={seat}&billing_thresholds[amount_gte]=100&billing_thresholds[reset_billing_cycle_anchor]=true"
    );
    let own = subscribed(sim, &form).await;
    own.sim.advance(DAY).await;
    own.used("120", NOW + DAY).await;
    own.used("5", NOW + DAY).await; // The same second, which is the new period's first.
    let shown = own.sim.get(&format!("/v1/subscriptions/{}", own.subscription)).await.ok();
    let start = &shown["items"]["data"][0]["current_period_start"];
    assert_eq!((&shown["billing_cycle_anchor"], start), (&json!(NOW + DAY), &json!(NOW + DAY)));
    assert_eq!(own.billed().await, billed(&[("threshold", 1120)]));
    own.sim.advance(PERIOD + HOUR).await;
    assert_eq!(own.billed().await, billed(&[("threshold", 1120), ("cycle", 1005)]));
    own.sim.assert_sound().await;
}

#[tokio::test]
async fn what_a_threshold_billed_is_not_billed_at_the_end_again() {
    let own = metered("&billing_thresholds[amount_gte]=100").await;
    own.used("100", NOW).await;
    own.used("9", NOW).await;
    own.sim.advance(DAY).await;
    let path = format!("/v1/subscriptions/{}", own.subscription);
    let form = "invoice_now=true";
    let bearer = bearer();
    let headers = [("authorization", &*bearer)];
    own.sim.send(Method::DELETE, &path, &headers, form.to_owned()).await.unwrap().ok();
    assert_eq!(own.billed().await, billed(&[("threshold", 100), ("update", 9)]));
    own.sim.assert_sound().await;
}

#[tokio::test]
async fn a_threshold_may_come_later_and_go() {
    let own = metered("").await;
    own.used("70", NOW).await;
    let path = format!("/v1/subscriptions/{}", own.subscription);
    let set = own.sim.post(&path, "billing_thresholds[amount_gte]=60").await.ok();
    assert_eq!(set["billing_thresholds"]["amount_gte"], 60);
    assert_eq!(own.billed().await, billed(&[("threshold", 70)]));
    let unset = own.sim.post(&path, "billing_thresholds=").await.ok();
    assert_eq!(unset["billing_thresholds"], Value::Null);
    own.used("70", NOW).await;
    assert_eq!(own.billed().await.len(), 1);
    let item = format!("/v1/subscription_items/{}", id(&unset["items"]["data"][0]));
    let set = own.sim.post(&item, "billing_thresholds[usage_gte]=71").await.ok();
    assert_eq!(set["billing_thresholds"], json!({ "usage_gte": 71 }));
    own.used("1", NOW).await;
    assert_eq!(own.billed().await, billed(&[("threshold", 70), ("threshold", 71)]));
    own.sim.assert_sound().await;
}

#[tokio::test]
async fn a_threshold_that_cannot_be_reached_in_earnest_is_refused() {
    let sim = Sim::start().await;
    let (customer, seat) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={seat}");
    for (more, param) in [
        ("&billing_thresholds[amount_gte]=49", "billing_thresholds[amount_gte]"),
        ("&items[0][billing_thresholds][usage_gte]=5", "items[0][billing_thresholds][usage_gte]"),
    ] {
        let refused = sim.post("/v1/subscriptions", &format!("{form}{more}")).await;
        assert_eq!(refused.refusal(), (400, "invalid_request_error", None, Some(param)));
    }
    sim.assert_sound().await;
}
