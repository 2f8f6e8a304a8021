//! Credit notes and credit grants.

use super::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const PERIOD: i64 = 30 * DAY;

async fn metered(sim: &Sim) -> (String, String) {
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let price = sim.metered_price(&meter).await;
    let form = format!("customer={customer}&items[0][price]={price}");
    (id(&sim.post("/v1/subscriptions", &form).await.ok()), customer)
}

async fn grant(sim: &Sim, customer: &str, value: i64, more: &str) -> String {
    let form = format!(
        "customer={customer}&amount[type]=monetary&amount[monetary][currency]=usd&amount[monetary][value]={value}\
         &applicability_config[scope][price_type]=metered{more}"
    );
    id(&sim.post("/v1/billing/credit_grants", &form).await.ok())
}

async fn available(sim: &Sim, customer: &str) -> (Value, Value) {
    let path = format!(
        "/v1/billing/credit_balance_summary?customer={customer}&filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered"
    );
    let summary = sim.get(&path).await.ok();
    let balance = &summary["balances"][0];
    (
        balance["available_balance"]["monetary"]["value"].clone(),
        balance["ledger_balance"]["monetary"]["value"].clone(),
    )
}

#[tokio::test]
async fn a_note_lowers_an_open_invoice_and_fills_the_balance_after_a_paid_one() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    sim.used(&customer, "100", NOW).await;
    sim.card(&customer, "decline", Some(1)).await;
    sim.advance(PERIOD + HOUR).await;
    let invoice = id(&sim.invoices_of(&own).await[0]);
    let form = |more: &str| format!("invoice={invoice}&{more}");
    let first = sim.post("/v1/credit_notes", &form("amount=30&reason=order_change")).await.ok();
    assert_eq!((&first["type"], &first["pre_payment_amount"]), (&json!("pre_payment"), &json!(30)));
    assert!(first["number"].as_str().unwrap().ends_with("-0002-CN-01"));
    let open = sim.get(&format!("/v1/invoices/{invoice}")).await.ok();
    assert_eq!((&open["amount_remaining"], &open["total"]), (&json!(70), &json!(100)));
    sim.post(&format!("/v1/credit_notes/{}/void", id(&first)), "").await.ok();
    sim.advance(42 * HOUR).await;
    let paid = sim.get(&format!("/v1/invoices/{invoice}")).await.ok();
    assert_eq!((&paid["status"], &paid["amount_paid"]), (&json!("paid"), &json!(100)));
    assert_eq!(sim.post("/v1/credit_notes", &form("amount=30")).await.status, 400, "where to?");
    let line = id(&paid["lines"]["data"][0]);
    let lines = format!(
        "credit_amount=30&lines[0][type]=invoice_line_item&lines[0][invoice_line_item]={line}&lines[0][amount]=30"
    );
    let note = sim.post("/v1/credit_notes", &form(&lines)).await.ok();
    assert_eq!((&note["type"], &note["total"]), (&json!("post_payment"), &json!(30)));
    assert_eq!(sim.get(&format!("/v1/customers/{customer}")).await.ok()["balance"], -30);
    let too_much = sim.post("/v1/credit_notes", &form("amount=71&credit_amount=71")).await;
    assert_eq!(too_much.refusal().3, Some("amount"));
    assert_eq!(ids(&sim.get(&format!("/v1/credit_notes?invoice={invoice}")).await.ok()).len(), 2);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_note_over_all_that_remains_pays_the_invoice() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    sim.used(&customer, "100", NOW).await;
    sim.card(&customer, "decline", None).await;
    sim.advance(PERIOD + HOUR).await;
    assert_eq!(sim.status_of(&own).await, "past_due");
    let invoice = id(&sim.invoices_of(&own).await[0]);
    sim.post("/v1/credit_notes", &format!("invoice={invoice}&amount=100")).await.ok();
    assert_eq!(sim.invoices_of(&own).await[0]["status"], "paid");
    assert_eq!(sim.status_of(&own).await, "active");
    sim.assert_sound().await;
}

#[tokio::test]
async fn grants_pay_for_usage_in_their_order_at_finalization() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    let late = grant(&sim, &customer, 40, "&priority=60").await;
    let paid = grant(&sim, &customer, 30, "&category=paid").await;
    let promo = grant(&sim, &customer, 20, "&category=promotional").await;
    let soon = grant(&sim, &customer, 10, &format!("&expires_at={}", NOW + 40 * DAY)).await;
    let gone = grant(&sim, &customer, 500, &format!("&expires_at={}", NOW + DAY)).await;
    sim.used(&customer, "70", NOW).await;
    sim.advance(PERIOD).await;
    assert_eq!(sim.invoices_of(&own).await[0]["total"], 70, "a draft knows no credits");
    assert_eq!(available(&sim, &customer).await, (json!(100), json!(600)));
    sim.advance(HOUR).await;
    let cycle = sim.invoices_of(&own).await.remove(0);
    assert_eq!(
        (&cycle["status"], &cycle["subtotal"], &cycle["total"]),
        (&json!("paid"), &json!(70), &json!(0))
    );
    let path = format!("/v1/billing/credit_balance_transactions?customer={customer}&limit=100");
    let rows = sim.get(&path).await.ok();
    let used: Vec<_> = rows["data"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .filter(|row| row["type"] == "debit")
        .map(|row| {
            (row["credit_grant"].as_str().unwrap(), &row["debit"]["amount"]["monetary"]["value"])
        })
        .collect();
    assert_eq!(
        used,
        [(&*soon, &json!(10)), (&*promo, &json!(20)), (&*paid, &json!(30)), (&*late, &json!(10)),]
    );
    assert_eq!(available(&sim, &customer).await, (json!(30), json!(530)));
    sim.post(&format!("/v1/billing/credit_grants/{gone}/expire"), "").await.ok();
    assert_eq!(available(&sim, &customer).await, (json!(30), json!(30)));
    assert_eq!(sim.post(&format!("/v1/billing/credit_grants/{late}/void"), "").await.status, 400);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_void_invoice_gives_the_credit_back() {
    let sim = Sim::start().await;
    let (own, customer) = metered(&sim).await;
    let held = grant(&sim, &customer, 30, "").await;
    sim.used(&customer, "70", NOW).await;
    sim.card(&customer, "decline", None).await;
    sim.advance(PERIOD + HOUR).await;
    let open = sim.invoices_of(&own).await.remove(0);
    assert_eq!((&open["status"], &open["amount_due"]), (&json!("open"), &json!(40)));
    assert_eq!(open["lines"]["data"][0]["pretax_credit_amounts"][0]["amount"], 30);
    sim.post(&format!("/v1/invoices/{}/void", id(&open)), "").await.ok();
    assert_eq!(available(&sim, &customer).await, (json!(30), json!(30)));
    assert_eq!(
        sim.post(&format!("/v1/billing/credit_grants/{held}/void"), "").await.ok()["voided_at"],
        json!(NOW + PERIOD + HOUR)
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_grant_pays_for_the_prices_that_it_names_and_never_for_licences() {
    let sim = Sim::start().await;
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let (calls, seat) = (sim.metered_price(&meter).await, sim.licensed_price().await);
    let other = sim.metered_price(&meter).await;
    let form = format!(
        "customer={customer}&amount[type]=monetary&amount[monetary][currency]=usd&amount[monetary][value]=9999\
         &applicability_config[scope][prices][0][id]={other}"
    );
    sim.post("/v1/billing/credit_grants", &form).await.ok();
    let wrong = form.replace(&other, &seat);
    assert_eq!(sim.post("/v1/billing/credit_grants", &wrong).await.status, 400);
    let form = format!("customer={customer}&items[0][price]={calls}&items[1][price]={seat}");
    let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
    sim.used(&customer, "70", NOW).await;
    sim.advance(PERIOD + HOUR).await;
    assert_eq!(sim.invoices_of(&own).await[0]["amount_paid"], 1070);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_credit_note_is_previewed_and_nothing_has_changed() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={price}");
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    let invoice = made["latest_invoice"].as_str().unwrap().to_owned();
    let asked = format!("invoice={invoice}&amount=300&credit_amount=300");
    let preview = sim.get(&format!("/v1/credit_notes/preview?{asked}")).await.ok();
    assert_eq!((&preview["total"], &preview["post_payment_amount"]), (&json!(300), &json!(300)));
    let lines = sim.get(&format!("/v1/credit_notes/preview/lines?{asked}&limit=1")).await.ok();
    assert_eq!((&lines["data"][0]["amount"], &lines["has_more"]), (&json!(300), &json!(false)));
    assert_eq!(ids(&sim.get("/v1/credit_notes").await.ok()).len(), 0);
    assert_eq!(sim.get(&format!("/v1/customers/{customer}")).await.ok()["balance"], 0);
    let note = sim.post("/v1/credit_notes", &asked).await.ok();
    assert_eq!((&note["number"], &note["total"]), (&preview["number"], &json!(300)));
    let missing = sim.get("/v1/credit_notes/preview?amount=3").await;
    assert_eq!(missing.refusal().2, Some("parameter_missing"));
    sim.assert_sound().await;
}
