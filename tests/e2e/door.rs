//! Who and what is turned away at the node's door, and that none of it is billed.

use plant::{PlantSettings, wait_for_ties};
use serde_json::json;
use stack::Part;

use crate::world::{RawClient, TIMEOUT, eventually, message, subscribed};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_malformed_and_revoked_keys_look_the_same() {
    let (plant, demo) = subscribed(PlantSettings::default(), 10).await;
    let admin = plant.admin_api();
    admin.post(&format!("/admin/api-keys/{}/revoke", demo.roomy.id), &json!({})).await.unwrap();
    let revoked = || async {
        RawClient::new(&plant, 0).header("x-api-key", &demo.roomy.secret).echo(1).await.status()
            == 401
    };
    eventually("the revocation reaches the node", revoked).await;
    let unknown = schemas::secret::write([7; 32]);
    let mut bodies = Vec::new();
    for secret in [demo.roomy.secret.as_str(), unknown.as_str(), "nonsense", ""] {
        for name in ["x-api-key", "authorization"] {
            let value = if name == "authorization" {
                format!("Bearer {secret}")
            } else {
                secret.to_owned()
            };
            let answer = RawClient::new(&plant, 0).header(name, &value).echo(7).await;
            assert_eq!(answer.status(), 401, "{name}: {secret}");
            let error = message(&answer);
            assert_eq!(error["jsonrpc"], "2.0", "{error}");
            bodies.push(error["error"].clone());
        }
    }
    assert_eq!(RawClient::new(&plant, 0).echo(7).await.status(), 401);
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "no hint which: {bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_no_json_is_refused() {
    let (plant, demo) = subscribed(PlantSettings::default(), 10).await;
    let client = RawClient::new(&plant, 0).header("x-api-key", &demo.roomy.secret);
    assert_eq!(client.post(vec![b' '; 5 * 1024 * 1024 + 1]).await.status(), 413);
    for body in ["", "{", "nonsense", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":"] {
        let answer = client.post(body.to_owned()).await;
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(message(&answer)["error"]["code"], -32700, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_does_not_answer_is_not_billed() {
    let (mut plant, demo) = subscribed(PlantSettings::default(), 10).await;
    let client = RawClient::new(&plant, 0).session(&demo.limited.secret).await;
    let good = client.echo(1).await;
    assert_eq!(good.status(), 200);
    assert!(message(&good)["result"].is_object());
    // An error of the tool, an unknown tool: answered, free.
    let failing =
        client.rpc(2, "tools/call", json!({ "name": "get-sum", "arguments": { "a": "x" } })).await;
    let failing = message(&failing);
    assert!(failing["result"]["isError"] == true || failing["error"].is_object(), "{failing}");
    let unknown = message(&client.rpc(3, "tools/call", json!({ "name": "no-such-tool" })).await);
    assert!(unknown["result"]["isError"] == true || unknown["error"].is_object(), "{unknown}");
    plant.mcp_server.kill().await.unwrap();
    let down = client.echo(4).await;
    assert!(message(&down)["error"]["code"].is_i64(), "{:?}", down.body());
    plant.mcp_server.start_again().await.unwrap();
    let ties = wait_for_ties(&plant, &demo.tenant, (1, 0), TIMEOUT).await;
    ties.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_why_and_until_when() {
    let (plant, demo) = subscribed(PlantSettings::default(), 2).await;
    let client = RawClient::new(&plant, 0).session(&demo.limited.secret).await;
    for id in 1..=2 {
        assert_eq!(client.echo(id).await.status(), 200);
    }
    let refused = client.echo(3).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let error = message(&refused);
    assert_eq!(error["id"], 3);
    assert!(!(-32768..=-32000).contains(&error["error"]["code"].as_i64().unwrap()), "{error}");
    assert_eq!(error["error"]["data"]["reason"], "quota_exhausted", "{error}");
    assert_eq!(error["error"]["data"]["limit"], 2, "{error}");
    assert_eq!(client.rpc(4, "tools/list", json!({})).await.status(), 200, "what is free goes on");
}
