//! The fold of STRIPE: each event that matters makes us look at its customer again.
//!
//! Events of one batch that touch the same customer cost one look. Decisions are published before the checkpoint
//! moves: a kill between makes us look again and find nothing new. Absent on purpose: trusting an event's content.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use billing_core::term::Sighting;
use futures::{StreamExt, TryStreamExt, stream};
use runtime::nats::Message;
use schemas::{TenantId, subject};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{
    access::{Access, Looked},
    clock::now,
    fold::{Fold, FoldError},
    store::{
        StoreError,
        checkpoint::{self, Projection},
        invoice::{self as invoices, Invoice},
        price as prices,
        quarantine::{self, Entry},
        report::outbox,
        statement, subscribed,
    },
    stripe::{self, StripeError, event::unusable, invoice, price},
    webhook::event::{self, Meaning},
};

/// Customers that are looked at at once.
const AT_ONCE: usize = 8;

/// The fold.
pub struct Work {
    pub pool: PgPool,
    pub access: Access,
    pub stripe: stripe::Client,
    /// Told when an invoice was read.
    pub statements: Arc<Notify>,
    /// The mode of our account.
    pub live: bool,
}

/// The customers that a batch touches, with the tenants claimed for each and the last event that said so.
type Touched = BTreeMap<String, BTreeMap<Option<TenantId>, u64>>;

/// What a batch of events asks for.
#[derive(Default)]
struct Asked {
    touched: Touched,
    /// Plans that subscriptions were on.
    seen: Vec<(String, Sighting)>,
    /// Invoices to read again, and the last event that said so.
    invoices: BTreeMap<String, u64>,
    /// Thin events that say which reports Stripe could not use.
    troubles: BTreeMap<String, u64>,
    aside: Vec<Entry>,
}

impl Fold for Work {
    const NAME: &'static str = "work";
    const PROJECTION: Projection = Projection::Stripe;
    const STREAM: &'static str = subject::STRIPE;
    const FILTERS: &'static [&'static str] = &[];

    async fn apply(&self, batch: &[Message]) -> Result<(), FoldError> {
        let Asked { touched, seen, invoices, troubles, mut aside } = self.read(batch);
        for (subscription, sighting) in &seen {
            subscribed::saw(&self.pool, subscription, sighting).await?;
        }
        let looks = stream::iter(touched).map(|(customer, claims)| self.look(customer, claims));
        let found: Vec<Vec<Entry>> = looks.buffer_unordered(AT_ONCE).try_collect().await?;
        aside.extend(found.into_iter().flatten());
        // After the looks: whose subscription an invoice is of is known then.
        let has_invoices = !invoices.is_empty();
        let reads = stream::iter(invoices).map(|(id, seq)| self.read_invoice(id, seq));
        let unread: Vec<Option<Entry>> = reads.buffer_unordered(AT_ONCE).try_collect().await?;
        aside.extend(unread.into_iter().flatten());
        for (event, seq) in troubles {
            aside.extend(self.mark_unusable(&event, seq).await?);
        }
        let mut tx = self.pool.begin().await?;
        let done = checkpoint::lock(&mut tx, Self::PROJECTION).await?;
        quarantine::add(&mut tx, &aside, now()).await?;
        if let Some(last) = batch.last().filter(|last| last.seq > done) {
            checkpoint::advance(&mut tx, Self::PROJECTION, last.seq).await?;
        }
        tx.commit().await?;
        if has_invoices {
            self.statements.notify_one();
        }
        Ok(())
    }
}

impl Work {
    fn read(&self, batch: &[Message]) -> Asked {
        let mut asked = Asked::default();
        for message in batch {
            match event::read(&message.payload, self.live) {
                Ok(Meaning::Touches { customer, claim, seen, invoice }) => {
                    asked.touched.entry(customer).or_default().insert(claim, message.seq);
                    asked.seen.extend(seen);
                    asked.invoices.extend(invoice.map(|invoice| (invoice, message.seq)));
                }
                Ok(Meaning::MeterTrouble { kind, event }) => {
                    asked.troubles.insert(event, message.seq);
                    tracing::error!(
                        stream.seq = message.seq,
                        kind,
                        "Stripe could not use meter events that it took"
                    );
                    metrics::counter!("billing_meter_trouble_total").increment(1);
                }
                Ok(Meaning::Nothing) => {}
                Err(unusable) => {
                    asked.aside.push(entry(message.seq, unusable.reason, unusable.detail));
                }
            }
        }
        asked
    }

    /// Marks the reports that a thin event names as refused: Stripe had taken them and could not use them.
    async fn mark_unusable(&self, event: &str, seq: u64) -> Result<Option<Entry>, FoldError> {
        let named = match unusable(&self.stripe, event).await {
            Ok(named) => named,
            Err(error) if error.is_final() => {
                return Ok(Some(entry(seq, "unreadable_event", error.to_string())));
            }
            Err(error) => {
                return Err(FoldError::Later("a thin event cannot be read", Box::new(error)));
            }
        };
        for one in named {
            let identifier = one.key.split('#').next().unwrap_or_default();
            if outbox::refuse_accepted(&self.pool, identifier, &one.code, now()).await? {
                tracing::error!(
                    report.id = identifier,
                    code = one.code,
                    "A report was taken and refused later"
                );
                metrics::counter!("billing_reports_total", "outcome" => "refused_later")
                    .increment(1);
            }
        }
        Ok(None)
    }

    /// Reads an invoice again, keeps it if it is final, and wakes the statements that wait for it.
    async fn read_invoice(&self, id: String, seq: u64) -> Result<Option<Entry>, FoldError> {
        let later =
            |error: StripeError| FoldError::Later("an invoice cannot be read", Box::new(error));
        let found = match invoice::read(&self.stripe, &id).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) if error.is_final() => {
                return Ok(Some(entry(seq, "unreadable_invoice", error.to_string())));
            }
            Err(error) => return Err(later(error)),
        };
        keep_invoice(&self.pool, &self.stripe, &found).await.map_err(|error| match error {
            Unkept::Store(error) => error.into(),
            Unkept::Stripe(error) => later(error),
        })?;
        Ok(None)
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

/// Why an invoice was not kept.
#[derive(Debug, thiserror::Error)]
pub enum Unkept {
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("Stripe")]
    Stripe(#[from] StripeError),
}

/// Keeps a final invoice with what its prices stand for, and wakes the statements that wait for it.
///
/// # Errors
/// What may pass.
pub async fn keep_invoice(
    pool: &PgPool,
    stripe: &stripe::Client,
    found: &Invoice,
) -> Result<(), Unkept> {
    // The prices first: whoever finds the invoice finds them too.
    for id in found.lines.iter().filter_map(|line| line.price.as_deref()) {
        if prices::read(pool, id).await?.is_none()
            && let Some(price) = price::read(stripe, id).await?
        {
            prices::remember(pool, &price).await?;
        }
    }
    invoices::remember(pool, found).await?;
    let mut of: BTreeSet<&str> =
        found.lines.iter().filter_map(|line| line.subscription.as_deref()).collect();
    of.extend(found.subscription.as_deref());
    for subscription in of {
        statement::wake(pool, subscription, now()).await?;
    }
    Ok(())
}

fn entry(seq: u64, reason: &'static str, detail: String) -> Entry {
    Entry { stream: subject::STRIPE, seq, reason, detail }
}
