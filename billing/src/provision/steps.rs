//! The steps of one provisioning, in the order in which a kill between them leaves least undone.

use runtime::nats::{PublishError, last_on_subject, publish_expecting};
use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, KeyDigest, fact::VERSION, secret, subject,
};

use super::{Key, Provisioned, Subscribe, Wanted, ids::Ids};
use crate::{
    access::{Access, Looked},
    clock::now,
    control::current_tenant,
    problem::Problem,
    router::Api,
    store::customer as made,
    stripe::{checkout, customer, subscription},
};

/// One provisioning at work.
pub struct Steps<'a> {
    pub api: &'a Api,
    pub ids: &'a Ids,
    pub wanted: &'a Wanted,
}

/// What became of a decision.
enum Stored {
    /// It was stored now.
    Now,
    /// Another stood there before.
    Before(Box<Decision>),
}

impl Steps<'_> {
    /// Everything that is not done yet.
    pub async fn all(&self) -> Result<Provisioned, Problem> {
        let (tenant_id, project_id) = (self.ids.tenant(), self.ids.project());
        self.tenant().await?;
        let customer = self.customer().await?;
        let (mut subscription, mut checkout_url) = (None, None);
        match &self.wanted.subscribe {
            Subscribe::Invoiced { due_days, .. } => {
                subscription = Some(self.subscription(&customer, *due_days).await?);
            }
            Subscribe::Checkout { success_url, cancel_url } => {
                checkout_url = self.checkout(&customer, success_url, cancel_url.as_deref()).await?;
            }
        }
        self.link(&customer).await?;
        let mut keys = Vec::with_capacity(self.wanted.keys.len());
        for (place, name) in self.wanted.keys.iter().enumerate() {
            keys.push(self.key(place, name).await?);
        }
        Ok(Provisioned { tenant_id, project_id, customer, subscription, checkout_url, keys })
    }

    /// The tenant and its project: one decision, so that neither is ever without the other.
    async fn tenant(&self) -> Result<(), Problem> {
        let (tenant, project) = (self.ids.tenant(), self.ids.project());
        let (name, time_zone) = (self.wanted.name.clone(), self.wanted.time_zone.clone());
        let billing = BillingMode::Stripe;
        let facts = vec![
            ControlFact::TenantCreated { tenant, name, time_zone, billing },
            ControlFact::ProjectCreated { tenant, project, name: self.wanted.project.clone() },
        ];
        match self.decide(self.ids.tenant_decision(), facts.clone()).await? {
            Stored::Now => Ok(()),
            Stored::Before(decision) if decision.facts == facts => Ok(()),
            Stored::Before(_) => Err(Problem::KeyReused),
        }
    }

    async fn customer(&self) -> Result<String, Problem> {
        let (api, tenant) = (self.api, self.ids.tenant());
        let postgres = |error| Problem::dependency("PostgreSQL", error);
        let known = current_tenant(&api.desk.pool, &api.nats, tenant)
            .await
            .map_err(|error| Problem::dependency("the log", error))?
            .ok_or(Problem::NoTenant(tenant))?;
        if let Some(linked) = known.customer {
            return Ok(linked);
        }
        if let Some(made) = made::made_for(&api.desk.pool, tenant).await.map_err(postgres)? {
            return Ok(made);
        }
        let email = match &self.wanted.subscribe {
            Subscribe::Invoiced { email, .. } => Some(email.as_str()),
            Subscribe::Checkout { .. } => None,
        };
        let made = customer::create(&api.stripe, tenant, email).await?;
        made::remember(&api.desk.pool, tenant, &made, now()).await.map_err(postgres)
    }

    /// The subscription: one that the customer has, or else a new one. Its key finds it for a day, the list for ever.
    async fn subscription(&self, customer: &str, due_days: u32) -> Result<String, Problem> {
        let all = subscription::all_of(&self.api.stripe, customer).await?;
        if let Some(found) = all.first() {
            return Ok(found.core.id.clone());
        }
        let wanted = subscription::Wanted {
            tenant: self.ids.tenant(),
            customer,
            prices: &self.wanted.prices,
            due_days,
        };
        let key = format!("tb1:provision:{}", self.ids.digest());
        Ok(subscription::create(&self.api.stripe, &wanted, &key).await?)
    }

    async fn checkout(
        &self,
        customer: &str,
        success_url: &str,
        cancel_url: Option<&str>,
    ) -> Result<Option<String>, Problem> {
        let wanted = checkout::Wanted {
            tenant: self.ids.tenant(),
            customer,
            prices: &self.wanted.prices,
            success_url,
            cancel_url,
        };
        let key = format!("tb1:provision:{}", self.ids.digest());
        Ok(checkout::create(&self.api.stripe, &wanted, &key).await?.url)
    }

    /// Whose customer it is and what the subscription amounts to, decided as at any look: no webhook is waited for.
    async fn link(&self, customer: &str) -> Result<(), Problem> {
        let access = Access {
            pool: self.api.desk.pool.clone(),
            nats: self.api.nats.clone(),
            stripe: self.api.stripe.clone(),
            ladder: std::sync::Arc::clone(&self.api.rules.ladder),
            heals: false,
        };
        match access.look(customer, Some(self.ids.tenant())).await {
            Ok(Looked::Decided(_) | Looked::Unchanged) => Ok(()),
            Ok(other) => {
                Err(Problem::Conflict(format!("the customer cannot be linked: {other:?}")))
            }
            Err(error) => Err(Problem::dependency("a look at the customer", error)),
        }
    }

    /// A key. What was made by an earlier request was shown by it, or by nobody: its secret is nowhere.
    async fn key(&self, place: usize, name: &str) -> Result<Key, Problem> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| Problem::dependency("randomness", error))?;
        let secret = secret::write(random);
        let (id, hint) = (self.ids.key(place), secret::hint(&secret));
        let fact = ControlFact::KeyCreated {
            tenant: self.ids.tenant(),
            project: self.ids.project(),
            key: id,
            name: name.to_owned(),
            digest: KeyDigest::of(&secret),
            hint: hint.clone(),
            scopes: vec![],
            tools: None,
            expires_at: None,
        };
        let name = name.to_owned();
        match self.decide(self.ids.key_decision(place), vec![fact]).await? {
            Stored::Now => Ok(Key { id, name, secret: Some(secret), hint }),
            Stored::Before(decision) => {
                let hint = decision.facts.into_iter().find_map(|fact| match fact {
                    ControlFact::KeyCreated { hint, .. } | ControlFact::KeyRotated { hint, .. } => {
                        Some(hint)
                    }
                    _ => None,
                });
                Ok(Key { id, name, secret: None, hint: hint.unwrap_or_default() })
            }
        }
    }

    /// Stores a decision where nothing may stand before it, or gives the last that does.
    async fn decide(
        &self,
        decision: DecisionId,
        facts: Vec<ControlFact>,
    ) -> Result<Stored, Problem> {
        let log = |error: PublishError| Problem::dependency("CONTROL", error);
        let subject = facts.first().map(subject::control).unwrap_or_default();
        let decision = Decision {
            v: VERSION,
            decision,
            at: now(),
            by: "operator".to_owned(),
            tenant: self.ids.tenant(),
            shard: None,
            facts,
        };
        let payload = serde_json::to_vec(&decision).expect("a decision has only text keys");
        let jetstream = &self.api.nats.jetstream;
        let unknown =
            match publish_expecting(jetstream, subject.clone(), None, payload.into(), 0).await {
                Ok(_) => return Ok(Stored::Now),
                Err(error) => error,
            };
        let last = last_on_subject(jetstream, subject::CONTROL, &subject).await.map_err(log)?;
        let last = last.and_then(|last| serde_json::from_slice::<Decision>(&last.payload).ok());
        match last {
            // The answer was lost: what stands there is what was just sent, secret and all.
            Some(last) if last == decision => Ok(Stored::Now),
            Some(last) => Ok(Stored::Before(Box::new(last))),
            None => Err(log(unknown)),
        }
    }
}
