//! What time does to subscriptions: renewals, trials, failed payments, ends, pauses.

use super::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// The month from NOW has 30 days.
const PERIOD: i64 = 30 * DAY;

async fn metered(sim: &Sim) -> (String, String) {
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let price = sim.metered_price(&meter).await;
    let form = format!("customer={customer}&items[0][price]={price}");
    (id(&sim.post("/v1/subscriptions", &form).await.ok()), customer)
}

async fn licensed(sim: &Sim, more: &str) -> (String, String) {
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={price}{more}");
    (id(&sim.post("/v1/subscriptions", &form).await.ok()), customer)
}

#[tokio::test]
async fn a_renewal_counts_usage_until_it_is_finalized_and_late_usage_is_nowhere() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    sim.used(&customer, "7", NOW).await;
    sim.advance(PERIOD).await;
    let draft = sim.invoices_of(&own).await.remove(0);
    assert_eq!(
        (&draft["status"], &draft["billing_reason"], &draft["total"]),
        (&json!("draft"), &json!("subscription_cycle"), &json!(7))
    );
    assert_eq!(draft["automatically_finalizes_at"], json!(NOW + PERIOD + HOUR));
    assert_eq!(draft["lines"]["data"][0]["period"], json!({ "start": NOW, "end": NOW + PERIOD }));
    sim.used(&customer, "5", NOW + PERIOD - 1).await; // Late, but before the finalization.
    sim.used(&customer, "9", NOW + PERIOD).await; // The next period's.
    sim.advance(HOUR).await;
    sim.used(&customer, "100", NOW + PERIOD - 1).await; // After the finalization: on no invoice.
    let paid = sim.get(&format!("/v1/invoices/{}", id(&draft))).await.ok();
    let line = &paid["lines"]["data"][0];
    assert_eq!(
        (&paid["status"], &paid["amount_paid"], &line["quantity"], &line["id"]),
        (&json!("paid"), &json!(12), &json!(12), &draft["lines"]["data"][0]["id"])
    );
    sim.advance(31 * DAY).await; // December has 31 days.
    let next = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&next["status"], &next["total"]), (&json!("paid"), &json!(9)));
    let item = &sim.get(&format!("/v1/subscriptions/{own}")).await.ok()["items"]["data"][0];
    assert_eq!(item["current_period_start"], json!(NOW + PERIOD + 31 * DAY));
    sim.assert_sound().await;
}

#[tokio::test]
async fn each_thing_happens_at_its_own_instant_however_far_the_clock_jumps() {
    let sim = Sim::start().await;
    let (own, _) = metered(&sim).await;
    sim.advance(PERIOD + 2 * HOUR).await;
    let events = sim.get(&format!("/v1/events?limit=100&created[gt]={NOW}")).await.ok();
    let events = events["data"].as_array().unwrap();
    let told: Vec<_> = events
        .iter()
        .rev()
        .map(|event| (event["type"].as_str().unwrap(), event["created"].as_i64().unwrap() - NOW))
        .collect();
    assert_eq!(
        told,
        [
            ("invoice.upcoming", PERIOD - 7 * DAY),
            ("customer.subscription.updated", PERIOD),
            ("invoice.created", PERIOD),
            ("invoice.finalized", PERIOD + HOUR),
            ("invoice.paid", PERIOD + HOUR),
            ("invoice.payment_succeeded", PERIOD + HOUR),
        ]
    );
    let next = sim.look("/agenda?limit=1").await;
    assert_eq!(next["next"][0]["object"], json!(own));
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_grace_period_is_a_setting() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    sim.settings(json!({ "grace_s": 72 * HOUR })).await;
    sim.advance(PERIOD + 71 * HOUR).await;
    sim.used(&customer, "3", NOW + PERIOD - 1).await;
    assert_eq!(sim.invoices_of(&own).await[0]["status"], "draft");
    sim.advance(HOUR).await;
    assert_eq!(sim.invoices_of(&own).await[0]["amount_paid"], 3);
    assert_eq!(sim.control("/settings", &json!({ "grace_s": 300_000 })).await.status, 422);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_trial_is_announced_ends_and_is_charged() {
    let sim = Sim::start().await;
    let (own, _) = licensed(&sim, "&trial_period_days=14").await;
    sim.advance(11 * DAY).await;
    assert_eq!(sim.latest_events(1).await, ["customer.subscription.trial_will_end"]);
    sim.advance(3 * DAY).await;
    assert_eq!(sim.status_of(&own).await, "active");
    sim.advance(HOUR).await;
    let first = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&first["status"], &first["amount_paid"]), (&json!("paid"), &json!(1000)));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_trial_without_a_card_ends_as_it_was_told_to() {
    for (behavior, status, event) in [
        ("pause", "paused", "customer.subscription.paused"),
        ("cancel", "canceled", "customer.subscription.deleted"),
    ] {
        let sim = Sim::start().await;
        let more = format!(
            "&trial_period_days=5&trial_settings[end_behavior][missing_payment_method]={behavior}"
        );
        let (own, customer) = licensed(&sim, &more).await;
        sim.card(&customer, "missing", None).await;
        sim.advance(5 * DAY).await;
        assert_eq!(sim.status_of(&own).await, status);
        assert_eq!(sim.latest_events(1).await, [event]);
        sim.assert_sound().await;
    }
}

#[tokio::test]
async fn usage_of_a_trial_is_free() {
    let sim = Sim::start().await;
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let price = sim.metered_price(&meter).await;
    let form = format!("customer={customer}&items[0][price]={price}&trial_period_days=5");
    let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
    sim.used(&customer, "50", NOW).await;
    sim.advance(6 * DAY).await;
    assert_eq!(sim.invoices_of(&own).await[0]["total"], 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_declined_renewal_is_retried_and_ends_the_subscription() {
    let sim = Sim::start().await;
    let (own, customer) = licensed(&sim, "").await;
    sim.card(&customer, "decline", None).await;
    sim.advance(PERIOD + HOUR).await;
    let open = sim.invoices_of(&own).await.remove(0);
    assert_eq!(
        (&open["status"], &open["attempt_count"], &open["next_payment_attempt"]),
        (&json!("open"), &json!(1), &json!(NOW + PERIOD + HOUR + 42 * HOUR))
    );
    assert_eq!(sim.status_of(&own).await, "past_due");
    sim.advance(14 * DAY - 1).await;
    assert_eq!(sim.status_of(&own).await, "past_due");
    sim.advance(1).await;
    let open = sim.get(&format!("/v1/invoices/{}", id(&open))).await.ok();
    assert_eq!(
        (&open["status"], &open["attempt_count"], &open["next_payment_attempt"]),
        (&json!("open"), &json!(9), &Value::Null)
    );
    let row = sim.get(&format!("/v1/subscriptions/{own}")).await.ok();
    assert_eq!(
        (&row["status"], &row["cancellation_details"]["reason"]),
        (&json!("canceled"), &json!("payment_failed"))
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_card_that_recovers_makes_the_subscription_active_again() {
    let sim = Sim::start().await;
    let (own, customer) = licensed(&sim, "").await;
    sim.card(&customer, "requires_action", Some(2)).await;
    sim.advance(PERIOD + HOUR).await;
    let told = sim.latest_events(3).await;
    assert_eq!(
        told,
        [
            "invoice.payment_failed",
            "invoice.payment_action_required",
            "customer.subscription.updated"
        ]
    );
    sim.advance(42 * HOUR).await;
    assert_eq!(sim.status_of(&own).await, "past_due");
    sim.advance(42 * HOUR).await;
    assert_eq!(sim.status_of(&own).await, "active");
    assert_eq!(sim.invoices_of(&own).await[0]["attempt_count"], 3);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_unpaid_subscription_keeps_drafting_and_comes_back_by_a_payment() {
    let sim = Sim::start().await;
    sim.settings(json!({ "after_retries": "unpaid", "retries_after_s": [DAY, 2 * DAY] })).await;
    let (own, customer) = licensed(&sim, "").await;
    sim.card(&customer, "decline", None).await;
    sim.advance(PERIOD + HOUR + 2 * DAY).await;
    assert_eq!(sim.status_of(&own).await, "unpaid");
    sim.advance(31 * DAY).await;
    let latest = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&latest["status"], &latest["auto_advance"]), (&json!("draft"), &json!(false)));
    let pay = format!("/v1/invoices/{}/pay", id(&latest));
    assert_eq!(sim.post(&pay, "").await.refusal().1, "card_error");
    assert_eq!(sim.status_of(&own).await, "unpaid");
    sim.card(&customer, "ok", None).await;
    assert_eq!(sim.post(&pay, "").await.ok()["status"], "paid");
    assert_eq!(sim.status_of(&own).await, "active");
    assert_eq!(sim.post(&pay, "").await.message(), "Invoice is already paid");
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_incomplete_subscription_has_23_hours() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    sim.card(&customer, "decline", Some(2)).await;
    let form = format!("customer={customer}&items[0][price]={price}");
    let refused = sim
        .post("/v1/subscriptions", &format!("{form}&payment_behavior=error_if_incomplete"))
        .await;
    assert_eq!(refused.refusal(), (402, "card_error", Some("card_declined"), None));
    assert_eq!(ids(&sim.get("/v1/subscriptions?status=all").await.ok()).len(), 0);
    let first = id(&sim.post("/v1/subscriptions", &form).await.ok());
    let second = id(&sim.post("/v1/subscriptions", &form).await.ok());
    assert_eq!(sim.status_of(&first).await, "incomplete");
    let invoice = sim.invoices_of(&second).await.remove(0);
    sim.post(&format!("/v1/invoices/{}/pay", id(&invoice)), "").await.ok();
    assert_eq!(sim.status_of(&second).await, "active");
    sim.advance(23 * HOUR - 1).await;
    assert_eq!(sim.status_of(&first).await, "incomplete");
    sim.advance(1).await;
    assert_eq!(sim.status_of(&first).await, "incomplete_expired");
    assert_eq!(sim.invoices_of(&first).await[0]["status"], "void");
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_scheduled_end_bills_the_last_usage_and_an_immediate_one_only_when_asked() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    sim.post(&format!("/v1/subscriptions/{own}"), "cancel_at_period_end=true").await.ok();
    sim.used(&customer, "4", NOW).await;
    sim.advance(PERIOD).await;
    assert_eq!(sim.status_of(&own).await, "canceled");
    sim.used(&customer, "2", NOW + PERIOD - 1).await;
    sim.advance(HOUR).await;
    let last = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&last["status"], &last["amount_paid"]), (&json!("paid"), &json!(6)));

    let price = ids(&sim.get("/v1/prices").await.ok()).remove(0);
    let form = format!("customer={customer}&items[0][price]={price}");
    let at = NOW + PERIOD + HOUR;
    for (more, invoices) in [("", 1), ("?invoice_now=true", 2)] {
        let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
        sim.advance(DAY).await;
        sim.used(&customer, "8", at + DAY / 2).await;
        sim.delete(&format!("/v1/subscriptions/{own}{more}")).await.ok();
        let all = sim.invoices_of(&own).await;
        assert_eq!(all.len(), invoices, "{more}");
        if invoices == 2 {
            assert_eq!((&all[0]["status"], &all[0]["total"]), (&json!("paid"), &json!(0)));
        }
    }
    sim.assert_sound().await;
}

#[tokio::test]
async fn collection_that_is_paused_voids_marks_or_keeps_drafts() {
    let cases =
        [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")];
    for (behavior, status) in cases {
        let sim = Sim::start().await;
        let (own, _) = licensed(&sim, "").await;
        let resumes = NOW + PERIOD + DAY;
        let form =
            format!("pause_collection[behavior]={behavior}&pause_collection[resumes_at]={resumes}");
        sim.post(&format!("/v1/subscriptions/{own}"), &form).await.ok();
        sim.advance(PERIOD + HOUR).await;
        assert_eq!(sim.invoices_of(&own).await[0]["status"], status);
        assert_eq!(sim.status_of(&own).await, "active");
        sim.advance(DAY).await;
        let row = sim.get(&format!("/v1/subscriptions/{own}")).await.ok();
        assert_eq!(row["pause_collection"], Value::Null);
        sim.assert_sound().await;
    }
}

#[tokio::test]
async fn a_pause_bills_what_was_used_and_a_resume_starts_anew() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    sim.used(&customer, "3", NOW).await;
    sim.advance(DAY).await;
    let paused = sim.post(&format!("/v1/subscriptions/{own}/pause"), "").await.ok();
    assert_eq!(
        (&paused["status"], &paused["status_details"]["paused"]["subscription"]["type"]),
        (&json!("paused"), &json!("pause_requested"))
    );
    let pending = sim.get(&format!("/v1/invoiceitems?customer={customer}&pending=true")).await.ok();
    assert_eq!(pending["data"][0]["amount"], 3);
    sim.advance(100 * DAY).await;
    assert_eq!(sim.invoices_of(&own).await.len(), 1, "no renewals while paused");
    sim.used(&customer, "70", NOW + 90 * DAY).await;
    let back = sim.post(&format!("/v1/subscriptions/{own}/resume"), "").await.ok();
    let start = NOW + 101 * DAY;
    assert_eq!(
        (&back["status"], &back["items"]["data"][0]["current_period_start"]),
        (&json!("active"), &json!(start))
    );
    assert_eq!(sim.invoices_of(&own).await[0]["amount_paid"], 3);
    sim.used(&customer, "5", start).await;
    sim.advance(32 * DAY).await;
    assert_eq!(sim.invoices_of(&own).await[0]["amount_paid"], 5, "usage of the pause is free");
    assert_eq!(sim.latest_events(1).await, ["invoice.payment_succeeded"]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_invoice_that_is_sent_is_overdue_after_its_days() {
    let sim = Sim::start().await;
    let (own, _) = licensed(&sim, "&collection_method=send_invoice&days_until_due=10").await;
    let first = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&first["status"], &first["due_date"]), (&json!("open"), &json!(NOW + 10 * DAY)));
    sim.advance(10 * DAY).await;
    assert_eq!(sim.latest_events(2).await, ["invoice.overdue", "customer.subscription.updated"]);
    assert_eq!(sim.status_of(&own).await, "past_due");
    sim.post(&format!("/v1/invoices/{}/pay", id(&first)), "paid_out_of_band=true").await.ok();
    assert_eq!(sim.status_of(&own).await, "active");
    sim.assert_sound().await;
}

#[tokio::test]
async fn periods_keep_the_anchors_day_through_short_months_and_leap_years() {
    let sim = Sim::with(|config| config.freeze_at = Some(1_832_889_600)).await; // 2028-01-31T00:00:00Z
    let (own, _) = metered(&sim).await;
    let mut ends = Vec::new();
    for _ in 0..3 {
        let row = sim.get(&format!("/v1/subscriptions/{own}")).await.ok();
        let end = row["items"]["data"][0]["current_period_end"].as_i64().unwrap();
        ends.push(crate::clock::utc(end).unwrap().format("%m-%d").to_string());
        sim.control("/clock", &json!({ "freeze": end })).await.ok();
    }
    assert_eq!(ends, ["02-29", "03-31", "04-30"]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_same_script_gives_the_same_bytes() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let sim = Sim::start().await;
        let (_, customer) = metered(&sim).await;
        sim.used(&customer, "7", NOW).await;
        sim.card(&customer, "decline", Some(1)).await;
        sim.advance(100 * DAY).await;
        seen.push((
            sim.get("/v1/events?limit=100").await.raw,
            sim.get(&format!("/v1/invoices?customer={customer}")).await.raw,
        ));
    }
    assert_eq!(seen[0], seen[1]);
}
