//! The fold of LOG: every line of a sealed hour becomes one frozen report, once.
//!
//! A line is known by (tenant, meter, hour, revision): a replay changes nothing, and one with another amount stops
//! the fold, since then either the log or this database is not what it was. Lines of tenants without a customer wait
//! for it; lines that nobody is billed for are kept as such, so that the sum of all rows is all that was sealed.
//! Absent on purpose: usage itself; the ledger counts, billing only believes its seals.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use billing_core::report::Account;
use runtime::nats::Message;
use schemas::{BillingMode, Hour, MeterName, Quantity, SealLine, TenantId, subject};
use serde::Deserialize;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{
    clock::now,
    control::{BILLING_NONE, wait_until_folded},
    fold::{Fold, FoldError},
    provider::Provider,
    store::{
        checkpoint::{self, Projection},
        quarantine::{self, Entry},
        report::sealed::{self, Billed, Sealed},
        tenant::{self, Tenant},
    },
};

/// The largest amount that crosses JSON unharmed: 2^53 - 1.
const LARGEST: Quantity = Quantity((1 << 53) - 1);
/// Why a line of a meter that the provider does not know is not reportable.
const NO_METER: &str = "the provider has no such meter";

/// The fold.
pub struct Collect<P> {
    pub pool: PgPool,
    pub account: Account,
    pub provider: Arc<P>,
    /// Told when there are new reports.
    pub outbox: Arc<Notify>,
}

/// A line with the hour and place it was sealed at.
struct Line {
    hour: Hour,
    log_seq: u64,
    line: SealLine,
}

impl<P: Provider> Fold for Collect<P> {
    const NAME: &'static str = "collect";
    const PROJECTION: Projection = Projection::Log;
    const STREAM: &'static str = subject::LOG;
    const FILTERS: &'static [&'static str] = &["ledger.*"];

    async fn apply(&self, batch: &[Message]) -> Result<(), FoldError> {
        let (mut sealed, mut aside) = (Read::default(), Vec::new());
        for message in batch {
            if let Err(entry) = sealed.take(message) {
                aside.push(entry);
            }
        }
        // What the ledger had taken in when it sealed, we must know too: who is billed, and from when on.
        wait_until_folded(&self.pool, sealed.control_seq).await?;
        let mut tx = self.pool.begin().await?;
        // The fold of CONTROL holds still meanwhile: a link cannot slip between reading it and writing the lines.
        checkpoint::hold(&mut tx, Projection::Control).await?;
        let done = checkpoint::lock(&mut tx, Self::PROJECTION).await?;
        let tenants: BTreeSet<TenantId> =
            sealed.lines.iter().map(|line| line.line.tenant).collect();
        let known = tenant::read_many(&mut tx, &tenants.into_iter().collect::<Vec<_>>()).await?;
        let rows: Vec<Sealed> =
            sealed.lines.into_iter().map(|line| self.row(&known, line)).collect();
        if let Some(conflict) = sealed::insert(&mut tx, &self.account, &rows, now()).await? {
            return Err(FoldError::Stop(format!(
                "a sealed line came again with another amount: {conflict:?}"
            )));
        }
        quarantine::add(&mut tx, &aside, now()).await?;
        if let Some(last) = batch.last().filter(|last| last.seq > done) {
            checkpoint::advance(&mut tx, Self::PROJECTION, last.seq).await?;
        }
        tx.commit().await?;
        metrics::counter!("billing_lines_collected_total")
            .increment(u64::try_from(rows.len()).unwrap_or(0));
        if !rows.is_empty() {
            self.outbox.notify_one();
        }
        Ok(())
    }
}

impl<P: Provider> Collect<P> {
    fn row(&self, known: &HashMap<TenantId, Tenant>, line: Line) -> Sealed {
        let Line { hour, log_seq, line } = line;
        let billed = self.billed(known.get(&line.tenant), &line.meter);
        let SealLine { tenant, meter, revision, delta, .. } = line;
        Sealed { tenant, meter, hour, revision, quantity: delta, log_seq, billed }
    }

    fn billed(&self, tenant: Option<&Tenant>, meter: &MeterName) -> Billed {
        match tenant {
            _ if !self.provider.takes(meter) => Billed::Nobody(NO_METER),
            Some(Tenant { billing: BillingMode::None, .. }) if !self.provider.names_customers() => {
                Billed::Nobody(BILLING_NONE)
            }
            Some(Tenant { customer: Some(customer), billed_from: from, .. }) => {
                Billed::To { customer: customer.clone(), from: *from }
            }
            Some(Tenant { customer: None, .. }) | None => Billed::Later,
        }
    }
}

/// A `schemas::LedgerBatch`, of which only this is read: a fact that a newer ledger adds beside a sealed hour must not
/// keep the hour from being billed.
#[derive(Deserialize)]
struct Facts {
    facts: Vec<Fact>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Fact {
    ControlTaken {
        control_seq: u64,
    },
    ControlUnreadable {
        control_seq: u64,
    },
    HourSealed {
        hour: Hour,
        lines: Vec<SealLine>,
    },
    #[serde(other)]
    Other,
}

/// What a batch of the ledger's messages says.
#[derive(Default)]
struct Read {
    lines: Vec<Line>,
    /// The latest message of CONTROL that the ledger had taken in.
    control_seq: u64,
}

impl Read {
    /// Takes in a message whole, or not at all.
    fn take(&mut self, message: &Message) -> Result<(), Entry> {
        let aside = |detail: String| Entry {
            stream: subject::LOG,
            seq: message.seq,
            reason: "unreadable",
            detail,
        };
        let batch: Facts =
            serde_json::from_slice(&message.payload).map_err(|error| aside(error.to_string()))?;
        let mut found = Vec::new();
        for fact in batch.facts {
            match fact {
                Fact::ControlTaken { control_seq } | Fact::ControlUnreadable { control_seq } => {
                    self.control_seq = self.control_seq.max(control_seq);
                }
                Fact::HourSealed { hour, lines } => {
                    for line in lines {
                        check(&line).map_err(&aside)?;
                        found.push(Line { hour, log_seq: message.seq, line });
                    }
                }
                Fact::Other => {}
            }
        }
        self.lines.extend(found);
        Ok(())
    }
}

fn check(line: &SealLine) -> Result<(), String> {
    let SealLine { tenant, revision, delta, .. } = line;
    let sound = *delta > Quantity::ZERO && *delta <= LARGEST && (1..=LARGEST.0).contains(revision);
    if sound {
        Ok(())
    } else {
        Err(format!("a line of {tenant} with revision {revision} and delta {}", delta.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_the_ledger_reads_also_one_of_tomorrow() {
        for sample in [
            include_str!("../../schemas/golden/ledger_batch.v1/control_taken.json"),
            include_str!("../../schemas/golden/ledger_batch.v1/leases.json"),
            include_str!("../../schemas/golden/ledger_batch.v1/notices.json"),
        ] {
            assert!(serde_json::from_str::<Facts>(sample).is_ok(), "{sample}");
        }
        let hours = include_str!("../../schemas/golden/ledger_batch.v1/hours.json");
        let newer =
            hours.replacen("\"facts\": [", "\"facts\": [{\"type\": \"of_tomorrow\", \"x\": 1},", 1);
        assert_ne!(newer, hours);
        let read: Facts = serde_json::from_str(&newer).unwrap();
        let sealed = read.facts.iter().filter(|fact| matches!(fact, Fact::HourSealed { .. }));
        assert_eq!((sealed.count(), read.facts.len()), (2, 3));
    }
}
