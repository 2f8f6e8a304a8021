//! `ledger quarantine discard | count | replay`: a person decides what becomes of something that could not be counted.
//!
//! The decision is a fact on `CONTROL`, on a subject of that place alone and only if nothing stands there: it is made
//! once. The ledger takes it in like any other decision, so a rebuild ends the same.

use std::{path::Path, time::Duration};

use runtime::nats::{Nats, PublishError, publish_expecting};
use schemas::{
    ControlFact, Decision, DecisionId, Record, Resolution, Shard, TenantId, Timestamp, UsageBatch,
    UsageEvent, fact::VERSION, fact::usage::MAX_UNITS, subject,
};
use uuid::Uuid;

use super::{QuestionError, quarantine::Kept};

/// What the command line says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
    Discard {
        why: &'a str,
    },
    /// One record, as it is or as the file has it.
    Count {
        with: Option<&'a Path>,
    },
    /// A whole message, read again or as the file has it.
    Replay {
        with: Option<&'a Path>,
    },
}

/// How long the ledger is given to take the decision in.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

fn refuse<T>(why: impl Into<String>) -> Result<T, QuestionError> {
    Err(QuestionError::Asked(why.into()))
}

/// The text to read: the file's, or what is in quarantine.
fn text(kept: &Kept, with: Option<&Path>) -> Result<String, QuestionError> {
    match with {
        None => Ok(kept.payload.clone()),
        Some(file) => std::fs::read_to_string(file)
            .or_else(|error| refuse(format!("{}: {error}", file.display()))),
    }
}

/// The event in a text: an event, or a record that holds one.
fn event(text: &str) -> Result<UsageEvent, QuestionError> {
    let event = match serde_json::from_str::<Record>(text) {
        Ok(Record::Usage(event)) => event,
        Ok(_) => return refuse("this record counts for nothing: discard it"),
        Err(_) => serde_json::from_str::<UsageEvent>(text)
            .or_else(|error| refuse(format!("this is no usage event: {error}")))?,
    };
    match event.quantities.values().any(|units| units.0 > MAX_UNITS) {
        true => refuse("a quantity above 10^12: say the right one with --with"),
        false => Ok(event),
    }
}

/// What becomes of it, and whose it is.
fn resolution(
    kept: &Kept,
    wish: Wish<'_>,
    (shard, shards): (Shard, u16),
) -> Result<(Resolution, TenantId), QuestionError> {
    let nobody = TenantId(Uuid::nil());
    match wish {
        Wish::Discard { why } if why.trim().is_empty() => refuse("--why says why, in words"),
        Wish::Discard { why } => Ok((Resolution::Discarded { why: why.to_owned() }, nobody)),
        Wish::Count { .. } if kept.record == 0 => {
            refuse("this is a whole message: replay or discard it")
        }
        Wish::Count { with } => {
            let event = event(&text(kept, with)?)?;
            let tenant = event.tenant;
            if Shard::of(tenant, shards) != shard {
                return refuse(format!("{tenant} is not of shard {shard}"));
            }
            Ok((Resolution::Counted(Box::new(event)), tenant))
        }
        Wish::Replay { .. } if kept.record != 0 => {
            refuse("this is one record of a message: count or discard it")
        }
        Wish::Replay { with } => {
            let batch: UsageBatch = serde_json::from_str(&text(kept, with)?)
                .or_else(|error| refuse(format!("this is no batch of a node: {error}")))?;
            if batch.v != VERSION || batch.shard != shard || batch.first_seq == 0 {
                return refuse(format!(
                    "version {}, shard {}, first position {} cannot be read by shard {shard}",
                    batch.v, batch.shard, batch.first_seq
                ));
            }
            Ok((Resolution::Replayed(Box::new(batch)), nobody))
        }
    }
}

/// Writes the decision; returns its sequence on `CONTROL`.
///
/// # Errors
/// It cannot be decided so, it was decided before, or NATS.
pub(super) async fn decide(
    (nats, shards): (&Nats, u16),
    kept: &Kept,
    wish: Wish<'_>,
    by: &str,
) -> Result<u64, QuestionError> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let (Ok(shard), None, "LOG") = (u16::try_from(kept.shard), &kept.resolution, &*kept.stream)
    else {
        return refuse("nothing can be decided of it: it was decided before");
    };
    let (resolution, tenant) = resolution(kept, wish, (Shard(shard), shards))?;
    let (seq, record) = (unsigned(kept.seq), unsigned(kept.record));
    let fact = ControlFact::QuarantineResolved { seq, record, resolution };
    let subject = subject::control(&fact);
    let decision = Decision {
        v: VERSION,
        decision: DecisionId(Uuid::now_v7()),
        at: Timestamp::from(chrono::Utc::now()),
        by: by.to_owned(),
        tenant,
        shard: Some(Shard(shard)),
        facts: vec![fact],
    };
    let payload = serde_json::to_vec(&decision)?;
    match publish_expecting(&nats.jetstream, subject, None, payload.into(), 0).await {
        Ok(seq) => Ok(seq),
        Err(PublishError::WrongSequence) => {
            refuse("it was decided before; the ledger has not taken that in yet")
        }
        Err(error) => {
            refuse(format!("not decided, as far as is known: {error}; asking again is safe"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(record: i64, payload: &str) -> Kept {
        Kept {
            shard: 3,
            stream: "LOG".into(),
            seq: 7,
            record,
            reason: "test".into(),
            payload: payload.into(),
            resolution: None,
            resolved_seq: None,
            age_ms: 1,
        }
    }

    #[test]
    fn only_what_can_be_counted_is_decided_so() {
        #[track_caller]
        fn check(record: i64, payload: &str, wish: Wish<'_>, why: &str) {
            match resolution(&kept(record, payload), wish, (Shard(3), 16)) {
                Err(error) => assert!(error.to_string().contains(why), "{error}"),
                Ok(found) => panic!("{found:?}"),
            }
        }
        let (count, replay) = (Wish::Count { with: None }, Wish::Replay { with: None });
        check(1, "{}", Wish::Discard { why: " " }, "--why");
        check(0, "{}", count, "whole message");
        check(1, "{}", count, "no usage event");
        check(1, r#"{"type":"epoch_ended"}"#, count, "counts for nothing");
        check(1, "{}", replay, "one record");
        check(0, "{}", replay, "no batch");
        let batch = r#"{"v":1,"node":"n","epoch":1,"shard":4,"first_seq":1,"records":[]}"#;
        check(0, batch, replay, "shard 4");
        let event = include_str!("../../../schemas/golden/decision.v1/quarantine_resolved.json");
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        let mut event = event["facts"][0]["resolution"]["counted"].clone();
        let shard = Shard::of(serde_json::from_value(event["tenant"].clone()).unwrap(), 16);
        let found = resolution(&kept(1, &event.to_string()), count, (shard, 16)).unwrap();
        assert!(matches!(found.0, Resolution::Counted(_)));
        let other = resolution(&kept(1, &event.to_string()), count, (Shard(shard.0 ^ 1), 16));
        assert!(other.unwrap_err().to_string().contains("is not of shard"));
        event["quantities"]["tool_calls"] = 1_000_000_000_001u64.into();
        check(1, &event.to_string(), count, "10^12");
    }
}
