//! Statements: closed once, tied to Stripe's side, corrected by lines of their own; and the grace of an overdue payment.
//!
//! The simulated Stripe lives in the past for a while, so that a whole period can end; billing's clock is the system's.

use billing::store::statement;
use chrono::{Datelike, NaiveTime};
use http::{Method, StatusCode};
use schemas::{BillingMode, ControlFact, Decision, Hour, TenantId, Timestamp, subject};
use serde_json::{Value, json};
use stack::Part;

use crate::{
    proxy::{Hold, Proxy},
    world::{OPERATOR, World, now},
};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
pub const SOON: [(&str, &str); 2] =
    [("BILLING_STATEMENTS_EVERY_MS", "50"), ("BILLING_CORRECT_AFTER_MS", "0")];

/// The beginning of this month, when periods that are anchored on the first end. In UTC.
pub fn edge() -> Timestamp {
    let first = now().to_utc().date_naive().with_day(1).unwrap();
    first.and_time(NaiveTime::MIN).and_utc().into()
}

impl World {
    async fn stripe_lives_at(&self, at: Timestamp) {
        self.sim_post("/_sim/clock", &json!({ "wire": "system" })).await;
        self.sim_post("/_sim/clock", &json!({ "set": at.0 / 1000 })).await;
    }

    async fn stripe_lives_now(&self) {
        self.sim_post("/_sim/settings", &json!({ "grace_s": 0 })).await;
        self.sim_post("/_sim/clock", &json!("system")).await;
    }

    /// A tenant that subscribed two days before the month's beginning and used 12 units in the last hours of the month.
    pub async fn a_month_has_ended(&self) -> (TenantId, String) {
        self.months_have_ended(1).await.remove(0)
    }

    /// Several such tenants.
    pub async fn months_have_ended(&self, tenants: usize) -> Vec<(TenantId, String)> {
        let edge = edge();
        self.stripe_lives_at(edge.plus_ms(-2 * DAY_MS)).await;
        let mut all = Vec::new();
        for _ in 0..tenants {
            let tenant = self.tenant(BillingMode::Stripe).await;
            let (_, subscription) = self.subscribe(tenant).await;
            self.until("access", async || self.access(tenant).await.is_some()).await;
            all.push((tenant, subscription));
        }
        self.stripe_lives_at(edge.plus_ms(-HOUR_MS)).await;
        let last = Hour(edge.hour().0 - 2);
        for (tenant, _) in &all {
            self.seal(&[(*tenant, last, 1, 5), (*tenant, last, 2, 7)]).await;
        }
        self.until_all_accepted(i64::try_from(2 * tenants).unwrap()).await;
        self.stripe_lives_now().await;
        all
    }

    pub async fn statements(&self, tenant: TenantId) -> Vec<Value> {
        let answer = self.get(&format!("/billing/statements?tenant_id={tenant}")).await.1;
        answer["statements"].as_array().cloned().unwrap_or_default()
    }

    pub async fn until_statement(&self, tenant: TenantId, verdict: &str, revision: i64) -> Value {
        self.until(&format!("a statement {verdict} at revision {revision}"), async || {
            let all = self.statements(tenant).await;
            all.first().is_some_and(|one| one["verdict"] == verdict && one["revision"] == revision)
        })
        .await;
        self.statements(tenant).await.remove(0)
    }

    /// Everything on CONTROL that closes or corrects a statement.
    pub async fn closed(&self) -> Vec<ControlFact> {
        let stream = self.nats.jetstream.get_stream(subject::CONTROL).await.unwrap();
        let mut found = Vec::new();
        for seq in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(seq).await.unwrap();
            if message.subject.starts_with("control.statement.") {
                let decision: Decision = serde_json::from_slice(&message.payload).unwrap();
                found.extend(decision.facts);
            }
        }
        found
    }

    async fn items(&self) -> Vec<Value> {
        let list = self.sim_get("/v1/invoiceitems?limit=100").await;
        list["data"].as_array().cloned().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_period_is_closed_once_tied_out_and_corrected_by_lines_of_its_own() {
    let world = World::new().await;
    let mut billing = world.start_with(&SOON).await;
    let (tenant, subscription) = world.a_month_has_ended().await;
    let closed = world.until_statement(tenant, "ties", 0).await;
    assert_eq!(closed["subscription"], subscription.as_str());
    let units = ["ledger_units", "summary_units", "invoiced_units", "carried_units"];
    assert_eq!(units.map(|name| closed[name].as_i64().unwrap()), [12, 12, 12, 0]);
    // 12 calls at a dollar for 1,000: 1.2 cents, on both sides.
    assert_eq!(
        (closed["expected_minor"].as_i64(), closed["invoiced_minor"].as_i64()),
        (Some(1), Some(1))
    );
    assert_eq!(closed["bills"][0]["bill"]["terms"][0]["plan"]["plan"], "payg-usd-100");
    let facts = world.closed().await;
    let [ControlFact::StatementClosed { revision: 0, bill, units, total_minor: 1, .. }] =
        &facts[..]
    else {
        panic!("{facts:?}");
    };
    assert_eq!((bill.as_str(), units.0), (closed["bills"][0]["digest"].as_str().unwrap(), 12));

    // Late use: the closed bill stays, the difference is a bill of its own and goes on the next invoice.
    world.seal(&[(tenant, Hour(edge().hour().0 - 3), 3, 988)]).await;
    let corrected = world.until_statement(tenant, "ties", 1).await;
    assert_eq!(corrected["bills"][0], closed["bills"][0], "closed is closed");
    assert_eq!(
        (corrected["carried_units"].as_i64(), corrected["corrected_minor"].as_i64()),
        (Some(988), Some(99))
    );
    // As a kill between the frozen correction and its tie-out leaves it.
    world
        .sql("update statement set verdict = 'open', carried_units = 0 where state = 'closed'")
        .await;
    let again = world.until_statement(tenant, "ties", 1).await;
    assert_eq!(again["carried_units"].as_i64(), Some(988), "it is tied out again");
    world.until("the correction is at Stripe", async || world.items().await.len() == 1).await;
    let item = world.items().await.remove(0);
    assert_eq!(item["amount"].as_i64(), Some(99), "{item}");

    // All of it again, from the first message on: nothing is new.
    let before = world.statements(tenant).await;
    billing.kill().await.unwrap();
    world.sql("update checkpoint set seq = 0").await;
    billing.start_again().await.unwrap();
    world.until_worked().await;
    world.seal(&[(tenant, now().hour(), 4, 1)]).await;
    world.until("the replay is done", async || world.accepted().await == 4).await;
    assert_eq!(world.statements(tenant).await, before);
    assert_eq!((world.closed().await.len(), world.items().await.len()), (2, 1));
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_ask_for_statements_previews_and_discrepancies() {
    let world = World::new().await;
    let _billing = world.start_with(&SOON).await;
    let (tenant, _) = world.a_month_has_ended().await;
    world.until_statement(tenant, "ties", 0).await;
    let url = format!("{}/billing/statements?tenant_id={tenant}&format=csv", world.billing);
    let bearer = format!("Bearer {OPERATOR}");
    let request = http::Request::get(&url).header("authorization", &bearer);
    let request = request.body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
    let answer = runtime::http::Client::default()
        .send(request, std::time::Duration::from_secs(10), 1 << 20)
        .await
        .unwrap();
    let csv = String::from_utf8(answer.body().to_vec()).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.lines().nth(1).unwrap().ends_with(",ties,nobody"), "{csv}");

    // A part of the running month: what it has come to, and what it will if it goes on so.
    world.seal(&[(tenant, now().hour(), 9, 1000)]).await;
    world.until("it is there", async || world.accepted().await == 3).await;
    let preview =
        world.get(&format!("/billing/preview?tenant_id={tenant}")).await.1["previews"][0].clone();
    assert_eq!(
        (preview["units"].as_i64(), preview["so_far"]["total"].as_i64()),
        (Some(1000), Some(100))
    );
    assert!(preview["forecast_units"].as_i64().unwrap() >= 1000, "{preview}");
    assert_eq!(world.get("/billing/discrepancies").await.1["discrepancies"], json!([]));

    // What Stripe's invoice asks beyond our rating is a discrepancy with an owner.
    world.sql("update invoice_line set amount_minor = amount_minor + 1").await;
    world.seal(&[(tenant, Hour(edge().hour().0 - 3), 10, 1000)]).await;
    world.until_statement(tenant, "amount", 1).await;
    let apart = world.get("/billing/discrepancies?owner=finance").await.1["discrepancies"].clone();
    assert_eq!(apart.as_array().unwrap().len(), 1);
    assert_eq!(apart[0]["owner"], "finance");
    for (path, status) in [
        ("/billing/statements?tenant_id=x", StatusCode::BAD_REQUEST),
        (
            &*format!("/billing/statements?tenant_id={tenant}&period=2028-13"),
            StatusCode::BAD_REQUEST,
        ),
        ("/billing/preview", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(world.get(path).await.0, status, "{path}");
    }
    let url = format!("{}/billing/discrepancies", world.billing);
    assert_eq!(world.send(Method::GET, &url, &[], "").await.0, StatusCode::UNAUTHORIZED);
}

/// Kills billing while the request that makes an invoice item is held, and looks for one item.
async fn killed_while(hold: Hold) {
    let world = World::new().await;
    let proxy = Proxy::start(&world.sim, "POST /v1/invoiceitems ", hold).await;
    let url = proxy.url();
    let mut billing = world.start_with(&[SOON[0], SOON[1], ("BILLING_STRIPE_URL", &url)]).await;
    let (tenant, _) = world.a_month_has_ended().await;
    world.until_statement(tenant, "ties", 0).await;
    world.seal(&[(tenant, Hour(edge().hour().0 - 3), 3, 988)]).await;
    let mut held = proxy.held.clone();
    held.wait_for(|held| *held > 0).await.unwrap();
    billing.kill().await.unwrap();
    proxy.cut_and_release().await;
    billing.start_again().await.unwrap();
    until_collected(&world, tenant).await;
    assert_eq!(world.items().await.len(), 1);
    world.assert_valid().await;
}

async fn until_collected(world: &World, tenant: TenantId) {
    world
        .until("the correction is at Stripe", async || {
            let all = world.statements(tenant).await;
            all.first().is_some_and(|one| one["bills"][1]["collection"] == "issued")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_a_correction_arrives_loses_nothing() {
    killed_while(Hold::Requests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_a_correction_arrived_makes_no_second_one() {
    killed_while(Hold::Answers).await;
}

/// The invoice of a statement comes between the look at the invoices and the putting off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_woken_meanwhile_is_not_put_off() {
    let world = World::new().await;
    let mut billing = world.start_with(&SOON).await;
    let (tenant, subscription) = world.a_month_has_ended().await;
    world.until_statement(tenant, "ties", 0).await;
    billing.kill().await.unwrap();
    world.sql("update statement set state = 'closing', due_at_ms = 0").await;
    let later = now().plus_ms(600_000);
    for woken in [true, false] {
        let seen = statement::due(&world.pool, now(), 10).await.unwrap();
        assert_eq!(seen.len(), 1);
        if woken {
            statement::wake(&world.pool, &subscription, now()).await.unwrap();
        }
        statement::put_off(&world.pool, &[(&seen[0], "no final invoice yet")], later)
            .await
            .unwrap();
        let due = statement::due(&world.pool, now(), 10).await.unwrap().len();
        assert_eq!(due, usize::from(woken), "woken: {woken}");
    }
}

/// Every state that a kill between two steps of closing, publishing, sending and marking can leave behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_kill_leaves_behind_ends_in_one_fact_and_one_item() {
    let world = World::new().await;
    let _billing = world.start_with(&SOON).await;
    let (tenant, _) = world.a_month_has_ended().await;
    world.until_statement(tenant, "ties", 0).await;
    world.seal(&[(tenant, Hour(edge().hour().0 - 3), 3, 988)]).await;
    until_collected(&world, tenant).await;
    let rest = async |what: &str| {
        world
            .until(what, async || {
                let all = world.statements(tenant).await;
                let open: i64 = sqlx::query_scalar("select count(*) from bill where not published or collection = 'sent' or collection = 'pending'")
                    .fetch_one(&world.pool)
                    .await
                    .unwrap();
                open == 0 && all[0]["state"] == "closed"
            })
            .await;
        assert_eq!((world.closed().await.len(), world.items().await.len()), (2, 1), "{what}");
    };
    // Frozen and not published; published and not marked; both look like this.
    // In one statement: a round between two would publish the bill, and leave what no kill leaves.
    world
        .sql(
            "with unpublished as (update bill set published = false where revision = 0)
              update statement set state = 'closing', due_at_ms = 0",
        )
        .await;
    rest("the closing is published again").await;
    world.sql("update bill set published = false where revision = 1").await;
    rest("the correction is published again").await;
    // Written ahead and not sent; sent and not marked.
    world.sql("update bill set collection = 'sent', provider_id = null where revision = 1").await;
    rest("the correction is sent again").await;
    // The same a day later, when Stripe no longer knows the key: what was made is found by its metadata.
    world.sql("update bill set collection = 'sent', provider_id = null, sent_at_ms = sent_at_ms - 100000000 where revision = 1").await;
    rest("the correction is found").await;
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overdue_payment_suspends_when_the_grace_is_over_and_paying_resumes() {
    let world = World::new().await;
    let _billing = world.start_with(&SOON).await;
    world.sim_post("/_sim/settings", &json!({ "after_retries": "past_due" })).await;
    // Two months ago, so that whatever day it is the grace of two weeks is over.
    let before =
        Timestamp::from(edge().to_utc().checked_sub_months(chrono::Months::new(1)).unwrap());
    world.stripe_lives_at(before.plus_ms(-2 * DAY_MS)).await;
    world.stripe_post("/v1/products", "id=fee&name=Fee").await;
    let price = world
        .stripe_post(
            "/v1/prices",
            "currency=usd&product=fee&unit_amount=1000&recurring[interval]=month",
        )
        .await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (customer, subscription) = world.subscribe(tenant).await;
    let form = format!("items[0][price]={}&items[0][quantity]=1", price["id"].as_str().unwrap());
    world.stripe_post(&format!("/v1/subscriptions/{subscription}"), &form).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world
        .sim_post(&format!("/_sim/customers/{customer}/card"), &json!({ "outcome": "decline" }))
        .await;
    world.stripe_lives_now().await;
    let over = "suspended: payment overdue, grace over";
    world
        .until("it is suspended", async || world.access(tenant).await.as_deref() == Some(over))
        .await;
    world.sim_post(&format!("/_sim/customers/{customer}/card"), &json!({ "outcome": "ok" })).await;
    for invoice in
        world.sim_get("/v1/invoices?status=open&limit=100").await["data"].as_array().unwrap()
    {
        world
            .stripe_post(&format!("/v1/invoices/{}/pay", invoice["id"].as_str().unwrap()), "")
            .await;
    }
    let active = "active: subscription active";
    world
        .until("it serves again", async || world.access(tenant).await.as_deref() == Some(active))
        .await;
}
