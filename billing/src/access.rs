//! One customer, looked at again: what its subscriptions amount to becomes a decision on CONTROL, if it is news.
//!
//! The order is the proof. First the tenant's last decision is known, then Stripe is read, then the news is published
//! against that last decision: whoever read Stripe earlier cannot overwrite whoever read it later. Nothing is kept
//! between; a redo from any point ends the same. Absent on purpose: which event brought us here.

use std::{collections::BTreeMap, sync::Arc};

use billing_core::{
    access::{Customer, Standing, Status},
    dunning::{Action, Ladder, Verdict, judge},
    term::Sighting,
};
use runtime::nats::{Nats, PublishError, publish_expecting};
use schemas::{BillingMode, ControlFact, Decision, DecisionId, TenantId, Timestamp, fact::VERSION};
use sqlx::PgPool;

use crate::{
    clock::now,
    control::{PROVIDER, current_tenant, subscription_subject},
    fold::FoldError,
    store::{
        StoreError, customer as made, dunning, price,
        subscribed::{self, Subscribed},
        tenant::{self, Tenant},
    },
    stripe::{
        self, StripeError,
        anchor::is_at_an_edge,
        customer, invoice,
        subscription::{self, Found},
    },
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
    /// How long an overdue customer serves, and what it is told.
    pub ladder: Arc<Ladder>,
    /// Whether a look may say that a plan has changed: for sweeps, which come when an event must have been lost.
    pub heals: bool,
}

/// Everything that Stripe says of a customer at one time.
struct Read {
    customer: Customer,
    subscriptions: Vec<Found>,
    /// Since when the oldest open invoice of each subscription is due.
    overdue: BTreeMap<String, Timestamp>,
    /// Before it was read.
    at: Timestamp,
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
            self.remember(id, customer, &found).await.map_err(FoldError::from)?;
            let verdict = judge(&self.ladder, &found.customer, &found.overdue, now());
            let standing = verdict.as_ref().map(|verdict| verdict.standing.clone());
            let began = standing.as_ref().and_then(|standing| beginning(&found.customer, standing));
            let facts = news(&tenant, customer, standing.clone());
            if facts.is_empty() {
                self.tell(id, customer, verdict).await.map_err(FoldError::from)?;
                return Ok(Looked::Unchanged);
            }
            if let Some((subscription, began_at)) = began {
                // Before the decision names it, so that whoever folds the decision finds it.
                tenant::remember_beginning(&self.pool, subscription, began_at)
                    .await
                    .map_err(FoldError::from)?;
            }
            match self.publish(&tenant, facts).await {
                Ok(seq) => {
                    self.tell(id, customer, verdict).await.map_err(FoldError::from)?;
                    return Ok(Looked::Decided(seq));
                }
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

    async fn read(&self, customer: &str) -> Result<Option<Read>, StripeError> {
        let at = now();
        let Some(found) = customer::read(&self.stripe, customer).await? else { return Ok(None) };
        let subscriptions = if found.deleted {
            Vec::new()
        } else {
            subscription::all_of(&self.stripe, customer).await?
        };
        // Reads are rationed: nobody else's invoices are asked for.
        let is_overdue = subscriptions.iter().any(|one| one.core.status == Status::PastDue);
        let overdue = if is_overdue {
            invoice::overdue(&self.stripe, customer).await?
        } else {
            BTreeMap::new()
        };
        let core = subscriptions.iter().map(|one| one.core.clone()).collect();
        let customer = Customer { deleted: found.deleted, subscriptions: core };
        Ok(Some(Read { customer, subscriptions, overdue, at }))
    }

    /// Keeps what statements follow from: periods, prices, and a first sighting of the plan where there is none.
    async fn remember(
        &self,
        tenant: TenantId,
        customer: &str,
        read: &Read,
    ) -> Result<(), StoreError> {
        for found in &read.subscriptions {
            for one in &found.prices {
                price::remember(&self.pool, one).await?;
            }
            if found.ended_at.is_none() && !is_at_an_edge(found.anchor) {
                tracing::error!(tenant.id = %tenant, subscription = found.core.id, anchor = %found.anchor,
                    "A subscription's periods begin inside an hour: billing will not start again on it");
                metrics::counter!("billing_anchors_inside_an_hour_total").increment(1);
            }
            let Some(months) = found.months else { continue };
            let subscribed = Subscribed {
                subscription: found.core.id.clone(),
                tenant,
                customer: customer.to_owned(),
                status: found.core.status.word().to_owned(),
                began_at: found.core.created,
                anchor: found.anchor,
                months,
                currency: found.currency.clone(),
                trial_until: found.trial_until,
                ended_at: found.ended_at,
                current_from: found.current_from,
                stated_to: found.core.created,
            };
            subscribed::remember(&self.pool, &subscribed, read.at).await?;
            let known = subscribed::terms_of(&self.pool, &subscribed).await?;
            // Events say when a plan changed; a look says only that it has. So a look speaks where no event has.
            let last = known.last().map(|term| &term.plan);
            let plan =
                found.plan().filter(|plan| last.is_none_or(|last| self.heals && last != plan));
            if let Some(plan) = plan {
                subscribed::saw(&self.pool, &found.core.id, &Sighting { at: read.at, plan })
                    .await?;
            }
        }
        Ok(())
    }

    /// Tells an overdue customer what is due to be told, once each, and remembers when to look again.
    async fn tell(
        &self,
        tenant: TenantId,
        customer: &str,
        verdict: Option<Verdict>,
    ) -> Result<(), StoreError> {
        let Some(Verdict { stage, look_again_at, .. }) = verdict else { return Ok(()) };
        let before = dunning::read(&self.pool, tenant).await?;
        for action in stage.actions(before.as_ref()) {
            if let Action::Notify { since, notice } = action {
                tracing::warn!(tenant.id = %tenant, notice, overdue_since = %since, "A payment is overdue");
                metrics::counter!("billing_dunning_notices_total").increment(1);
            }
        }
        dunning::remember(&self.pool, tenant, customer, &stage, look_again_at).await
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
    if let Some(Standing { access, reason, subscription, plan }) =
        standing.filter(|new| tenant.standing.as_ref() != Some(new))
    {
        let tenant = tenant.id;
        facts.push(ControlFact::AccessChanged { tenant, access, reason, subscription, plan });
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
