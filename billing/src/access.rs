//! One customer, looked at again: what its subscriptions amount to becomes a decision on CONTROL, if it is news.
//!
//! The order is the proof. First the tenant's last decision is known, then Stripe is read, then the news is published
//! against that last decision: whoever read Stripe earlier cannot overwrite whoever read it later. Nothing is kept
//! between; a redo from any point ends the same. Absent on purpose: which event brought us here.

use billing_core::access::{Customer, Standing, standing};
use runtime::nats::{Nats, PublishError, publish_expecting};
use schemas::{BillingMode, ControlFact, Decision, DecisionId, TenantId, Timestamp, fact::VERSION};
use sqlx::PgPool;

use crate::{
    clock::now,
    control::{PROVIDER, current_tenant, subscription_subject},
    fold::FoldError,
    store::{
        customer as made,
        tenant::{self, Tenant},
    },
    stripe::{self, StripeError, customer, subscription},
};

/// How often a decision is taken anew because another one came first.
const TRIES: usize = 8;

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Published at this sequence of CONTROL.
    Decided(u64),
    /// All was known.
    Unchanged,
    /// The customer is no tenant of ours.
    Foreign,
    /// It cannot be acted on: a stable word and the detail.
    Refused(&'static str, String),
}

/// What a look needs.
#[derive(Clone)]
pub struct Access {
    pub pool: PgPool,
    pub nats: Nats,
    pub stripe: stripe::Client,
}

impl Access {
    /// Looks at a customer again and publishes what is news. `claim` = the tenant that its checkout was opened for.
    ///
    /// # Errors
    /// Only what may pass: the same call again is safe and right.
    pub async fn look(&self, customer: &str, claim: Option<TenantId>) -> Result<Looked, FoldError> {
        match self.look_once(customer, claim).await {
            Err(Trouble::Stripe(error)) if error.is_final() => {
                Ok(Looked::Refused("stripe_refused", error.to_string()))
            }
            Err(Trouble::Stripe(error)) => {
                Err(FoldError::Later("Stripe cannot be read", Box::new(error)))
            }
            Err(Trouble::Fold(error)) => Err(error),
            Ok(looked) => Ok(looked),
        }
    }

    async fn look_once(&self, customer: &str, claim: Option<TenantId>) -> Result<Looked, Trouble> {
        let Some(id) = self.tenant_of(customer, claim).await? else { return Ok(Looked::Foreign) };
        if claim.is_some_and(|claim| claim != id) {
            return Ok(Looked::Refused(
                "tenant_conflict",
                format!("{customer} belongs to {id}, not to {claim:?}"),
            ));
        }
        for _ in 0..TRIES {
            let Some(tenant) = current_tenant(&self.pool, &self.nats, id).await? else {
                return Ok(Looked::Refused("unknown_tenant", format!("{customer} claims {id}")));
            };
            if let Some(refused) = unfit(&tenant, customer) {
                return Ok(refused);
            }
            let Some(found) = self.read(customer).await? else {
                return Ok(Looked::Refused("unknown_customer", customer.to_owned()));
            };
            let standing = standing(&found);
            let began = standing.as_ref().and_then(|standing| beginning(&found, standing));
            let facts = news(&tenant, customer, standing);
            if facts.is_empty() {
                return Ok(Looked::Unchanged);
            }
            if let Some((subscription, began_at)) = began {
                // Before the decision names it, so that whoever folds the decision finds it.
                tenant::remember_beginning(&self.pool, subscription, began_at)
                    .await
                    .map_err(FoldError::from)?;
            }
            match self.publish(&tenant, facts).await {
                Ok(seq) => return Ok(Looked::Decided(seq)),
                Err(PublishError::WrongSequence) => {} // Another decision came first: begin with that.
                Err(error) => return Err(later("CONTROL did not answer", error)),
            }
        }
        Err(Trouble::Fold(FoldError::Later(
            "others decide all the time",
            "no turn after several tries".into(),
        )))
    }

    /// Whose customer it is: as linked, as made here, as its metadata says (which only we write), as claimed.
    async fn tenant_of(
        &self,
        customer: &str,
        claim: Option<TenantId>,
    ) -> Result<Option<TenantId>, Trouble> {
        if let Some(tenant) =
            tenant::of_customer(&self.pool, customer).await.map_err(FoldError::from)?
        {
            return Ok(Some(tenant.id));
        }
        if let Some(tenant) =
            made::tenant_of(&self.pool, customer).await.map_err(FoldError::from)?
        {
            return Ok(Some(tenant));
        }
        Ok(customer::read(&self.stripe, customer).await?.and_then(|found| found.tenant).or(claim))
    }

    async fn read(&self, customer: &str) -> Result<Option<Customer>, StripeError> {
        let Some(found) = customer::read(&self.stripe, customer).await? else { return Ok(None) };
        let subscriptions = if found.deleted {
            Vec::new()
        } else {
            subscription::all_of(&self.stripe, customer).await?
        };
        Ok(Some(Customer { deleted: found.deleted, subscriptions }))
    }

    async fn publish(&self, tenant: &Tenant, facts: Vec<ControlFact>) -> Result<u64, PublishError> {
        let decision = Decision {
            v: VERSION,
            decision: DecisionId(uuid::Uuid::now_v7()),
            at: now(),
            by: "billing".to_owned(),
            tenant: tenant.id,
            shard: None,
            facts,
        };
        let payload = serde_json::to_vec(&decision).expect("a decision has only text keys");
        let subject = subscription_subject(tenant.id);
        let expected = tenant.decided_seq;
        let seq = publish_expecting(&self.nats.jetstream, subject, None, payload.into(), expected)
            .await?;
        tracing::info!(tenant.id = %tenant.id, stream.seq = seq, facts = ?decision.facts.len(), "Decided");
        Ok(seq)
    }
}

/// Why a tenant cannot be this customer, if it cannot.
fn unfit(tenant: &Tenant, customer: &str) -> Option<Looked> {
    if tenant.billing != BillingMode::Stripe {
        return Some(Looked::Refused(
            "not_billed_here",
            format!("{} has a customer {customer}", tenant.id),
        ));
    }
    let other = tenant.customer.as_deref().filter(|linked| *linked != customer)?;
    Some(Looked::Refused("other_customer", format!("{} is {other}, not {customer}", tenant.id)))
}

/// What is not known yet: a customer not linked, a standing that differs.
fn news(tenant: &Tenant, customer: &str, standing: Option<Standing>) -> Vec<ControlFact> {
    let mut facts = Vec::new();
    if tenant.customer.is_none() {
        let (provider, customer) = (PROVIDER.to_owned(), customer.to_owned());
        facts.push(ControlFact::CustomerLinked { tenant: tenant.id, provider, customer });
    }
    if let Some(Standing { access, reason, subscription }) =
        standing.filter(|new| tenant.standing.as_ref() != Some(new))
    {
        facts.push(ControlFact::AccessChanged { tenant: tenant.id, access, reason, subscription });
    }
    facts
}

/// The subscription that decided, and when it began.
fn beginning<'a>(found: &'a Customer, standing: &Standing) -> Option<(&'a str, Timestamp)> {
    let decided = standing.subscription.as_deref()?;
    let one = found.subscriptions.iter().find(|one| one.id == decided)?;
    Some((&one.id, one.created))
}

enum Trouble {
    Stripe(StripeError),
    Fold(FoldError),
}

impl From<StripeError> for Trouble {
    fn from(error: StripeError) -> Self {
        Self::Stripe(error)
    }
}

impl From<FoldError> for Trouble {
    fn from(error: FoldError) -> Self {
        Self::Fold(error)
    }
}

fn later(what: &'static str, error: PublishError) -> Trouble {
    Trouble::Fold(FoldError::Later(what, Box::new(error)))
}
