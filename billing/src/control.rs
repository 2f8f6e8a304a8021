//! The fold of CONTROL: which tenants there are, how they are billed, whose customer they are, what was decided.
//!
//! The only writer of `tenant`. A link also gives its customer to the tenant's lines that were sealed before it.
//! Absent on purpose: projects, keys and quotas, which are not billing's.

use std::{sync::Arc, time::Duration};

use billing_core::{access::Standing, report::Account};
use runtime::nats::{Message, Nats, last_on_subject};
use schemas::{BillingMode, ControlFact, Decision, TenantId, subject};
use sqlx::{PgPool, PgTransaction};
use tokio::sync::Notify;

use crate::{
    clock::now,
    fold::{Fold, FoldError},
    store::{
        StoreError,
        checkpoint::{self, Projection},
        quarantine::{self, Entry},
        report::sealed,
        tenant::{self, Tenant},
    },
};

/// The provider's name in `customer_linked` facts.
pub const PROVIDER: &str = "stripe";
/// Why a line of a tenant without billing is not reportable.
pub const BILLING_NONE: &str = "the tenant is not billed";

/// The fold.
pub struct Control {
    pub pool: PgPool,
    pub account: Account,
    /// See `Provider::names_customers`.
    pub names_customers: bool,
    /// Told when lines have got a customer.
    pub outbox: Arc<Notify>,
}

impl Fold for Control {
    const NAME: &'static str = "control";
    const PROJECTION: Projection = Projection::Control;
    const STREAM: &'static str = subject::CONTROL;
    const FILTERS: &'static [&'static str] = &[];

    async fn apply(&self, batch: &[Message]) -> Result<(), FoldError> {
        let mut tx = self.pool.begin().await?;
        let done = checkpoint::lock(&mut tx, Self::PROJECTION).await?;
        let fresh: Vec<&Message> = batch.iter().filter(|message| message.seq > done).collect();
        self.take_all(&mut tx, &fresh).await?;
        if let Some(last) = fresh.last() {
            checkpoint::advance(&mut tx, Self::PROJECTION, last.seq).await?;
        }
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(())
    }

    async fn apply_again(&self, message: &Message) -> Result<(), FoldError> {
        let mut tx = self.pool.begin().await?;
        checkpoint::lock(&mut tx, Self::PROJECTION).await?;
        self.take_all(&mut tx, &[message]).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(())
    }
}

impl Control {
    async fn take_all(
        &self,
        tx: &mut PgTransaction<'_>,
        messages: &[&Message],
    ) -> Result<(), StoreError> {
        let mut aside = Vec::new();
        for message in messages {
            match serde_json::from_slice::<Decision>(&message.payload) {
                Ok(decision) => aside.extend(self.take(tx, message, &decision).await?),
                Err(error) => aside.push(set_aside(message, "unreadable", error.to_string())),
            }
        }
        quarantine::add(tx, &aside, now()).await
    }

    async fn take(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Message,
        decision: &Decision,
    ) -> Result<Vec<Entry>, StoreError> {
        let (mut link, mut aside) = (None, Vec::new());
        for fact in &decision.facts {
            match fact {
                ControlFact::TenantCreated { tenant, billing, .. } => {
                    tenant::create(tx, *tenant, *billing).await?;
                    if self.names_customers {
                        aside.extend(self.link(tx, message, *tenant, &tenant.to_string()).await?);
                    } else if *billing == BillingMode::None {
                        sealed::bill_nobody(tx, *tenant, BILLING_NONE).await?;
                    }
                }
                ControlFact::CustomerLinked { tenant, provider, customer }
                    if provider == PROVIDER && !self.names_customers =>
                {
                    link = Some((*tenant, customer));
                }
                ControlFact::AccessChanged { tenant, access, reason, subscription, plan } => {
                    let standing = Standing {
                        access: *access,
                        reason: reason.clone(),
                        subscription: subscription.clone(),
                        plan: plan.clone(),
                    };
                    tenant::set_standing(tx, *tenant, &standing, message.seq).await?;
                }
                ControlFact::CustomerLinked { .. }
                | ControlFact::ProjectCreated { .. }
                | ControlFact::KeyCreated { .. }
                | ControlFact::KeyRevoked { .. }
                | ControlFact::KeyRotated { .. }
                | ControlFact::KeyRateSet { .. }
                | ControlFact::QuarantineResolved { .. }
                | ControlFact::StatementClosed { .. }
                | ControlFact::QuotaSet { .. }
                | ControlFact::QuotaRemoved { .. } => {}
            }
        }
        if message.subject == subscription_subject(decision.tenant) {
            tenant::set_decided(tx, decision.tenant, message.seq).await?;
        }
        // After the rest of the decision, which says from when on the customer is billed.
        if let Some((tenant, customer)) = link {
            aside.extend(self.link(tx, message, tenant, customer).await?);
        }
        Ok(aside)
    }

    async fn link(
        &self,
        tx: &mut PgTransaction<'_>,
        message: &Message,
        tenant: TenantId,
        customer: &str,
    ) -> Result<Option<Entry>, StoreError> {
        if !tenant::link(tx, tenant, customer).await? {
            let detail = format!("{customer} is another tenant's, or {tenant} is unknown");
            return Ok(Some(set_aside(message, "link_refused", detail)));
        }
        let from = tenant::read_many(tx, &[tenant])
            .await?
            .remove(&tenant)
            .and_then(|tenant| tenant.billed_from);
        let lines = sealed::give_customer(tx, &self.account, tenant, customer, from).await?;
        tracing::info!(tenant.id = %tenant, lines, "Linked a customer");
        Ok(None)
    }
}

/// The subject that a tenant's subscription decisions are published on.
#[must_use]
pub fn subscription_subject(tenant: TenantId) -> String {
    // By way of a fact, so that this can never part from where the fact is published.
    subject::control(&ControlFact::CustomerLinked {
        tenant,
        provider: String::new(),
        customer: String::new(),
    })
}

/// The subject that a tenant's creation is published on.
#[must_use]
pub fn tenant_subject(tenant: TenantId) -> String {
    let (name, time_zone, billing) = (String::new(), String::new(), BillingMode::None);
    subject::control(&ControlFact::TenantCreated { tenant, name, time_zone, billing })
}

fn set_aside(message: &Message, reason: &'static str, detail: String) -> Entry {
    Entry { stream: subject::CONTROL, seq: message.seq, reason, detail }
}

/// A tenant with everything folded in that CONTROL says of it now; `None` = CONTROL knows no such tenant.
///
/// # Errors
/// Only what may pass.
pub async fn current_tenant(
    pool: &PgPool,
    nats: &Nats,
    id: TenantId,
) -> Result<Option<Tenant>, FoldError> {
    for subject in [tenant_subject(id), subscription_subject(id)] {
        let last = last_on_subject(&nats.jetstream, subject::CONTROL, &subject)
            .await
            .map_err(|error| FoldError::Later("CONTROL did not answer", Box::new(error)))?;
        if let Some(last) = last {
            wait_until_folded(pool, last.sequence).await?;
        }
    }
    Ok(tenant::read(pool, id).await?)
}

/// Waits until the fold, here or in another process, has taken in the message `seq` of CONTROL.
///
/// # Errors
/// `Later` when it has not within five seconds.
pub async fn wait_until_folded(pool: &PgPool, seq: u64) -> Result<(), FoldError> {
    const TIMEOUT: Duration = Duration::from_secs(5);
    const LOOK: Duration = Duration::from_millis(10);
    let wait = async {
        while checkpoint::read(pool, Projection::Control).await?.0 < seq {
            tokio::time::sleep(LOOK).await;
        }
        Ok::<(), FoldError>(())
    };
    tokio::time::timeout(TIMEOUT, wait)
        .await
        .map_err(|late| FoldError::Later("the fold of CONTROL lags", Box::new(late)))?
}
