//! `baseline`: calls a second and core of what the field starts from, one PostgreSQL transaction a call that inserts
//! a `usage_events` row and increments `calls_used_month`, beside the path that replaces it here.
//!
//! Ours runs the node's own library without HTTP around it: admission (key state, lease), settlement, the spool on a
//! real disk, the publisher, `LOG`, and the ledger process, until the last call is committed in PostgreSQL; both the
//! calls' rate and the CPU time are of all of it: node, NATS, ledger, PostgreSQL. Theirs is `pgbench` with prepared
//! statements; the best of several numbers of clients counts, and the CPU time of `pgbench` itself does not.
//! Both databases are durable as PostgreSQL's defaults are.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use mcp_node::{Call, Meter, Node, NodeSettings, Origin, labels::Labels, spool::SpoolLimits};
use schemas::{Outcome as Ended, subject};
use serde::Serialize;
use sqlx::PgPool;
use stack::{Part, Postgres};
use tokio::task::JoinSet;

use crate::{
    Outcome, machine, report,
    report::{measure, median, short, whole},
    rig::{self, Rig, wait_until},
    tenants::{Tenant, secret, tenants},
};

const KEYS: u64 = 1_000;
const TENANTS: u64 = 50;
const SHARDS: u16 = 16;
const CALLS: u64 = 400_000;
const CALLERS: u64 = 8;
const ROUNDS: usize = 3;
const PGBENCH_SECONDS: u32 = 8;
const CLIENTS: [u32; 2] = [16, 48];
const TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Serialize)]
struct Figures {
    ours_calls_per_s: u64,
    postgres_calls_per_s: u64,
    ratio: f64,
}

pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let mut path = Path::start().await?;
    let field = Field::make(&path.rig).await?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut best: f64 = 0.0;
        for clients in CLIENTS {
            best = best.max(field.round(&path.rig, clients).await?);
        }
        let rate = path.round().await?;
        ratios.push(rate / best);
        theirs.push(best);
        ours.push(rate);
    }
    path.stop().await?;
    report::finish(
        "baseline",
        &Figures {
            ours_calls_per_s: whole(median(&ours)),
            postgres_calls_per_s: whole(median(&theirs)),
            ratio: short(median(&ratios)),
        },
    )
}

/// The table and the counter in a database of their own.
struct Field {
    database: String,
    script: std::path::PathBuf,
}

const TABLES: &str = "
    create table api_keys (
        id bigint primary key, tenant_id uuid not null, name text not null, key_hash text not null unique,
        status text not null default 'active', monthly_limit bigint not null,
        calls_used_month bigint not null default 0, created_at timestamptz not null default now()
    );
    create table usage_events (
        id bigint generated always as identity primary key, api_key_id bigint not null references api_keys,
        tool text not null, status text not null, duration_ms integer not null, bytes_in integer not null,
        bytes_out integer not null, created_at timestamptz not null default now()
    );
    create index usage_events_key on usage_events (api_key_id, created_at);
    insert into api_keys (id, tenant_id, name, key_hash, monthly_limit)
        select n, gen_random_uuid(), 'key ' || n, md5(n::text) || md5((-n)::text), 1000000000
        from generate_series(1, 1000) n;
    vacuum analyze;";

const SCRIPT: &str = "\\set key random(1, 1000)
\\set duration random(1, 900)
begin;
insert into usage_events (api_key_id, tool, status, duration_ms, bytes_in, bytes_out) values (:key, 'search_documents', 'success', :duration, 640, 9800);
update api_keys set calls_used_month = calls_used_month + 1 where id = :key;
commit;
";

impl Field {
    async fn make(rig: &Rig) -> Outcome<Self> {
        let database = rig.postgres.create_database("field").await?;
        let pool = PgPool::connect(&database).await?;
        for statement in TABLES.split(';').map(str::trim).filter(|text| !text.is_empty()) {
            sqlx::query(statement).execute(&pool).await?;
        }
        pool.close().await;
        let script = rig.folder.path().join("call.sql");
        std::fs::write(&script, SCRIPT)?;
        Ok(Self { database, script })
    }

    /// Transactions a second and core with so many clients.
    async fn round(&self, rig: &Rig, clients: u32) -> Outcome<f64> {
        let server = [rig::pid(&rig.postgres)?];
        let seconds = PGBENCH_SECONDS.to_string();
        let mut command = tokio::process::Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(Postgres::find()?.join("pgbench"));
        command.args(["--no-vacuum", "--protocol", "prepared", "--jobs", "2", "--time", &seconds]);
        command.args(["--client", &clients.to_string(), "--file"]).arg(&self.script);
        command.arg(&self.database).stdin(Stdio::null()).kill_on_drop(true);
        let (begun, cpu) = (Instant::now(), machine::cpu_seconds(&server)?);
        let output = command.output().await?;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), machine::cpu_seconds(&server)? - cpu);
        let text = String::from_utf8_lossy(&output.stdout);
        let tps = text
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        let Some(tps): Option<f64> = tps.filter(|_| output.status.success()) else {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("pgbench failed: {why}").into());
        };
        println!("PostgreSQL, {clients} clients: {tps:.0} calls/s, {:.2} cores", cpu / wall);
        Ok(tps / (cpu / wall).max(1.0))
    }
}

/// A node, the log, a ledger.
struct Path {
    rig: Rig,
    ledger: stack::Service,
    node: Node,
    tenants: Vec<Tenant>,
    pool: PgPool,
    made: u64,
}

impl Path {
    async fn start() -> Outcome<Self> {
        // Makes the recorder of metrics that a node's process has.
        drop(runtime::health::Health::default().router());
        let rig = Rig::start().await?;
        rig.make_log(SHARDS).await?;
        let database = rig.postgres.create_database("tollbook").await?;
        let ledger = rig.ledger("ledger", &database, &[]).await?;
        let settings = NodeSettings {
            spool_dir: rig.folder.path().join("spool"),
            limits: SpoolLimits::default(),
            node_id: Some("node-0".parse()?),
            labels: Labels::default(),
        };
        let connection = runtime::nats::connect(&rig.nats.url(), "node").await?;
        let node = Node::start(&settings, &connection).await?;
        let tenants = tenants(TENANTS, KEYS / TENANTS, SHARDS, |_| Some(1_000_000_000));
        for tenant in &tenants {
            let decision = tenant.decision(mcp_node::clock::wall());
            let subject = subject::control(&decision.facts[0]);
            let payload = serde_json::to_vec(&decision)?;
            rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
        }
        let secrets: Vec<String> = secrets(&tenants);
        let knows =
            || async { Ok(secrets.iter().all(|secret| node.meter().authenticate(secret).is_ok())) };
        wait_until("the node knows every key", TIMEOUT, knows).await?;
        let pool = PgPool::connect(&database).await?;
        Ok(Self { rig, ledger, node, tenants, pool, made: 0 })
    }

    /// Makes calls and waits until the ledger has committed the last. Returns calls a second and core.
    async fn round(&mut self) -> Outcome<f64> {
        let own = [std::process::id()];
        let stored = self.stored().await?;
        let (begun, cpu, parts) = (Instant::now(), machine::cpu_seconds(&own)?, self.parts()?);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (meter, secrets) = (self.node.meter().clone(), secrets(&self.tenants));
            callers.spawn(async move { call(&meter, &secrets, caller).await });
        }
        for done in callers.join_all().await {
            done?;
        }
        self.made += CALLS;
        let admitted = begun.elapsed().as_secs_f64();
        let committed = || async { Ok(self.counted().await? >= self.made) };
        wait_until("every call is committed", TIMEOUT, committed).await?;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), machine::cpu_seconds(&own)? - cpu);
        if self.counted().await? != self.made {
            return Err("the ledger counted more calls than were made".into());
        }
        let parts = self.parts()?.into_iter().zip(parts).map(|((name, after), (_, before))| {
            format!("{name} {:.1}", (after - before) / measure(CALLS) * 1e6)
        });
        println!("CPU a call in us: {}", parts.collect::<Vec<_>>().join(", "));
        println!(
            "ours: {CALLS} calls recorded in {admitted:.2} s, committed after {wall:.2} s, {:.2} cores, \
             {:.1} calls a message",
            cpu / wall,
            measure(CALLS) / measure(self.stored().await? - stored)
        );
        Ok(machine::per_core(CALLS, wall, cpu))
    }

    /// CPU time of each part. Unit: seconds.
    fn parts(&self) -> Outcome<[(&'static str, f64); 4]> {
        let of = |pid: u32| machine::cpu_seconds(&[pid]);
        Ok([
            ("node", machine::own_cpu_seconds()?),
            ("NATS", of(rig::pid(&self.rig.nats)?)?),
            ("ledger", of(rig::pid(&self.ledger)?)?),
            ("PostgreSQL", of(rig::pid(&self.rig.postgres)?)?),
        ])
    }

    async fn counted(&self) -> Outcome<u64> {
        let sum = "select coalesce(sum(quantity), 0)::bigint from ledger.hour_total";
        let counted: i64 = sqlx::query_scalar(sum).fetch_one(&self.pool).await?;
        Ok(u64::try_from(counted)?)
    }

    /// How many messages are on the log.
    async fn stored(&self) -> Outcome<u64> {
        let mut log = self.rig.connection.jetstream.get_stream(subject::LOG).await?;
        Ok(log.info().await?.state.messages)
    }

    async fn stop(mut self) -> Outcome<()> {
        self.node.stop(Duration::from_secs(5), Duration::from_secs(10)).await;
        self.pool.close().await;
        Ok(self.ledger.stop().await?)
    }
}

fn secrets(tenants: &[Tenant]) -> Vec<String> {
    tenants.iter().flat_map(|tenant| &tenant.keys).map(|key| secret(*key)).collect()
}

/// One caller's share of the calls, key after key.
async fn call(meter: &Meter, secrets: &[String], caller: u64) -> Outcome<()> {
    let call = Call {
        method: "tools/call",
        tool: "search_documents",
        bytes_in: 640,
        origin: Origin::default(),
    };
    let first = usize::try_from(caller * 131)?;
    for turn in 0..usize::try_from(CALLS / CALLERS)? {
        let secret = &secrets[(first + turn) % secrets.len()];
        let known = meter.authenticate(secret).map_err(|refusal| format!("{refusal:?}"))?;
        let permit = meter.admit(&known, call).await.map_err(|refusal| format!("{refusal:?}"))?;
        permit.settle(Ended::Success, 9_800).map_err(|error| error.to_string())?;
        if turn % 32 == 0 {
            tokio::task::yield_now().await; // Where a server would wait for its upstream.
        }
    }
    Ok(())
}
