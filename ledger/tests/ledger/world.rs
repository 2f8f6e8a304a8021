//! A log, a database, a ledger, and a node that speaks the protocol.

use std::time::Duration;

use async_nats::jetstream;
use runtime::nats::{Nats as Connection, publish_expecting};
use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, Epoch, KeyDigest, KeyId, KeyState, Lease,
    LeaseAnswer, LeaseAsk, LeaseId, LeaseReply, LeaseRequest, MeterName, NodeId, Outcome,
    PeriodRule, ProjectId, Quantity, QuotaKind, QuotaRule, Record, Scope, Shard, TenantId,
    Timestamp, UsageBatch, UsageEvent, Watermark, subject,
};
use sqlx::{PgPool, Row};
use stack::{Folder, Nats, Part, Postgres, PostgresSettings, Service, ServiceSettings, ports};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub const SHARDS: u16 = 4;

pub struct World {
    pub folder: Folder,
    pub nats: Nats,
    postgres: Postgres,
    database: String,
    pub connection: Connection,
    pub pool: PgPool,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub digest: KeyDigest,
    next: u128,
}

impl World {
    pub async fn new() -> Self {
        let folder = Folder::temporary().unwrap();
        let nats = Nats::start(&folder).await.unwrap();
        let postgres =
            Postgres::start_with(&folder, PostgresSettings { fsync: false }).await.unwrap();
        let database = postgres.create_database("tollbook").await.unwrap();
        let connection = runtime::nats::connect(&nats.url(), "test").await.unwrap();
        let pool = PgPool::connect_lazy(&database).unwrap();
        let (tenant, project, key) = (TenantId(id(1)), ProjectId(id(2)), KeyId(id(3)));
        let digest = KeyDigest::of("tb_test");
        Self {
            folder,
            nats,
            postgres,
            database,
            connection,
            pool,
            tenant,
            project,
            key,
            digest,
            next: 100,
        }
    }

    pub async fn ledger(&self, name: &str) -> Service {
        let listen = format!("127.0.0.1:{}", ports::free().unwrap());
        let settings = ServiceSettings {
            binary: "ledger".into(),
            name: name.into(),
            args: vec!["serve".into()],
            env: [
                ("LEDGER_NATS_URL", self.nats.url()),
                ("LEDGER_POSTGRES_URL", self.database.clone()),
                ("LEDGER_LISTEN", listen.clone()),
                ("LEDGER_SHARDS", SHARDS.to_string()),
                ("LEDGER_SEAL_INTERVAL_MS", "200".into()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            health: format!("http://{listen}/health"),
        };
        Service::start(&self.folder, settings).await.unwrap()
    }

    /// Another database of the same server, empty.
    pub async fn database(&self, name: &str) -> String {
        self.postgres.create_database(name).await.unwrap()
    }

    /// Asks the ledger's binary a question: its exit code, what it printed, and what it logged.
    pub async fn question(&self, args: &[&str]) -> (i32, String, String) {
        let asked = tokio::process::Command::new(env!("CARGO_BIN_EXE_ledger"))
            .args(args)
            .env("LEDGER_NATS_URL", self.nats.url())
            .env("LEDGER_POSTGRES_URL", &self.database)
            .output();
        let output = asked.await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// Waits until the shard is folded to its end; the sequence of its checkpoint.
    pub async fn folded(&self) -> u64 {
        let mut end = 0;
        for filter in [format!("usage.{}.*", self.shard()), subject::ledger(self.shard())] {
            let jetstream = &self.connection.jetstream;
            let last = runtime::nats::last_on_subject(jetstream, subject::LOG, &filter).await;
            end = end.max(last.unwrap().map_or(0, |message| message.sequence));
        }
        let checkpoint = || async {
            sqlx::query_scalar::<_, i64>("select seq from ledger.checkpoint where shard = $1")
                .bind(i32::from(self.shard().0))
                .fetch_optional(&self.pool)
                .await
                .unwrap()
                .map_or(0, |seq| u64::try_from(seq).unwrap())
        };
        eventually("the shard is folded", || async { checkpoint().await >= end }).await;
        checkpoint().await
    }

    pub fn shard(&self) -> Shard {
        Shard::of(self.tenant, SHARDS)
    }

    pub fn id(&mut self) -> Uuid {
        self.next += 1;
        id(self.next)
    }

    pub async fn decide(&mut self, facts: Vec<ControlFact>) {
        let decision = Decision {
            v: 1,
            decision: DecisionId(self.id()),
            at: Timestamp(0),
            by: "test".into(),
            tenant: self.tenant,
            shard: None,
            facts,
        };
        runtime::nats::wait_for_stream(
            &self.connection.jetstream,
            subject::LOG,
            Duration::from_secs(60),
        )
        .await
        .unwrap();
        let payload = serde_json::to_vec(&decision).unwrap();
        let subject = subject::control(&decision.facts[0]);
        self.connection.jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap();
    }

    /// A tenant with one project, one key, and perhaps a hard quota on the key; nodes know of it when this returns.
    pub async fn tenant(&mut self, limit: Option<u64>) {
        let (tenant, project, key) = (self.tenant, self.project, self.key);
        let mut facts = vec![
            ControlFact::TenantCreated {
                tenant,
                name: "t".into(),
                time_zone: "UTC".into(),
                billing: BillingMode::None,
            },
            ControlFact::ProjectCreated { tenant, project, name: "p".into() },
            ControlFact::KeyCreated {
                tenant,
                project,
                key,
                name: "k".into(),
                digest: self.digest,
                hint: String::new(),
                scopes: vec![],
                tools: None,
                expires_at: None,
            },
        ];
        facts.extend(limit.map(|limit| ControlFact::QuotaSet {
            quota: QuotaRule {
                scope: Scope::Key(key),
                meter: MeterName::tool_calls(),
                limit: Quantity(limit),
                kind: QuotaKind::Hard,
                period: PeriodRule::Month,
            },
        }));
        self.decide(facts).await;
        eventually("the key is in its bucket", || async { self.key_state().await.is_some() }).await;
    }

    async fn entry<T: serde::de::DeserializeOwned>(&self, bucket: &str, entry: &str) -> Option<T> {
        let store: jetstream::kv::Store =
            self.connection.jetstream.get_key_value(bucket).await.ok()?;
        let value = store.get(entry.to_owned()).await.ok()??;
        Some(serde_json::from_slice(&value).unwrap())
    }

    pub async fn key_state(&self) -> Option<KeyState> {
        self.key_state_of(&self.digest).await
    }

    pub async fn key_state_of(&self, digest: &KeyDigest) -> Option<KeyState> {
        self.entry(subject::KEYS, &subject::key_entry(digest)).await
    }

    pub async fn watermark(&self, node: &NodeId) -> Option<Watermark> {
        self.entry(subject::WATERMARKS, &subject::watermark_entry(node, self.shard())).await
    }

    /// (consumed, outstanding) of the key as the database has it.
    pub async fn used(&self) -> (i64, i64) {
        let row =
            sqlx::query("select consumed, outstanding from ledger.meter_use where scope = $1")
                .bind(self.key.to_string())
                .fetch_optional(&self.pool)
                .await;
        row.ok().flatten().map_or((0, 0), |row| (row.get(0), row.get(1)))
    }

    /// How many shards each ledger owns, the most first; those with none are left out.
    pub async fn owners(&self) -> Vec<i64> {
        let locks = "select count(*) from pg_locks where locktype = 'advisory' and granted
            and classid = x'746f6c6c'::bigint::oid group by pid order by 1 desc";
        sqlx::query_scalar(locks).fetch_all(&self.pool).await.unwrap()
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        let query = match table {
            "anomaly" => "select count(*) from ledger.anomaly",
            "quarantine" => "select count(*) from ledger.quarantine",
            "hours" => "select coalesce(sum(quantity), 0)::bigint from ledger.hour_total",
            _ => unreachable!(),
        };
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    pub async fn sealed(&self) -> u64 {
        let filters = [subject::ledger(self.shard())];
        let mut reader =
            runtime::nats::Reader::open(&self.connection, subject::LOG, &filters, 0).await.unwrap();
        let mut sum = 0;
        loop {
            let messages = reader.next(1000, Duration::from_millis(300)).await.unwrap();
            if messages.is_empty() {
                return sum;
            }
            for message in messages {
                let batch: schemas::LedgerBatch = serde_json::from_slice(&message.payload).unwrap();
                for fact in batch.facts {
                    if let schemas::LedgerFact::HourSealed { lines, .. } = fact {
                        sum += lines.iter().map(|line| line.delta.0).sum::<u64>();
                    }
                }
            }
        }
    }
}

/// A node that keeps to the protocol and remembers all it said.
pub struct TestNode {
    pub node: NodeId,
    pub epoch: Epoch,
    connection: Connection,
    shard: Shard,
    last_seq: u64,
    position: u64,
}

impl TestNode {
    pub fn new(world: &World, name: &str) -> Self {
        let node = name.parse().unwrap();
        let connection = world.connection.clone();
        Self { node, epoch: Epoch(1), connection, shard: world.shard(), last_seq: 0, position: 1 }
    }

    /// One question, asked once; `None` = no answer came.
    pub async fn ask_once(&self, key: KeyId, lease: LeaseId, want: u64) -> Option<LeaseAnswer> {
        let asks = vec![LeaseAsk {
            lease,
            key,
            want: Quantity(want),
            reserve: std::collections::BTreeMap::new(),
        }];
        let request = LeaseRequest { node: self.node.clone(), epoch: self.epoch, asks };
        let payload = serde_json::to_vec(&request).unwrap();
        let asked = self.connection.client.request(subject::lease_ask(self.shard), payload.into());
        let message = tokio::time::timeout(Duration::from_millis(500), asked).await.ok()?.ok()?;
        serde_json::from_slice::<LeaseReply>(&message.payload).unwrap().answers.pop()
    }

    /// Asks until there is an answer.
    pub async fn ask(&self, key: KeyId, lease: LeaseId, want: u64) -> LeaseAnswer {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(answer) = self.ask_once(key, lease, want).await {
                return answer;
            }
            assert!(Instant::now() < give_up, "no answer to a lease question");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn granted(&self, key: KeyId, lease: LeaseId, want: u64) -> Lease {
        match self.ask(key, lease, want).await {
            LeaseAnswer::Granted(lease) => lease,
            LeaseAnswer::Refused { why, .. } => panic!("refused: {why:?}"),
        }
    }

    pub async fn publish(&mut self, records: Vec<Record>) {
        let batch = UsageBatch {
            v: 1,
            node: self.node.clone(),
            epoch: self.epoch,
            shard: self.shard,
            first_seq: self.position,
            records,
        };
        self.position += batch.records.len() as u64;
        self.send(&batch).await;
    }

    pub async fn send(&mut self, batch: &UsageBatch) {
        let payload = serde_json::to_vec(batch).unwrap();
        let subject = subject::usage(self.shard, &self.node);
        let stored = publish_expecting(
            &self.connection.jetstream,
            subject,
            None,
            payload.into(),
            self.last_seq,
        );
        self.last_seq = stored.await.unwrap();
    }

    pub fn call(lease: &Lease) -> Record {
        Record::Usage(UsageEvent {
            at: lease.granted_at,
            tenant: lease.tenant,
            project: lease.project,
            key: lease.key,
            lease: Some(lease.lease),
            method: "tools/call".into(),
            tool: "echo".into(),
            outcome: Outcome::Success,
            quantities: [(MeterName::tool_calls(), Quantity(1))].into(),
            duration_us: 5,
            bytes_in: 5,
            bytes_out: 5,
            server: None,
            trace: None,
        })
    }

    pub fn close(lease: &Lease, spent: u64) -> Record {
        let spent =
            lease.shares.iter().map(|share| (share.meter.clone(), Quantity(spent))).collect();
        Record::LeaseClosed { lease: lease.lease, tenant: lease.tenant, spent }
    }
}

pub fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Waits until `holds`; panics with `claim` after 30 s.
pub async fn eventually<F: Future<Output = bool>>(claim: &str, mut holds: impl FnMut() -> F) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < give_up, "{claim}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub async fn kill(service: &mut Service) {
    service.kill().await.unwrap();
}
