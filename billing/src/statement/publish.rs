//! Frozen bills' facts on CONTROL: each once, on a subject of its own.

use std::{collections::HashMap, pin::pin};

use futures::{StreamExt, stream};
use runtime::nats::{PublishError, last_on_subject, publish_expecting};
use schemas::{ControlFact, Decision, DecisionId, fact::VERSION, subject};

use super::{StatementError, Statements};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        StoreError,
        statement::{
            self, Frame, Key,
            bill::{self, Stored},
        },
    },
};

/// Facts that wait for their acknowledgement at once.
const WINDOW: usize = 256;

/// Publishes bills' facts side by side and marks those that are there; gives how many statements are closed by it.
///
/// # Errors
/// `Another` when the log has a different fact of a revision; else what may pass. What is there is marked before.
pub async fn publish<P: Provider>(
    all: &Statements<P>,
    bills: &[Stored],
) -> Result<usize, StatementError> {
    if bills.is_empty() {
        return Ok(0);
    }
    let keys: Vec<&Key> = bills.iter().map(|bill| &bill.key).collect();
    let frames = statement::frames(&all.pool, &keys).await?;
    let frames: HashMap<&Key, &Frame> = frames.iter().map(|frame| (&frame.key, frame)).collect();
    let framed = bills.iter().filter_map(|bill| Some((bill, *frames.get(&bill.key)?)));
    let sent = stream::iter(framed)
        .map(async |(bill, frame)| send(all, bill, frame).await.map(|()| bill))
        .buffer_unordered(WINDOW);
    let (mut there, mut failed) = (Vec::with_capacity(bills.len()), None);
    let mut sent = pin!(sent);
    while let Some(one) = sent.next().await {
        match one {
            Ok(bill) => there.push(bill),
            Err(error) => failed = Some(error),
        }
    }
    bill::mark_published(&all.pool, &there, now()).await?;
    match failed {
        Some(error) => Err(error),
        None => Ok(there.iter().filter(|bill| bill.revision == 0).count()),
    }
}

/// Sees to it that a bill's fact is on CONTROL.
async fn send<P: Provider>(
    all: &Statements<P>,
    bill: &Stored,
    frame: &Frame,
) -> Result<(), StatementError> {
    let fact = ControlFact::StatementClosed {
        tenant: bill.key.tenant,
        subscription: bill.key.subscription.clone(),
        period: frame.period(),
        revision: bill.revision,
        bill: if bill.text.is_empty() { String::new() } else { bill.digest.clone() },
        currency: frame.currency.clone(),
        total_minor: bill.total.units(),
        units: bill.units,
        invoice: frame.invoice.clone(),
    };
    let subject = subject::control(&fact);
    let decision = Decision {
        v: VERSION,
        decision: DecisionId(uuid::Uuid::now_v7()),
        at: now(),
        by: "billing".to_owned(),
        tenant: bill.key.tenant,
        shard: None,
        facts: vec![fact.clone()],
    };
    let payload = serde_json::to_vec(&decision).expect("a decision has only text keys");
    match publish_expecting(&all.nats.jetstream, subject.clone(), None, payload.into(), 0).await {
        Ok(seq) => {
            tracing::info!(tenant.id = %bill.key.tenant, stream.seq = seq, revision = bill.revision, "Closed a statement");
            metrics::counter!("billing_statements_closed_total").increment(1);
            Ok(())
        }
        // It is there: ours of before a kill, or another's. Closed is closed, so they must be the same.
        Err(PublishError::WrongSequence) => same(all, &subject, &fact).await,
        Err(error) => Err(error.into()),
    }
}

async fn same<P: Provider>(
    all: &Statements<P>,
    subject: &str,
    fact: &ControlFact,
) -> Result<(), StatementError> {
    let there = last_on_subject(&all.nats.jetstream, subject::CONTROL, subject).await?;
    let there = there.and_then(|message| serde_json::from_slice::<Decision>(&message.payload).ok());
    if there.is_some_and(|decision| decision.facts == [fact.clone()]) {
        return Ok(());
    }
    let error = StatementError::Another(subject.to_owned());
    tracing::error!(
        subject,
        "A closed statement is on CONTROL that is not ours: a person must look"
    );
    Err(error)
}

impl From<sqlx::Error> for StatementError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::from(error))
    }
}
