//! Payment methods: test cards, defaults, and what they do to payments.

use super::*;

async fn attached(sim: &Sim, customer: &str, card: &str) -> String {
    let path = format!("/v1/payment_methods/{card}/attach");
    id(&sim.post(&path, &format!("customer={customer}")).await.ok())
}

#[tokio::test]
async fn a_test_card_is_attached_listed_made_default_and_detached() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let visa = attached(&sim, &customer, "pm_card_visa").await;
    assert_ne!(visa, attached(&sim, &customer, "pm_card_visa").await, "each time another one");
    let list = sim.get(&format!("/v1/customers/{customer}/payment_methods?type=card")).await.ok();
    assert_eq!(ids(&list).len(), 2);
    assert_eq!(list["data"][1]["card"]["last4"], "4242");
    let path = format!("/v1/customers/{customer}");
    let form = format!("invoice_settings[default_payment_method]={visa}");
    sim.post(&path, &form).await.ok();
    let expand = "expand[]=invoice_settings.default_payment_method";
    let shown = sim.get(&format!("{path}?{expand}")).await.ok();
    assert_eq!(shown["invoice_settings"]["default_payment_method"]["card"]["brand"], "visa");
    let gone = sim.post(&format!("/v1/payment_methods/{visa}/detach"), "").await.ok();
    assert_eq!(gone["customer"], Value::Null);
    let shown = sim.get(&path).await.ok();
    assert_eq!(shown["invoice_settings"]["default_payment_method"], Value::Null);
    let again = sim.post(&path, &form).await;
    assert_eq!(again.refusal().2, Some("resource_missing"));
    assert_eq!(
        sim.latest_events(3).await,
        ["customer.updated", "customer.updated", "payment_method.detached"]
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_default_card_decides_and_a_good_one_settles_the_invoice() {
    let sim = Sim::start().await;
    let form = "payment_method=pm_card_chargeCustomerFail&invoice_settings[default_payment_method]=pm_card_chargeCustomerFail";
    let made = sim.post("/v1/customers", form).await.ok();
    let customer = id(&made);
    assert!(
        made["invoice_settings"]["default_payment_method"].as_str().unwrap().starts_with("pm_1")
    );
    let price = sim.licensed_price().await;
    let subscribe = format!("customer={customer}&items[0][price]={price}");
    let subscription = sim.post("/v1/subscriptions", &subscribe).await.ok();
    assert_eq!(subscription["status"], "incomplete");
    let invoice = subscription["latest_invoice"].as_str().unwrap();
    let refused = sim.post(&format!("/v1/invoices/{invoice}/pay"), "").await;
    assert_eq!(refused.refusal(), (402, "card_error", Some("card_declined"), None));
    let good = attached(&sim, &customer, "pm_card_mastercard").await;
    let paid = sim
        .post(&format!("/v1/invoices/{invoice}/pay"), &format!("payment_method={good}"))
        .await
        .ok();
    assert_eq!(paid["status"], "paid");
    assert_eq!(sim.status_of(&id(&subscription)).await, "active");
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_card_is_made_from_a_number_and_belongs_to_one_customer() {
    let sim = Sim::start().await;
    let (ann, bob) = (sim.customer().await, sim.customer().await);
    let form = "type=card&card[number]=5555555555554444&card[exp_month]=4&card[exp_year]=2030&billing_details[name]=Ann";
    let card = sim.post("/v1/payment_methods", form).await.ok();
    assert_eq!(
        (&card["card"]["brand"], &card["card"]["exp_year"]),
        (&json!("mastercard"), &json!(2030))
    );
    let id = attached(&sim, &ann, card["id"].as_str().unwrap()).await;
    let stolen =
        sim.post(&format!("/v1/payment_methods/{id}/attach"), &format!("customer={bob}")).await;
    assert_eq!(stolen.status, 400);
    assert_eq!(
        sim.get(&format!("/v1/customers/{ann}/payment_methods/{id}")).await.ok()["id"],
        id.as_str()
    );
    assert_eq!(sim.get(&format!("/v1/customers/{bob}/payment_methods/{id}")).await.status, 404);
    let declined = sim
        .post("/v1/payment_methods/pm_card_chargeDeclined/attach", &format!("customer={ann}"))
        .await;
    assert_eq!(declined.refusal().2, Some("card_declined"));
    let short = sim.post("/v1/payment_methods", "type=card&card[number]=42").await;
    assert_eq!(short.refusal(), (402, "card_error", Some("incorrect_number"), Some("number")));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_refused_card_says_why() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    for (card, code, why) in [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
    ] {
        let path = format!("/v1/payment_methods/{card}/attach");
        let refused = sim.post(&path, &format!("customer={customer}")).await;
        assert_eq!(refused.refusal(), (402, "card_error", Some(code), None));
        assert_eq!(refused.body["error"]["decline_code"], why);
    }
    sim.assert_sound().await;
}
