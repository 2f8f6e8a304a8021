//! `ledger audit` and `ledger quarantine` find what tests put there.

use schemas::{LeaseId, Record, Shard, subject};
use serde_json::Value;

use super::{last_line, now, outside, publish_at};
use crate::world::{TestNode, World, eventually, id};

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_a_gap_and_a_conflict_and_forgives_a_resend() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(100)).await;
    let mut node = TestNode::new(&world, "n1");
    let lease = node.granted(world.key, LeaseId(id(50)), 20).await;
    let call = || TestNode::call(&lease);
    publish_at(&world, &mut node, 1, vec![call(), call()]).await;
    publish_at(&world, &mut node, 2, vec![call()]).await;
    world.folded().await;
    // With no grace at all, a seal that is just being folded is a lag.
    let ok = || async { world.question(&["audit", "--grace", "0"]).await.0 == 0 };
    eventually("nothing is wrong", ok).await;
    let (_, told, _) = world.question(&["audit", "--grace", "3600"]).await;
    let sum = last_line(&told);
    assert_eq!((&sum["gaps"], &sum["conflicts"], &sum["ok"]), (&0.into(), &0.into(), &true.into()));
    assert_eq!((&sum["held_units"], &sum["differences"]), (&18.into(), &Value::Null), "{told}");
    assert!(told.contains("1 records were sent again as they were"), "{told}");

    publish_at(&world, &mut node, 4, vec![call()]).await;
    let shown = last_of(&world, &node).await;
    world.folded().await;
    let (code, told, _) = world.question(&["audit", "--grace", "0"]).await;
    assert_eq!((code, &last_line(&told)["gaps"]), (1, &1.into()), "{told}");
    let line = told.lines().find(|line| line.contains("3..3")).unwrap();
    assert!(line.contains("n1") && line.ends_with(&shown.to_string()), "{told}");
    let (code, told, _) = world.question(&["audit", "--grace", "3600"]).await;
    assert_eq!(
        (code, &last_line(&told)["ok"]),
        (0, &true.into()),
        "a young gap is forgiven: {told}"
    );

    let mut other = call();
    if let Record::Usage(event) = &mut other {
        event.tool = "another".into();
    }
    publish_at(&world, &mut node, 3, vec![call(), other]).await;
    world.folded().await;
    let (code, told, _) = world.question(&["audit"]).await;
    let sum = last_line(&told);
    assert_eq!((code, &sum["gaps"], &sum["conflicts"]), (1, &0.into(), &1.into()), "{told}");
    let conflicts = told.split("conflicts:").nth(1).unwrap();
    let places: Vec<&str> = conflicts.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(
        (places[0], places[3], places[4]),
        ("n1", "4", shown.to_string().as_str()),
        "{told}"
    );
}

/// The sequence of a node's last message: the ledger's own may stand behind it.
async fn last_of(world: &World, node: &TestNode) -> u64 {
    let log = world.connection.jetstream.get_stream(subject::LOG).await.unwrap();
    let subject = subject::usage(world.shard(), &node.node);
    log.get_last_raw_message_by_subject(&subject).await.unwrap().sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_quarantine_is_listed_shown_and_fails_the_audit() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(None).await;
    let subject = subject::usage(Shard(world.shard().0), &"n9".parse().unwrap());
    let sent = world.connection.jetstream.publish(subject, "{\"v\":1,".into()).await.unwrap();
    let poison = sent.await.unwrap().sequence;
    let mut node = TestNode::new(&world, "n1");
    let too_much = outside(&world, now(), 10_u64.pow(13));
    node.publish(vec![outside(&world, now(), 1), too_much]).await;
    let seq = world.folded().await;
    let (code, list, _) = world.question(&["quarantine", "list"]).await;
    assert_eq!(code, 0);
    assert_eq!(list.lines().count(), 3, "{list}");
    let place = format!("{}/2", list_place(&list, "/2"));
    assert!(seq >= place.trim_end_matches("/2").parse().unwrap());
    let (code, shown, _) = world.question(&["quarantine", "show", &poison.to_string()]).await;
    assert!(code == 0 && shown.contains("payload  {\"v\":1,"), "{shown}");
    let (code, shown, _) = world.question(&["quarantine", "show", &place]).await;
    assert!(code == 0 && shown.contains("10000000000000"), "{shown}");
    let (code, _, log) = world.question(&["quarantine", "show", "1"]).await;
    assert!(code == 2 && log.contains("1/0 is not in quarantine"), "{log}");
    let (code, told, _) = world.question(&["audit"]).await;
    assert_eq!((code, &last_line(&told)["quarantined"]), (1, &2.into()), "{told}");
}

/// The sequence in front of a record's number.
fn list_place<'a>(list: &'a str, record: &str) -> &'a str {
    let mut words = list.split_whitespace();
    words.find_map(|word| word.strip_suffix(record)).unwrap()
}
