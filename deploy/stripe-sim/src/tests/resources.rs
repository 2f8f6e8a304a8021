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
    let own = sim.get(&format!("/v1/prices/{price}?expand[]=recurring")).await.ok();
    assert_eq!(own["recurring"]["meter"], json!(meter));
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

#[tokio::test]
async fn rows_are_searched_page_by_page() {
    let sim = Sim::start().await;
    for n in 0..5 {
        sim.post("/v1/customers", &format!("email=u{n}@example.test&metadata[org]=o{}", n % 2))
            .await
            .ok();
    }
    let query = "query=metadata['org']:'o0'&limit=2";
    let first = sim.get(&format!("/v1/customers/search?{query}")).await.ok();
    assert_eq!(
        (&first["object"], ids(&first).len(), &first["has_more"]),
        (&json!("search_result"), 2, &json!(true))
    );
    let page = first["next_page"].as_str().unwrap();
    let rest = sim.get(&format!("/v1/customers/search?{query}&page={page}")).await.ok();
    assert_eq!(
        (ids(&rest).len(), &rest["has_more"], &rest["next_page"]),
        (1, &json!(false), &Value::Null)
    );
    let wrong = sim.get("/v1/customers/search?query=balance:1").await;
    assert_eq!(wrong.refusal(), (400, "invalid_request_error", None, Some("query")));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_product_comes_with_its_first_price_and_goes_only_without_prices() {
    let sim = Sim::start().await;
    let form = "name=P&default_price_data[currency]=usd&default_price_data[unit_amount]=500&default_price_data[recurring][interval]=month&expand[]=default_price";
    let product = sim.post("/v1/products", form).await.ok();
    assert_eq!(product["default_price"]["unit_amount"], 500);
    assert_eq!(sim.delete(&format!("/v1/products/{}", id(&product))).await.status, 400);
    let bare = sim.product().await;
    assert_eq!(sim.delete(&format!("/v1/products/{bare}")).await.ok()["deleted"], true);
    assert_eq!(sim.get(&format!("/v1/products/{bare}")).await.status, 404);
    sim.assert_sound().await;
}

#[tokio::test]
async fn event_destinations_hide_what_is_not_included() {
    let sim = Sim::start().await;
    let bearer = bearer();
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let path = "/v2/core/event_destinations";
    let body = json!({
        "name": "n", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": ["v1.billing.meter.no_meter_found"],
        "webhook_endpoint": { "url": "http://127.0.0.1:9/thin" },
        "include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"],
    });
    let made = sim.send(Method::POST, path, &headers, body.to_string()).await.unwrap().ok();
    assert!(made["webhook_endpoint"]["signing_secret"].as_str().unwrap().starts_with("whsec_"));
    let own = format!("{path}/{}", id(&made));
    assert_eq!(sim.get(&own).await.ok()["webhook_endpoint"], json!({}));
    let off = sim.send(Method::POST, &format!("{own}/disable"), &headers, "{}".to_owned()).await;
    assert_eq!(off.unwrap().ok()["status"], "disabled");
    assert_eq!(ids(&sim.get(path).await.ok()), [id(&made)]);
    assert_eq!(sim.delete(&own).await.ok()["id"], made["id"]);
    assert_eq!(sim.get(&own).await.status, 404);
    sim.assert_sound().await;
}

#[tokio::test]
async fn hashes_without_a_name_of_their_own_are_expanded_through() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!(
        "customer={customer}&items[0][price]={price}&expand[]=latest_invoice.parent.subscription_details.subscription"
    );
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    let inner = &made["latest_invoice"]["parent"]["subscription_details"]["subscription"];
    assert_eq!(inner["id"], made["id"]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_item_can_bring_its_price_along() {
    let sim = Sim::start().await;
    let (customer, product) = (sim.customer().await, sim.product().await);
    let data = format!(
        "items[0][price_data][currency]=usd&items[0][price_data][product]={product}&items[0][price_data][unit_amount]=700&items[0][price_data][recurring][interval]=month"
    );
    let made = sim.post("/v1/subscriptions", &format!("customer={customer}&{data}")).await.ok();
    assert_eq!(made["items"]["data"][0]["price"]["unit_amount"], 700);
    let path =
        format!("/v1/subscription_items/{}", made["items"]["data"][0]["id"].as_str().unwrap());
    assert_eq!(sim.post(&path, "quantity=3").await.ok()["quantity"], 3);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_currency_that_stripe_does_not_take_is_refused_wherever_one_is_given() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    for (path, form, param) in [
        ("/v1/prices", "currency=zzz&unit_amount=1&product_data[name]=P", "currency"),
        (
            "/v1/products",
            "name=P&default_price_data[currency]=zzz&default_price_data[unit_amount]=1",
            "default_price_data[currency]",
        ),
        ("/v1/coupons", "amount_off=1&currency=zzz", "currency"),
        ("/v1/invoices", "currency=zzz&customer=CUS", "currency"),
        ("/v1/invoiceitems", "currency=zzz&amount=1&customer=CUS", "currency"),
    ] {
        let refused = sim.post(path, &form.replace("CUS", &customer)).await;
        let expect = (400, "invalid_request_error", None, Some(param));
        assert_eq!(refused.refusal(), expect, "{path}");
        assert!(refused.message().starts_with("Invalid currency: zzz. Stripe currently supports"));
    }
    let large = sim.post("/v1/prices", "currency=EUR&unit_amount=1&product_data[name]=P").await;
    assert_eq!(large.ok()["currency"], "eur");
}

#[tokio::test]
async fn a_customer_shows_its_subscriptions_when_asked() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let path = format!("/v1/customers/{customer}");
    let form = format!("customer={customer}&items[0][price]={price}");
    let made = id(&sim.post("/v1/subscriptions", &form).await.ok());
    let over = id(&sim.post("/v1/subscriptions", &form).await.ok());
    sim.delete(&format!("/v1/subscriptions/{over}")).await.ok();
    assert_eq!(sim.get(&path).await.ok().get("subscriptions"), None);
    let asked = format!(
        "{path}?expand[]=subscriptions.data.latest_invoice&expand[]=sources&expand[]=tax_ids"
    );
    let shown = sim.get(&asked).await.ok();
    assert_eq!(ids(&shown["subscriptions"]), [made]);
    assert_eq!(shown["subscriptions"]["data"][0]["latest_invoice"]["object"], "invoice");
    assert_eq!((ids(&shown["sources"]).len(), ids(&shown["tax_ids"]).len()), (0, 0));
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_invoice_shows_its_payment_and_the_secret_that_confirms_it() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let ask = "expand[]=latest_invoice.confirmation_secret&expand[]=latest_invoice.payments";
    let form = format!(
        "customer={customer}&items[0][price]={price}&payment_behavior=default_incomplete&{ask}"
    );
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    let invoice = &made["latest_invoice"];
    let payment = &invoice["payments"]["data"][0];
    let intent = payment["payment"]["payment_intent"].as_str().unwrap();
    let secret = invoice["confirmation_secret"]["client_secret"].as_str().unwrap();
    assert!(intent.starts_with("pi_") && secret.starts_with(&format!("{intent}_secret_")));
    assert_eq!(
        (&payment["status"], &payment["amount_requested"], &payment["amount_paid"]),
        (&json!("open"), &json!(1000), &Value::Null)
    );
    let path = format!("/v1/invoices/{}", id(invoice));
    sim.post(&format!("{path}/pay"), "").await.ok();
    let paid =
        sim.get(&format!("{path}?expand[]=payments&expand[]=confirmation_secret")).await.ok();
    let payment = &paid["payments"]["data"][0];
    assert_eq!((&payment["status"], &payment["amount_paid"]), (&json!("paid"), &json!(1000)));
    assert_eq!(payment["status_transitions"]["paid_at"], json!(NOW));
    assert_eq!(paid["confirmation_secret"], Value::Null);
    sim.assert_sound().await;
    let object = sim.get(&format!("{path}?expand[]=payments.data.payment.payment_intent")).await;
    assert_eq!(object.status, 501, "{}", object.body);
}

#[tokio::test]
async fn a_price_shows_its_only_currency_as_an_option() {
    let sim = Sim::start().await;
    let price = sim.licensed_price().await;
    let shown = sim.get(&format!("/v1/prices/{price}?expand[]=currency_options")).await.ok();
    assert_eq!(shown["currency_options"]["usd"]["unit_amount"], 1000);
    sim.assert_sound().await;
    let form = "currency=usd&product_data[name]=P&custom_unit_amount[enabled]=true";
    assert_eq!(sim.post("/v1/prices", form).await.status, 501);
}
