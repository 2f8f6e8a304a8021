//! The fold of STRIPE: each event that matters makes us look at its customer again.
//!
//! Events of one batch that touch the same customer cost one look. Decisions are published before the checkpoint
//! moves: a kill between makes us look again and find nothing new. Absent on purpose: trusting an event's content.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use runtime::nats::Message;
use schemas::{TenantId, subject};
use sqlx::PgPool;

use crate::{
    access::{Access, Looked},
    clock::now,
    fold::{Fold, FoldError},
    store::{
        checkpoint::{self, Projection},
        quarantine::{self, Entry},
    },
    webhook::event::{self, Meaning},
};

/// Customers that are looked at at once.
const AT_ONCE: usize = 8;

/// The fold.
pub struct Work {
    pub pool: PgPool,
    pub access: Access,
    /// The mode of our account.
    pub live: bool,
}

/// The customers that a batch touches, with the tenants claimed for each and the last event that said so.
type Touched = BTreeMap<String, BTreeMap<Option<TenantId>, u64>>;

impl Fold for Work {
    const NAME: &'static str = "work";
    const PROJECTION: Projection = Projection::Stripe;
    const STREAM: &'static str = subject::STRIPE;
    const FILTERS: &'static [&'static str] = &[];

    async fn apply(&self, batch: &[Message]) -> Result<(), FoldError> {
        let (touched, mut aside) = self.read(batch);
        let looks = stream::iter(touched).map(|(customer, claims)| self.look(customer, claims));
        let found: Vec<Vec<Entry>> = looks.buffer_unordered(AT_ONCE).try_collect().await?;
        aside.extend(found.into_iter().flatten());
        let mut tx = self.pool.begin().await?;
        let done = checkpoint::lock(&mut tx, Self::PROJECTION).await?;
        quarantine::add(&mut tx, &aside, now()).await?;
        if let Some(last) = batch.last().filter(|last| last.seq > done) {
            checkpoint::advance(&mut tx, Self::PROJECTION, last.seq).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

impl Work {
    fn read(&self, batch: &[Message]) -> (Touched, Vec<Entry>) {
        let (mut touched, mut aside) = (Touched::new(), Vec::new());
        for message in batch {
            match event::read(&message.payload, self.live) {
                Ok(Meaning::Touches { customer, claim }) => {
                    touched.entry(customer).or_default().insert(claim, message.seq);
                }
                Ok(Meaning::MeterTrouble(kind)) => {
                    tracing::error!(
                        stream.seq = message.seq,
                        kind,
                        "Stripe could not use meter events that it took"
                    );
                    metrics::counter!("billing_meter_trouble_total").increment(1);
                }
                Ok(Meaning::Nothing) => {}
                Err(unusable) => aside.push(entry(message.seq, unusable.reason, unusable.detail)),
            }
        }
        (touched, aside)
    }

    async fn look(
        &self,
        customer: String,
        claims: BTreeMap<Option<TenantId>, u64>,
    ) -> Result<Vec<Entry>, FoldError> {
        let (mut aside, mut answered) = (Vec::new(), false);
        // Claims first: the look for one that holds answers the events that claim nothing, too.
        for (claim, seq) in claims.into_iter().rev() {
            if claim.is_none() && answered {
                continue;
            }
            match self.access.look(&customer, claim).await? {
                Looked::Decided(_) | Looked::Unchanged => answered = true,
                Looked::Foreign => {
                    tracing::debug!(stream.seq = seq, customer, "An event of no tenant of ours");
                }
                Looked::Refused(reason, detail) => aside.push(entry(seq, reason, detail)),
            }
        }
        Ok(aside)
    }
}

fn entry(seq: u64, reason: &'static str, detail: String) -> Entry {
    Entry { stream: subject::STRIPE, seq, reason, detail }
}
