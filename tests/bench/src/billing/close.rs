//! How long the close of 10,000 tenants takes: the real billing process, PostgreSQL with fsync, NATS, and a simulated
//! Stripe that holds every unit.
//!
//! What is made beforehand and not measured: the tenants and their links on CONTROL, the customers at Stripe, and the
//! sealed hours on LOG, which billing itself folds and reports to Stripe one by one; then the subscriptions and final
//! invoices as billing stores them when it has read them. The time begins when the periods are due and ends when every
//! statement is frozen, is a fact on CONTROL and is tied to Stripe's sum, which is asked for each over HTTP.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use plant::{Api, STRIPE_KEY};
use schemas::{
    Access, BillingMode, ControlFact, Decision, DecisionId, Hour, LedgerBatch, LedgerFact,
    PeriodRule, Quantity, SealLine, Shard, TenantId, fact::VERSION, subject,
};
use sqlx::{PgPool, Row};
use stack::{Service, ServiceSettings, StripeSim, ports};

use crate::{
    Outcome,
    rig::{Rig, wait_until},
    tenants::{Kind, id},
};

const TENANTS: u64 = 10_000;
/// Sealed lines of each tenant: the last hours of the month, one a line.
const LINES: u64 = 4;
const TIMEOUT: Duration = Duration::from_secs(300);
/// Requests and messages on their way at once, while the world is made.
const AT_ONCE: usize = 64;
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(20);

struct World {
    rig: Rig,
    stripe: StripeSim,
    pool: PgPool,
    /// The month that has ended.
    month: schemas::Period,
    _billing: Service,
}

/// Closes the month of all tenants once. Unit: seconds.
pub async fn run() -> Outcome<f64> {
    let world = World::start().await?;
    world.fill().await?;
    let took = world.close().await?;
    world.check().await?;
    println!("close: {TENANTS} tenants with {LINES} sealed lines each in {took:.2} s");
    Ok(took)
}

impl World {
    async fn start() -> Outcome<Self> {
        let rig = Rig::start().await?;
        rig.make_log(1).await?;
        let database = rig.postgres.create_database("tollbook").await?;
        let stripe = StripeSim::start(&rig.folder).await?;
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let env = [
            ("NATS_URL", rig.nats.url()),
            ("POSTGRES_URL", database.clone()),
            ("LISTEN", listen.clone()),
            ("STRIPE_URL", stripe.url()),
            ("STRIPE_API_KEY", STRIPE_KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRETS", "whsec_of_the_benchmark".to_owned()),
            ("OPERATOR_TOKEN", "a token of the benchmark's operator".to_owned()),
            ("SETUP", "1".to_owned()),
            ("STATEMENTS_EVERY_MS", "50".to_owned()),
            ("REPORTS_PER_S", "1000".to_owned()),
            ("REPORTS_IN_FLIGHT", "32".to_owned()),
        ];
        let settings = ServiceSettings {
            binary: "billing".into(),
            name: "billing".into(),
            args: vec!["serve".into()],
            env: env.map(|(name, value)| (format!("BILLING_{name}"), value)).to_vec(),
            health: format!("http://{listen}/ready"),
        };
        let billing = Service::start(&rig.folder, settings).await?;
        let pool = PgPool::connect(&database).await?;
        let now = mcp_node::clock::wall();
        let this = PeriodRule::Month.period_at(now, "UTC")?;
        let month = PeriodRule::Month.period_at(this.from.plus_ms(-1), "UTC")?;
        Ok(Self { rig, stripe, pool, month, _billing: billing })
    }

    async fn fill(&self) -> Outcome<()> {
        let stripe = Api::new(&self.stripe.url(), Some(STRIPE_KEY));
        let made = stream::iter(0..TENANTS).map(async |number| {
            let tenant = tenant(number).to_string();
            let fields = [("description", tenant.as_str())];
            let customer = stripe.post_form("/v1/customers", &fields).await?;
            let customer = customer["id"].as_str().ok_or("a customer without an id")?.to_owned();
            self.link(number, &customer).await?;
            Outcome::Ok((number, customer))
        });
        let customers: Vec<(u64, String)> = made.buffer_unordered(AT_ONCE).try_collect().await?;
        self.remember_subscriptions(&customers).await?;
        self.seal().await?;
        wait_until("all reports are at Stripe", TIMEOUT, || async {
            let sql = "select count(*) from billing.meter_report where state = 'accepted'";
            let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
            Ok(count.unsigned_abs() == TENANTS * LINES)
        })
        .await?;
        self.remember_invoices(&customers).await
    }

    /// The tenant, and then whose customer it is: two decisions on two subjects, as the services make them.
    async fn link(&self, number: u64, customer: &str) -> Outcome<()> {
        let tenant = tenant(number);
        let created = ControlFact::TenantCreated {
            tenant,
            name: format!("Tenant {number}"),
            time_zone: "UTC".to_owned(),
            billing: BillingMode::Stripe,
        };
        let linked = ControlFact::CustomerLinked {
            tenant,
            provider: "stripe".to_owned(),
            customer: customer.to_owned(),
        };
        let active = ControlFact::AccessChanged {
            tenant,
            access: Access::Active,
            reason: "subscription active".to_owned(),
            subscription: Some(subscription(number)),
            plan: None,
        };
        for (place, facts) in [vec![created], vec![linked, active]].into_iter().enumerate() {
            let subject = subject::control(&facts[0]);
            let number = number * 2 + place as u64;
            let decision = Decision {
                v: VERSION,
                decision: DecisionId(id(Kind::Decision, number)),
                at: mcp_node::clock::wall(),
                by: "bench".to_owned(),
                tenant,
                shard: None,
                facts,
            };
            let payload = serde_json::to_vec(&decision)?;
            self.rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
        }
        Ok(())
    }

    /// Subscriptions of the settings' price since the month's beginning; nothing of them is due yet.
    async fn remember_subscriptions(&self, customers: &[(u64, String)]) -> Outcome<()> {
        let sql = "insert into billing.subscribed (subscription, tenant_id, customer, status, began_at_ms, anchor_ms,
                       months, currency, current_from_ms, stated_to_ms, next_end_ms, read_at_ms)
                   select subscription, tenant_id, customer, 'active', $4, $4, 1, 'usd', $5, $4, $6, $7
                   from unnest($1::text[], $2::text[], $3::text[]) as made (subscription, tenant_id, customer)";
        sqlx::query(sql)
            .bind(customers.iter().map(|(number, _)| subscription(*number)).collect::<Vec<_>>())
            .bind(
                customers.iter().map(|(number, _)| tenant(*number).to_string()).collect::<Vec<_>>(),
            )
            .bind(customers.iter().map(|(_, customer)| customer.clone()).collect::<Vec<_>>())
            .bind(self.month.from.0)
            .bind(self.month.to.0)
            .bind(i64::MAX)
            // Read a moment ago, so that no sweep looks at what Stripe does not have.
            .bind(mcp_node::clock::wall().0)
            .execute(&self.pool)
            .await?;
        let sql = "insert into billing.plan_seen (subscription, at_ms, plan, version)
                   select subscription, began_at_ms, 'payg-usd-100', 1 from billing.subscribed";
        sqlx::query(sql).execute(&self.pool).await?;
        let sql = "insert into billing.price (price, metered, plan, version, charge)
                   values ('price_bench', true, 'payg-usd-100', 1, 'tool-calls')";
        sqlx::query(sql).execute(&self.pool).await?;
        Ok(())
    }

    /// Seals the last hours of the month as the ledger does: many tenants a message.
    async fn seal(&self) -> Outcome<()> {
        for ago in 1..=LINES {
            let hour = Hour(self.month.to.hour().0 - i64::try_from(ago)?);
            for numbers in (0..TENANTS).collect::<Vec<_>>().chunks(1_000) {
                let line = |number: &u64| SealLine {
                    tenant: tenant(*number),
                    meter: schemas::MeterName::tool_calls(),
                    revision: 1,
                    delta: units(*number, ago),
                };
                let lines = numbers.iter().map(line).collect();
                let sealed = LedgerFact::HourSealed { hour, closed: false, behind: vec![], lines };
                let at = mcp_node::clock::wall();
                let batch = LedgerBatch { v: VERSION, shard: Shard(0), at, facts: vec![sealed] };
                let payload = serde_json::to_vec(&batch)?;
                let subject = subject::ledger(Shard(0));
                self.rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
            }
        }
        Ok(())
    }

    /// The final invoices of the month: one line each, a dollar for 1,000 calls.
    async fn remember_invoices(&self, customers: &[(u64, String)]) -> Outcome<()> {
        let all_units = |number: &u64| (1..=LINES).map(|ago| units(*number, ago).0).sum::<u64>();
        let units: Vec<i64> =
            customers.iter().map(|(number, _)| all_units(number) as i64).collect();
        let sql = "with final as (
                       insert into billing.invoice (invoice, customer, subscription, status, reason, currency,
                           created_at_ms, finalized_at_ms, total_minor)
                       select 'in_' || subscription, customer, subscription, 'paid', 'subscription_cycle', 'usd',
                              $4, $4, units / 10
                       from unnest($1::text[], $2::text[], $3::bigint[]) as made (subscription, customer, units)
                       returning invoice, subscription)
                   select count(*) from final";
        let subscriptions: Vec<String> =
            customers.iter().map(|(number, _)| subscription(*number)).collect();
        sqlx::query(sql)
            .bind(&subscriptions)
            .bind(customers.iter().map(|(_, customer)| customer.clone()).collect::<Vec<_>>())
            .bind(&units)
            .bind(self.month.to.0)
            .execute(&self.pool)
            .await?;
        let sql = "insert into billing.invoice_line (invoice, line, subscription, price, from_ms, to_ms, quantity,
                       amount_minor)
                   select 'in_' || subscription, 'il_' || subscription, subscription, 'price_bench', $3, $4, units, units / 10
                   from unnest($1::text[], $2::bigint[]) as made (subscription, units)";
        sqlx::query(sql)
            .bind(&subscriptions)
            .bind(&units)
            .bind(self.month.from.0)
            .bind(self.month.to.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn close(&self) -> Outcome<f64> {
        let began = Instant::now();
        let sql = "update billing.subscribed set next_end_ms = $1";
        sqlx::query(sql).bind(self.month.to.0).execute(&self.pool).await?;
        let sql =
            "select count(*) from billing.statement where state = 'closed' and verdict <> 'open'";
        loop {
            let done: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
            if done.unsigned_abs() == TENANTS {
                return Ok(began.elapsed().as_secs_f64());
            }
            if began.elapsed() > TIMEOUT {
                return Err(format!("{done} of {TENANTS} statements are closed").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Everything ties, every bill is a fact, and no unit is missing.
    async fn check(&self) -> Outcome<()> {
        let sql = "select (select count(*) from billing.statement where verdict = 'ties') as ties,
                          (select count(*) from billing.bill where published) as published,
                          (select sum(units)::bigint from billing.bill) as billed,
                          (select sum(quantity)::bigint from billing.meter_report where billed_revision = 0) as sealed";
        let row = sqlx::query(sql).fetch_one(&self.pool).await?;
        let said = ["ties", "published", "billed", "sealed"].map(|name| row.get::<i64, _>(name));
        let units: u64 =
            (0..TENANTS).flat_map(|number| (1..=LINES).map(move |ago| units(number, ago).0)).sum();
        let (tenants, units) = (TENANTS as i64, units as i64);
        if said != [tenants, tenants, units, units] {
            return Err(format!("ties, published, billed, sealed: {said:?}, of {units}").into());
        }
        let stream = self.rig.connection.jetstream.get_stream(subject::CONTROL).await?;
        let facts = stream.info_with_subjects("control.statement.>").await?.count().await;
        if facts as u64 != TENANTS {
            return Err(format!("{facts} statements are facts on CONTROL").into());
        }
        Ok(())
    }
}

fn tenant(number: u64) -> TenantId {
    TenantId(id(Kind::Tenant, number))
}

fn subscription(number: u64) -> String {
    format!("sub_bench{number:06}")
}

/// What a tenant used in the `ago`th hour before the month's end: tens, so that its price is whole cents.
fn units(number: u64, ago: u64) -> Quantity {
    Quantity(10 * (1 + (number * 7 + ago) % 500))
}
