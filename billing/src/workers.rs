//! What only the leading process does: all workers, made from the parts that they share.

use std::sync::Arc;

use billing_core::{dunning::Ladder, plan::Book};
use runtime::{health::Health, nats::Nats};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    collect::Collect,
    config::Config,
    control::Control,
    fold,
    outbox::Outbox,
    pace::Pace,
    provider::Provider,
    quarantine::Folds,
    shadow::Shadow,
    statement::Statements,
    stripe::Client,
    sweep::{AtStripe, Sweep},
    work::Work,
};

/// Usage from the log to the provider.
pub struct Reporting<P> {
    pub pool: PgPool,
    pub nats: Nats,
    pub provider: Arc<P>,
    /// Told when there may be something to report.
    pub wake: Arc<Notify>,
}

/// What bills follow from: read once, at the start.
#[derive(Clone)]
pub struct Rules {
    pub book: Arc<Book>,
    pub ladder: Arc<Ladder>,
    /// Other rules that bills are rated by too.
    pub shadow: Option<Arc<Book>>,
}

/// Subscriptions, statements and access, by Stripe.
pub struct Selling<P> {
    pub reporting: Reporting<P>,
    pub stripe: Client,
    pub rules: Rules,
    /// Told when an invoice was read.
    pub wake: Arc<Notify>,
}

impl<P: Provider> Reporting<P> {
    fn control(&self, config: &Config) -> Control {
        Control {
            pool: self.pool.clone(),
            account: config.account(),
            names_customers: self.provider.names_customers(),
            outbox: Arc::clone(&self.wake),
        }
    }

    fn collect(&self, config: &Config) -> Collect<P> {
        Collect {
            pool: self.pool.clone(),
            account: config.account(),
            provider: Arc::clone(&self.provider),
            outbox: Arc::clone(&self.wake),
        }
    }

    fn outbox(&self, config: &Config) -> Arc<Outbox<P>> {
        Arc::new(Outbox {
            pool: self.pool.clone(),
            provider: Arc::clone(&self.provider),
            pace: Pace::new(config.reports_per_s),
            in_flight: usize::from(config.reports_in_flight),
            wake: Arc::clone(&self.wake),
        })
    }

    fn sweep(&self, config: &Config, stripe: Option<AtStripe<P>>) -> Sweep<P> {
        let schedule = config.sweep_cron.clone();
        Sweep { pool: self.pool.clone(), schedule, stuck_after_ms: config.stuck_after_ms, stripe }
    }

    /// The folds that quarantine is replayed into.
    pub fn folds(&self, config: &Config) -> Folds<Control, Collect<P>, Work> {
        Folds { control: self.control(config), log: self.collect(config), stripe: None }
    }

    /// Works until the term is over.
    pub async fn run(&self, config: &Config, health: &Health, term: CancellationToken) {
        let (control, collect) = (self.control(config), self.collect(config));
        let sweep = self.sweep(config, None);
        tokio::join!(
            fold::run(&control, &self.nats, &self.pool, health, term.clone()),
            fold::run(&collect, &self.nats, &self.pool, health, term.clone()),
            self.outbox(config).run(term.clone()),
            sweep.run(term.clone()),
        );
    }
}

impl<P: Provider> Selling<P> {
    fn access(&self, heals: bool) -> Access {
        Access {
            pool: self.reporting.pool.clone(),
            nats: self.reporting.nats.clone(),
            stripe: self.stripe.clone(),
            ladder: Arc::clone(&self.rules.ladder),
            heals,
        }
    }

    fn events(&self, config: &Config) -> Work {
        Work {
            pool: self.reporting.pool.clone(),
            access: self.access(false),
            stripe: self.stripe.clone(),
            statements: Arc::clone(&self.wake),
            live: config.account().live,
        }
    }

    fn statements(&self, config: &Config) -> Statements<P> {
        Statements {
            pool: self.reporting.pool.clone(),
            nats: self.reporting.nats.clone(),
            stripe: self.stripe.clone(),
            provider: Arc::clone(&self.reporting.provider),
            book: Arc::clone(&self.rules.book),
            access: self.access(false),
            every_ms: config.statements_every_ms,
            quiet_ms: config.correct_after_ms,
            wake: Arc::clone(&self.wake),
        }
    }

    fn at_stripe(&self) -> AtStripe<P> {
        AtStripe {
            nats: self.reporting.nats.clone(),
            stripe: self.stripe.clone(),
            access: self.access(true),
            provider: Arc::clone(&self.reporting.provider),
        }
    }

    /// The folds that quarantine is replayed into.
    pub fn folds(&self, config: &Config) -> Folds<Control, Collect<P>, Work> {
        Folds { stripe: Some(self.events(config)), ..self.reporting.folds(config) }
    }

    /// Works until the term is over.
    pub async fn run(&self, config: &Config, health: &Health, term: CancellationToken) {
        let Reporting { pool, nats, .. } = &self.reporting;
        let control = self.reporting.control(config);
        let collect = self.reporting.collect(config);
        let (events, statements) = (self.events(config), self.statements(config));
        let sweep = self.reporting.sweep(config, Some(self.at_stripe()));
        let shadow = async {
            if let Some(book) = &self.rules.shadow {
                let shadow = Shadow { pool: pool.clone(), book: Arc::clone(book) };
                shadow.run(config.statements_every_ms, term.clone()).await;
            }
        };
        tokio::join!(
            fold::run(&control, nats, pool, health, term.clone()),
            fold::run(&collect, nats, pool, health, term.clone()),
            fold::run(&events, nats, pool, health, term.clone()),
            self.reporting.outbox(config).run(term.clone()),
            statements.run(term.clone()),
            sweep.run(term.clone()),
            shadow,
        );
    }
}
