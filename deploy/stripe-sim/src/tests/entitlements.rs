//! Features of products, and who has them.

use super::*;

async fn feature(sim: &Sim, key: &str) -> String {
    let form = format!("lookup_key={key}&name={key}");
    id(&sim.post("/v1/entitlements/features", &form).await.ok())
}

/// A monthly price of a product with these features: `(product, price)`.
async fn product_with(sim: &Sim, features: &[String]) -> (String, String) {
    let product = sim.product().await;
    for feature in features {
        let form = format!("entitlement_feature={feature}");
        sim.post(&format!("/v1/products/{product}/features"), &form).await.ok();
    }
    let form = format!("currency=usd&unit_amount=1000&product={product}&recurring[interval]=month");
    let price = id(&sim.post("/v1/prices", &form).await.ok());
    (product, price)
}

async fn subscribed(sim: &Sim, customer: &str, price: &str) -> String {
    let form = format!("customer={customer}&items[0][price]={price}");
    id(&sim.post("/v1/subscriptions", &form).await.ok())
}

async fn keys_of(sim: &Sim, customer: &str) -> Vec<String> {
    let path = format!("/v1/entitlements/active_entitlements?customer={customer}&limit=100");
    let list = sim.get(&path).await.ok();
    let rows = list["data"].as_array().unwrap();
    rows.iter().map(|row| row["lookup_key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_subscription_gives_features_until_it_ends() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let feature = feature(&sim, "export").await;
    let (_, price) = product_with(&sim, std::slice::from_ref(&feature)).await;
    let subscription = subscribed(&sim, &customer, &price).await;
    assert_eq!(keys_of(&sim, &customer).await, ["export"]);
    let path =
        format!("/v1/entitlements/active_entitlements?customer={customer}&expand[]=data.feature");
    let list = sim.get(&path).await.ok();
    assert_eq!(list["data"][0]["feature"]["id"], feature.as_str());
    let one = format!("/v1/entitlements/active_entitlements/{}", id(&list["data"][0]));
    assert_eq!(sim.get(&one).await.ok()["feature"], feature.as_str());
    let events = sim.get("/v1/events?type=entitlements.*").await.ok();
    let summary = &events["data"][0]["data"];
    assert_eq!(summary["object"]["customer"], customer.as_str());
    assert_eq!(summary["object"]["entitlements"]["data"][0]["lookup_key"], "export");
    assert_eq!(summary["previous_attributes"]["entitlements"]["data"], json!([]));

    sim.control(&format!("/subscriptions/{subscription}/status"), &json!({ "status": "paused" }))
        .await
        .ok();
    assert_eq!(keys_of(&sim, &customer).await, ["export"], "a pause takes nothing away");
    sim.delete(&format!("/v1/subscriptions/{subscription}")).await.ok();
    assert_eq!(keys_of(&sim, &customer).await.len(), 0);
    assert_eq!(sim.get(&one).await.status, 404);
    assert_eq!(ids(&sim.get("/v1/events?type=entitlements.*").await.ok()).len(), 2);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_event_lists_ten_and_the_rest_is_paged() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let mut features = Vec::new();
    for n in 0..12 {
        features.push(feature(&sim, &format!("f{n}")).await);
    }
    let (_, price) = product_with(&sim, &features).await;
    subscribed(&sim, &customer, &price).await;
    let events = sim.get("/v1/events?type=entitlements.*").await.ok();
    let listed = &events["data"][0]["data"]["object"]["entitlements"];
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["has_more"]), (10, &json!(true)));
    let path = format!("/v1/entitlements/active_entitlements?customer={customer}");
    let first = sim.get(&path).await.ok();
    assert_eq!((ids(&first).len(), &first["has_more"]), (10, &json!(true)));
    let rest = sim.get(&format!("{path}&starting_after={}", ids(&first)[9])).await.ok();
    assert_eq!((ids(&rest).len(), &rest["has_more"]), (2, &json!(false)));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_product_gains_and_loses_features_for_those_who_have_it() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let (product, price) = product_with(&sim, &[]).await;
    subscribed(&sim, &customer, &price).await;
    let feature = feature(&sim, "late").await;
    let path = format!("/v1/products/{product}/features");
    let form = format!("entitlement_feature={feature}");
    let attached = sim.post(&path, &form).await.ok();
    assert_eq!(attached["entitlement_feature"]["lookup_key"], "late");
    assert_eq!(keys_of(&sim, &customer).await, ["late"]);
    assert_eq!(sim.post(&path, &form).await.status, 400, "once is enough");
    assert_eq!(ids(&sim.get(&path).await.ok()), [id(&attached)]);
    let elsewhere = sim.product().await;
    let wrong = format!("/v1/products/{elsewhere}/features/{}", id(&attached));
    assert_eq!(sim.delete(&wrong).await.status, 404, "it is another product's");
    assert_eq!(sim.delete(&format!("{path}/{}", id(&attached))).await.ok()["deleted"], true);
    assert_eq!(keys_of(&sim, &customer).await.len(), 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_lookup_key_is_one_features_and_archived_ones_are_set_apart() {
    let sim = Sim::start().await;
    let made = feature(&sim, "export").await;
    let again = sim.post("/v1/entitlements/features", "lookup_key=export&name=x").await;
    assert_eq!(again.refusal().2, Some("resource_already_exists"));
    let path = format!("/v1/entitlements/features/{made}");
    sim.post(&path, "active=false&metadata[a]=1").await.ok();
    assert_eq!(ids(&sim.get("/v1/entitlements/features").await.ok()).len(), 0);
    assert_eq!(
        ids(&sim.get("/v1/entitlements/features?archived=true").await.ok()),
        std::slice::from_ref(&made)
    );
    let product = sim.product().await;
    let form = format!("entitlement_feature={made}");
    assert_eq!(sim.post(&format!("/v1/products/{product}/features"), &form).await.status, 400);
    assert_eq!(sim.get(&path).await.ok()["metadata"], json!({ "a": "1" }));
    sim.assert_sound().await;
}
