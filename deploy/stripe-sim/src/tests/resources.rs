//! Customers, products, prices, lists and expansion.

use super::*;

#[tokio::test]
async fn a_customer_is_created_changed_and_found() {
    let sim = Sim::start().await;
    let made = sim
        .post(
            "/v1/customers",
            "email=a@b.c&name=Ann&metadata[x]=1&metadata[y]=2&address[city]=Rome",
        )
        .await
        .ok();
    assert_eq!(
        (&made["email"], &made["address"]["city"], &made["address"]["line1"]),
        (&json!("a@b.c"), &json!("Rome"), &Value::Null)
    );
    let path = format!("/v1/customers/{}", id(&made));
    let changed =
        sim.post(&path, "name=&metadata[x]=&metadata[z]=3&address[country]=IT").await.ok();
    assert_eq!(
        (&changed["name"], &changed["metadata"]),
        (&Value::Null, &json!({ "y": "2", "z": "3" }))
    );
    assert_eq!(
        (&changed["address"]["city"], &changed["address"]["country"]),
        (&json!("Rome"), &json!("IT"))
    );
    assert_eq!(sim.post(&path, "metadata=").await.ok()["metadata"], json!({}));
    assert_eq!(sim.get(&path).await.ok()["email"], "a@b.c");
    assert_eq!(ids(&sim.get("/v1/customers?email=a@b.c").await.ok()), [id(&made)]);
    assert_eq!(ids(&sim.get("/v1/customers?email=x@y.z").await.ok()).len(), 0);
    assert_eq!(
        sim.post("/v1/customers", "email=nonsense").await.refusal().2,
        Some("email_invalid")
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_deleted_customer_leaves_a_stub() {
    let sim = Sim::start().await;
    let path = format!("/v1/customers/{}", sim.customer().await);
    assert_eq!(sim.delete(&path).await.ok()["deleted"], true);
    assert_eq!(sim.get(&path).await.ok()["deleted"], true);
    assert_eq!(
        sim.post(&path, "name=x").await.refusal(),
        (404, "invalid_request_error", Some("resource_missing"), Some("id"))
    );
    assert_eq!(ids(&sim.get("/v1/customers").await.ok()).len(), 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_unknown_id_is_404_in_the_path_and_400_in_a_parameter() {
    let sim = Sim::start().await;
    let path = sim.get("/v1/customers/cus_none").await;
    assert_eq!(
        path.refusal(),
        (404, "invalid_request_error", Some("resource_missing"), Some("id"))
    );
    assert_eq!(path.message(), "No such customer: 'cus_none'");
    let parameter =
        sim.post("/v1/subscriptions", "customer=cus_none&items[0][price]=price_none").await;
    assert_eq!(
        parameter.refusal(),
        (400, "invalid_request_error", Some("resource_missing"), Some("customer"))
    );
}

#[tokio::test]
async fn lists_page_from_the_newest() {
    let sim = Sim::start().await;
    let mut made = Vec::new();
    for _ in 0..12 {
        made.push(sim.customer().await);
        sim.advance(1).await;
    }
    made.reverse();
    let first = sim.get("/v1/customers").await.ok();
    assert_eq!(
        (ids(&first), &first["has_more"], &first["url"]),
        (made[..10].to_vec(), &json!(true), &json!("/v1/customers"))
    );
    let rest = sim.get(&format!("/v1/customers?starting_after={}", made[9])).await.ok();
    assert_eq!((ids(&rest), &rest["has_more"]), (made[10..].to_vec(), &json!(false)));
    let back = sim.get(&format!("/v1/customers?limit=3&ending_before={}", made[9])).await.ok();
    assert_eq!((ids(&back), &back["has_more"]), (made[6..9].to_vec(), &json!(true)));
    let late = sim.get(&format!("/v1/customers?limit=100&created[gte]={}", NOW + 10)).await.ok();
    assert_eq!(ids(&late), made[..2]);
    assert_eq!(
        sim.get("/v1/customers?limit=101").await.refusal().2,
        Some("parameter_invalid_integer")
    );
    assert_eq!(
        sim.get("/v1/customers?starting_after=cus_none").await.refusal().2,
        Some("resource_missing")
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_tiered_metered_price_keeps_its_tiers_and_shows_them_when_asked() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let form = format!(
        "currency=usd&product_data[name]=Calls&billing_scheme=tiered&tiers_mode=graduated&recurring[interval]=month\
         &recurring[usage_type]=metered&recurring[meter]={meter}&lookup_key=calls\
         &tiers[0][up_to]=1000&tiers[0][unit_amount]=0&tiers[0][flat_amount]=500\
         &tiers[1][up_to]=inf&tiers[1][unit_amount_decimal]=0.25"
    );
    let price = sim.post("/v1/prices", &form).await.ok();
    assert_eq!(
        (price.get("tiers"), &price["recurring"]["meter"], &price["type"]),
        (None, &json!(meter), &json!("recurring"))
    );
    let shown =
        sim.get(&format!("/v1/prices/{}?expand[]=tiers&expand[]=product", id(&price))).await.ok();
    assert_eq!(shown["product"]["name"], "Calls");
    assert_eq!(
        (&shown["tiers"][0]["up_to"], &shown["tiers"][0]["flat_amount"]),
        (&json!(1000), &json!(500))
    );
    assert_eq!(
        (&shown["tiers"][1]["up_to"], &shown["tiers"][1]["unit_amount_decimal"]),
        (&Value::Null, &json!("0.25"))
    );
    assert_eq!(shown["tiers"][1]["unit_amount"], Value::Null);
    assert_eq!(ids(&sim.get("/v1/prices?lookup_keys[]=calls").await.ok()), [id(&price)]);
    assert_eq!(
        ids(&sim.get(&format!("/v1/prices?recurring[meter]={meter}&active=true")).await.ok()),
        [id(&price)]
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_price_is_checked_as_a_whole() {
    let sim = Sim::start().await;
    let (meter, product) = (sim.meter().await, sim.product().await);
    let refused = |form: String| {
        let sim = &sim;
        async move {
            let reply = sim.post("/v1/prices", &form).await;
            let (status, _, code, param) = reply.refusal();
            assert_eq!(status, 400, "{form}");
            (code.map(str::to_owned), param.map(str::to_owned))
        }
    };
    let missing = |param: &str| (Some("parameter_missing".to_owned()), Some(param.to_owned()));
    let base = format!("currency=usd&product={product}");
    assert_eq!(refused(base.clone()).await, missing("unit_amount"));
    assert_eq!(refused("currency=usd&unit_amount=1".to_owned()).await, missing("product"));
    let metered = "&unit_amount=1&recurring[interval]=month&recurring[usage_type]=metered";
    assert_eq!(refused(format!("{base}{metered}")).await, missing("recurring[meter]"));
    let licensed =
        format!("{base}&unit_amount=1&recurring[interval]=month&recurring[meter]={meter}");
    assert_eq!(refused(licensed).await.1.as_deref(), Some("recurring[meter]"));
    assert_eq!(
        refused(format!("{base}&billing_scheme=tiered&tiers_mode=volume")).await,
        missing("tiers")
    );
    let tiers = format!(
        "{base}&billing_scheme=tiered&tiers_mode=volume&tiers[0][up_to]=5&tiers[0][unit_amount]=1"
    );
    assert_eq!(refused(tiers).await.1.as_deref(), Some("tiers[0][up_to]"));
    assert_eq!(
        refused(format!("{base}&unit_amount_decimal=0.0000000000001")).await.1.as_deref(),
        Some("unit_amount_decimal")
    );
    assert_eq!(
        refused(format!("{base}&unit_amount=1&unit_amount_decimal=1")).await.1.as_deref(),
        Some("unit_amount_decimal")
    );
    assert_eq!(sim.get("/v1/prices").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn a_lookup_key_belongs_to_one_price_and_can_move() {
    let sim = Sim::start().await;
    let form = "currency=usd&unit_amount=1&product_data[name]=P&lookup_key=k";
    let first = id(&sim.post("/v1/prices", form).await.ok());
    assert_eq!(sim.post("/v1/prices", form).await.refusal().3, Some("lookup_key"));
    let second =
        id(&sim.post("/v1/prices", &format!("{form}&transfer_lookup_key=true")).await.ok());
    assert_eq!(ids(&sim.get("/v1/prices?lookup_keys[]=k").await.ok()), [second]);
    assert_eq!(sim.get(&format!("/v1/prices/{first}")).await.ok()["lookup_key"], Value::Null);
    assert_eq!(
        sim.post(&format!("/v1/prices/{first}"), "unit_amount=2").await.refusal().2,
        Some("parameter_unknown")
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn only_what_can_be_expanded_is_expanded() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let price = sim.metered_price(&meter).await;
    let listed = sim.get("/v1/prices?expand[]=data.product").await.ok();
    assert_eq!(listed["data"][0]["product"]["object"], "product");
    for path in ["currency", "nonsense", "product.name", "recurring.meter"] {
        let reply = sim.get(&format!("/v1/prices/{price}?expand[]={path}")).await;
        assert_eq!(reply.refusal(), (400, "invalid_request_error", None, Some("expand")), "{path}");
    }
    sim.assert_sound().await;
}

#[tokio::test]
async fn products_are_changed_and_filtered() {
    let sim = Sim::start().await;
    let made = sim.post("/v1/products", "name=A&id=prod_own&unit_label=call").await.ok();
    assert_eq!((&made["id"], &made["unit_label"]), (&json!("prod_own"), &json!("call")));
    assert_eq!(
        sim.post("/v1/products", "name=A&id=prod_own").await.refusal().2,
        Some("resource_already_exists")
    );
    sim.product().await;
    sim.advance(5).await;
    let changed = sim.post("/v1/products/prod_own", "active=false&unit_label=").await.ok();
    assert_eq!(
        (&changed["active"], &changed["unit_label"], &changed["updated"]),
        (&json!(false), &Value::Null, &json!(NOW + 5))
    );
    assert_eq!(ids(&sim.get("/v1/products?active=false").await.ok()), ["prod_own"]);
    sim.assert_sound().await;
}
