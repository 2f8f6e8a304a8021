//! One message of `LOG`: a node's batch, the ledger's own facts, or something that cannot be read. Pure.
//!
//! A batch is taken whole or not at all: what one reader leaves out of it another could not tell from a loss.

use schemas::{
    ControlFact, LedgerBatch, LedgerFact, Resolution, UsageBatch, fact::VERSION, subject,
};
use serde::Deserialize;

/// What a message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    Usage(UsageBatch),
    /// The ledger's facts: of them, what a person let out of quarantine is ours to keep.
    Ledger(Vec<Resolution>),
    Unreadable(Unreadable),
}

/// Why a message goes to quarantine.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// A stable word.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

/// Reads a message.
pub fn read(subject: &str, payload: &[u8]) -> Content {
    let read = if subject.starts_with("ledger.") {
        released(payload).map(Content::Ledger)
    } else {
        usage(subject, payload).map(Content::Usage)
    };
    read.unwrap_or_else(Content::Unreadable)
}

/// What the ledger's message lets out of quarantine; most hold nothing of that and are not read.
fn released(payload: &[u8]) -> Result<Vec<Resolution>, Unreadable> {
    if memchr::memmem::find(payload, b"quarantine_resolved").is_none() {
        return Ok(Vec::new());
    }
    let batch: LedgerBatch = serde_json::from_slice(payload)
        .map_err(|error| Unreadable { reason: "json", detail: error.to_string() })?;
    let decisions = batch.facts.into_iter().filter_map(|fact| match fact {
        LedgerFact::ControlTaken { decision, .. } => Some(decision.facts),
        _ => None,
    });
    let resolved = decisions.flatten().filter_map(|fact| match fact {
        ControlFact::QuarantineResolved { resolution, .. } => Some(resolution),
        _ => None,
    });
    Ok(resolved.collect())
}

fn usage(subject: &str, payload: &[u8]) -> Result<UsageBatch, Unreadable> {
    let refuse = |reason, detail| Err(Unreadable { reason, detail });
    let batch: UsageBatch = match serde_json::from_slice(payload) {
        Ok(batch) => batch,
        Err(error) => return Err(not_a_batch(payload, &error)),
    };
    if batch.v != VERSION {
        return refuse("version", format!("version {} where {VERSION} is known", batch.v));
    }
    if subject != subject::usage(batch.shard, &batch.node) {
        return refuse(
            "subject",
            format!("node {} and shard {} on {subject}", batch.node, batch.shard),
        );
    }
    let len = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
    if len == 0 || batch.first_seq == 0 || batch.first_seq.checked_add(len).is_none() {
        return refuse("positions", format!("{len} records from position {}", batch.first_seq));
    }
    Ok(batch)
}

/// Tells a newer version from what is no batch at all.
fn not_a_batch(payload: &[u8], error: &serde_json::Error) -> Unreadable {
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    match serde_json::from_slice::<Version>(payload) {
        Ok(Version { v }) if v != VERSION => Unreadable {
            reason: "version",
            detail: format!("version {v} where {VERSION} is known"),
        },
        _ => Unreadable { reason: "json", detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(v: u8, first_seq: u64, record: &str) -> String {
        format!(
            r#"{{"v":{v},"node":"n1","epoch":7,"shard":3,"first_seq":{first_seq},"records":[{record}]}}"#
        )
    }

    const ENDED: &str = r#"{"type":"epoch_ended"}"#;

    #[test]
    fn only_a_whole_batch_on_its_own_subject_is_usage() {
        #[track_caller]
        fn check(subject: &str, payload: &str, reason: &str) {
            match read(subject, payload.as_bytes()) {
                Content::Unreadable(found) => assert_eq!(found.reason, reason, "{}", found.detail),
                other => panic!("{payload} was read as {other:?}"),
            }
        }
        let refused = |at: i64| {
            let ids = r#""tenant":"tnt_00000000000000000000000000000001","project":"prj_00000000000000000000000000000001","key":"key_00000000000000000000000000000001""#;
            format!(
                r#"{{"type":"refused","at":{at},{ids},"tool":"t","reason":"rate_limited","calls":2}}"#
            )
        };
        check("usage.3.n1", "", "json");
        check("usage.3.n1", "{\"v\":1}", "json");
        check("usage.3.n1", "{\"v\":2,\"records\":\"new shape\"}", "version");
        check("usage.3.n1", &batch(2, 1, ENDED), "version");
        check("usage.4.n1", &batch(1, 1, ENDED), "subject");
        check("usage.3.n2", &batch(1, 1, ENDED), "subject");
        check("usage.3.n1", &batch(1, 0, ENDED), "positions");
        check("usage.3.n1", &batch(1, 1, ""), "positions");
        check("usage.3.n1", &batch(1, u64::MAX, ENDED), "positions");
        check("usage.3.n1", &batch(1, 1, r#"{"type":"of_tomorrow"}"#), "json");
        let good = batch(1, 1, &refused(i64::MAX));
        assert!(matches!(read("usage.3.n1", good.as_bytes()), Content::Usage(_)));
        assert!(matches!(read("usage.3.n1", batch(1, 9, ENDED).as_bytes()), Content::Usage(_)));
    }

    #[test]
    fn what_the_ledger_writes_is_its_own() {
        assert_eq!(read("ledger.3", b"anything"), Content::Ledger(vec![]));
        let sample = include_str!("../../schemas/golden/decision.v1/quarantine_resolved.json");
        let fact = format!(
            r#"{{"v":1,"shard":3,"at":1,"facts":[{{"type":"control_taken","control_seq":1,"decision":{sample}}}]}}"#
        );
        let Content::Ledger(released) = read("ledger.3", fact.as_bytes()) else { panic!("{fact}") };
        assert!(matches!(released.as_slice(), [Resolution::Counted(_)]), "{released:?}");
    }
}
