//! A frozen bill's fact on CONTROL: once, on a subject of its own.

use runtime::nats::{PublishError, last_on_subject, publish_expecting};
use schemas::{ControlFact, Decision, DecisionId, Period, fact::VERSION, subject};

use super::{StatementError, Statements};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        StoreError,
        statement::{
            bill::{self, Stored},
            frame,
        },
    },
};

/// Publishes a bill's fact and marks it; `true` when its statement is closed by it.
///
/// # Errors
/// `Another` when the log has a different fact of this revision; else what may pass.
pub async fn publish<P: Provider>(
    all: &Statements<P>,
    bill: Stored,
) -> Result<bool, StatementError> {
    let frame = frame(&all.pool, &bill.key).await?;
    let fact = ControlFact::StatementClosed {
        tenant: bill.key.tenant,
        subscription: bill.key.subscription.clone(),
        period: Period { from: bill.key.from, to: frame.to },
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
        }
        // It is there: ours of before a kill, or another's. Closed is closed, so they must be the same.
        Err(PublishError::WrongSequence) => same(all, &subject, &fact).await?,
        Err(error) => return Err(error.into()),
    }
    bill::mark_published(&all.pool, &bill, now()).await?;
    Ok(bill.revision == 0)
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
