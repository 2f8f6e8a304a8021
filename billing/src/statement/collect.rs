//! A correction at Stripe: what is owed more goes on the next invoice, what is owed less is given back; each once.
//!
//! Written ahead, then sent under a key of its own. Within 23 hours the same key finds what was made; after that what
//! was made is looked for by the key in its metadata before anything is sent again.

use billing_core::{money::Minor, report::RETRY_FOR_MS};
use schemas::Period;

use super::{StatementError, Statements};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        invoice,
        statement::{
            Frame,
            bill::{self, Collection, Stored},
            frame,
        },
        subscribed,
    },
    stripe::{
        StripeError,
        correction::{self, Told},
    },
};

/// Brings one correction to Stripe; `true` = it is there.
///
/// # Errors
/// What may pass; the correction stands where it stood, or as sent.
pub async fn collect<P: Provider>(
    all: &Statements<P>,
    stored: Stored,
) -> Result<bool, StatementError> {
    let frame = frame(&all.pool, &stored.key).await?;
    let key = stored.correction_key();
    let on = subscription_on(all, &stored).await?;
    let description = format!("Correction {} of {}", stored.revision, days(frame.period()));
    let told = Told {
        key: &key,
        customer: &frame.customer,
        subscription: on.as_deref(),
        currency: &frame.currency,
        period: frame.period(),
        description: &description,
    };
    let first = stored.sent_at;
    if first.is_some_and(|first| now().ms_since(first) >= RETRY_FOR_MS)
        && let Some(found) = correction::find(&all.stripe, &told).await?
    {
        return settle(all, &stored, &found).await;
    }
    let sent = Stored { collection: Collection::Sent, ..stored.clone() };
    if !bill::collect(&all.pool, &stored, Collection::Sent, Some(now()), None, "").await? {
        return Ok(false);
    }
    match send(all, &frame, &told, stored.difference).await {
        Ok(id) => settle(all, &sent, &id).await,
        Err(error) if error.is_final() => {
            let said: String = error.to_string().chars().take(300).collect();
            tracing::error!(tenant.id = %stored.key.tenant, said, "A correction was refused: a person must look");
            bill::collect(&all.pool, &sent, Collection::Refused, None, None, &said).await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The subscription on whose next invoice a correction goes: its own while it lives, else the tenant's newest that does.
async fn subscription_on<P: Provider>(
    all: &Statements<P>,
    stored: &Stored,
) -> Result<Option<String>, StatementError> {
    let mut of_tenant = subscribed::of_tenant(&all.pool, stored.key.tenant).await?;
    of_tenant.retain(|one| one.ended_at.is_none() && !one.never_began());
    let own = of_tenant.iter().find(|one| one.subscription == stored.key.subscription);
    Ok(own.or(of_tenant.last()).map(|one| one.subscription.clone()))
}

async fn send<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    told: &Told<'_>,
    difference: Minor,
) -> Result<String, StripeError> {
    let back = Minor::ZERO.checked_sub(difference).unwrap_or(Minor::ZERO);
    let invoice = match &frame.invoice {
        Some(invoice) if difference < Minor::ZERO => {
            invoice::money(&all.pool, invoice).await.ok().flatten().map(|money| (invoice, money))
        }
        _ => None,
    };
    match invoice {
        // A note cannot be larger than its invoice, nor of one that asks for nothing any more.
        Some((invoice, (status, total)))
            if back <= total && (status == "open" || status == "paid") =>
        {
            correction::give_back(&all.stripe, told, invoice, status == "paid", back).await
        }
        _ => correction::add_item(&all.stripe, told, difference).await,
    }
}

async fn settle<P: Provider>(
    all: &Statements<P>,
    stored: &Stored,
    id: &str,
) -> Result<bool, StatementError> {
    let to = if id.starts_with("cn_") { Collection::Credited } else { Collection::Issued };
    bill::collect(&all.pool, stored, to, None, Some(id), "").await?;
    tracing::info!(tenant.id = %stored.key.tenant, id, "A correction is at Stripe");
    Ok(true)
}

fn days(period: Period) -> String {
    let day = |at: schemas::Timestamp| at.to_utc().format("%Y-%m-%d").to_string();
    format!("{} to {}", day(period.from), day(period.to))
}
