//! `ledger explain` says what the ledger would have said.

use schemas::{Access, ControlFact, KeyId, LeaseAnswer, LeaseId, LeaseRefusal, QuotaKind, Scope};
use serde_json::Value;

use super::{decided, key_created, now, quota};
use crate::world::{TestNode, World, id};

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_is_what_the_ledger_would_have_said() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(10)).await;
    let fresh = world.folded().await;
    let mut node = TestNode::new(&world, "n1");
    let mut leases = Vec::new();
    loop {
        let lease = LeaseId(id(50 + leases.len() as u128));
        match node.ask(world.key, lease, 10).await {
            LeaseAnswer::Granted(lease) => leases.push(lease),
            LeaseAnswer::Refused { why: LeaseRefusal::UnitsHeld { .. }, .. } => break,
            LeaseAnswer::Refused { why, .. } => panic!("{why:?}"),
        }
    }
    let held = world.folded().await;
    for lease in &leases {
        let units = lease.shares[0].units.0;
        node.publish((0..units).map(|_| TestNode::call(lease)).collect()).await;
        node.publish(vec![TestNode::close(lease, units)]).await;
    }
    let spent = world.folded().await;
    let key = world.key;
    let raised = decided(&mut world, vec![quota(Scope::Key(key), 20, QuotaKind::Hard)]).await;
    let access = |access, reason: &str| {
        let (tenant, reason) = (world.tenant, reason.to_owned());
        vec![ControlFact::AccessChanged { tenant, access, reason, subscription: None, plan: None }]
    };
    let (unpaid, paid) =
        (access(Access::Suspended, "payment overdue"), access(Access::Active, "paid"));
    let suspended = decided(&mut world, unpaid).await;
    let (brief, created) = key_created(&world, 8, Some(now().plus_ms(3_600_000)));
    decided(&mut world, [paid, vec![created]].concat()).await;
    let revoked = decided(&mut world, vec![ControlFact::KeyRevoked { key }]).await;

    let at = |seq: u64| explained(&world, key, vec!["--seq".into(), seq.to_string()]);
    let found = at(fresh).await;
    assert_eq!((&found["verdict"], &found["units"][0][1]), (&"would_get_lease".into(), &2.into()));
    assert_eq!(found["because"][0]["by"], "test");
    let found = at(held).await;
    assert_eq!(found["verdict"], "allowed_under_lease");
    assert_eq!(
        (&found["node"], &found["elsewhere"]["reason"]),
        (&"n1".into(), &"units_held".into())
    );
    assert_eq!(
        (&found["quotas"][0]["left"], &found["quotas"][0]["outstanding"]),
        (&0.into(), &10.into())
    );
    assert_eq!(found["leases"].as_array().unwrap().len(), leases.len());
    assert!(found["leases"][0]["granted_seq"].as_u64().unwrap() <= held);
    let found = at(spent).await;
    assert_eq!(
        (&found["verdict"], &found["reason"]),
        (&"refused".into(), &"quota_exhausted".into())
    );
    assert_eq!(found["until"], found["quotas"][0]["within"]["to"]);
    let found = at(raised).await;
    assert_eq!(
        (&found["verdict"], &found["quotas"][0]["left"]),
        (&"would_get_lease".into(), &10.into())
    );
    assert_eq!(found["quotas"][0]["because"]["what"], "quota set to 20");
    let found = at(suspended).await;
    assert_eq!(found["reason"], "suspended");
    assert_eq!(found["because"][1]["what"], "access changed: payment overdue");
    let found = at(revoked).await;
    assert_eq!(
        (&found["reason"], &found["because"][1]["what"]),
        (&"revoked".into(), &"key revoked".into())
    );
    assert!(found["because"][1]["log_seq"].as_u64().unwrap() <= revoked);

    let later = vec!["--time".to_owned(), now().plus_ms(7_200_000).to_string()];
    assert_eq!(explained(&world, brief, later).await["reason"], "expired");
    let (code, told, _) = ask_why(&world, key, &["--seq", &spent.to_string()]).await;
    assert!(code == 0 && told.starts_with("REFUSED: all 10 tool_calls"), "{told}");
    let (code, _, log) = ask_why(&world, KeyId(id(77)), &["--seq", "1"]).await;
    assert!(code == 2 && log.contains("there was no key_"), "{log}");
}

/// Units that only a lease holds which has ended, and is not settled, are nobody's to spend.
#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_lease_that_ended_unsettled_are_held() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(1)).await;
    let node = TestNode::new(&world, "n1");
    node.granted(world.key, LeaseId(id(50)), 1).await;
    world.folded().await;
    let later = vec!["--at".to_owned(), now().plus_ms(600_000).to_string()];
    let found = explained(&world, world.key, later).await;
    assert_eq!((&found["verdict"], &found["reason"]), (&"refused".into(), &"units_held".into()));
    assert_eq!(found["leases"][0]["spendable"], false);
}

async fn ask_why(world: &World, key: KeyId, args: &[&str]) -> (i32, String, String) {
    let key = key.to_string();
    world.question(&[&["explain", "--key", key.as_str()], args].concat()).await
}

async fn explained(world: &World, key: KeyId, mut args: Vec<String>) -> Value {
    args.extend(["--json".into(), "--tenant".into(), world.tenant.to_string()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, told, log) = ask_why(world, key, &args).await;
    assert_eq!(code, 0, "{log}");
    serde_json::from_str(&told).unwrap()
}
