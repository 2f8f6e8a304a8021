//! The real parts: NATS, PostgreSQL, the ledger, and nodes as processes; keys of tenants of their own.

use std::time::Duration;

use runtime::nats::{Nats as Connection, Stream, ensure_stream};
use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, KeyDigest, KeyId, MeterName, PeriodRule,
    ProjectId, Quantity, QuotaKind, QuotaRule, RateLimits, Scope, TenantId, Timestamp,
    fact::VERSION,
    subject::{self, LOG, SHARDS_METADATA, STREAMS},
};
use stack::{Folder, Nats, Postgres, Service, ServiceSettings, ports};
use uuid::Uuid;

use crate::{Failure, raw, usage::Usage};

/// One shard: the records of a node are one sequence, and what was recorded before a call stands before its record.
const SHARDS: u16 = 1;
const KEY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a record may be on its way to the log, on a machine that does much else.
pub const RECORD_TIMEOUT: Duration = Duration::from_secs(180);

/// A call of a tool as everybody writes it.
#[must_use]
pub fn well_formed(tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
    )
}

/// What a key may do.
#[derive(Clone, Debug, Default)]
pub struct KeyRules {
    /// A hard quota by the month; `None` = no limit.
    pub quota: Option<u64>,
    pub tools: Option<Vec<String>>,
    pub scopes: Vec<String>,
    pub rate: Option<RateLimits>,
}

/// A key that the ledger knows, of a tenant of its own.
#[derive(Clone, Debug)]
pub struct Key {
    pub secret: String,
    pub tenant: TenantId,
    pub key: KeyId,
}

/// A running node.
pub struct NodeProcess {
    /// `host:port`.
    pub address: String,
    process: Service,
}

impl NodeProcess {
    /// The last lines that it has logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// What stands around the nodes.
pub struct Rig {
    pub folder: Folder,
    pub usage: Usage,
    connection: Connection,
    nats: Nats,
    database: String,
    _ledger: Service,
    _postgres: Postgres,
}

impl Rig {
    /// Starts everything but nodes.
    ///
    /// # Errors
    /// A part does not come up.
    pub async fn start() -> Result<Self, Failure> {
        let folder = Folder::temporary()?;
        let (nats, postgres) = tokio::try_join!(Nats::start(&folder), Postgres::start(&folder))?;
        let connection = runtime::nats::connect(&nats.url(), "differential").await?;
        for spec in STREAMS {
            let born = (spec.name == LOG).then(|| (SHARDS_METADATA.to_owned(), SHARDS.to_string()));
            let stream = Stream {
                name: spec.name,
                subjects: spec.subjects,
                max_age: spec.max_age,
                max_message_bytes: spec.max_message_bytes,
                replicas: 1,
                metadata: born.into_iter().collect(),
            };
            ensure_stream(&connection.jetstream, stream).await?;
        }
        let database = postgres.create_database("tollbook").await?;
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let settings = ServiceSettings {
            binary: "ledger".to_owned(),
            name: "ledger".to_owned(),
            args: vec!["serve".into()],
            env: vec![
                ("LEDGER_NATS_URL".to_owned(), nats.url()),
                ("LEDGER_POSTGRES_URL".to_owned(), database.clone()),
                ("LEDGER_LISTEN".to_owned(), listen.clone()),
                ("RUST_LOG".to_owned(), "warn".to_owned()),
            ],
            health: format!("http://{listen}/health"),
        };
        let ledger = Service::start(&folder, settings).await?;
        let usage = Usage::follow(&connection).await?;
        Ok(Self { folder, usage, connection, nats, database, _ledger: ledger, _postgres: postgres })
    }

    /// Makes a tenant with one key; `number` names it.
    ///
    /// # Errors
    /// NATS does not take the decision.
    pub async fn key(&self, number: u64, rules: KeyRules) -> Result<Key, Failure> {
        let mut keys = self.tenant(number, vec![rules]).await?;
        keys.pop().ok_or_else(|| "a tenant without keys".into())
    }

    /// Makes a tenant with some keys; `number` names it.
    ///
    /// # Errors
    /// NATS does not take the decision.
    pub async fn tenant(&self, number: u64, rules: Vec<KeyRules>) -> Result<Vec<Key>, Failure> {
        let id = |kind: u64| {
            let place = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Uuid::from_u128(u128::from(place) << 64 | u128::from(kind << 32 | number))
        };
        let (tenant, project) = (TenantId(id(1)), ProjectId(id(2)));
        let mut facts = vec![
            ControlFact::TenantCreated {
                tenant,
                name: format!("Tenant {number}"),
                time_zone: "UTC".to_owned(),
                billing: BillingMode::None,
            },
            ControlFact::ProjectCreated { tenant, project, name: "main".to_owned() },
        ];
        let mut keys = Vec::new();
        for (place, rules) in (16..).zip(rules) {
            let key = KeyId(id(place));
            let secret = format!("tb_{}", key.0.simple());
            facts.push(ControlFact::KeyCreated {
                tenant,
                project,
                key,
                name: format!("key {place}"),
                digest: KeyDigest::of(&secret),
                hint: schemas::secret::hint(&secret),
                scopes: rules.scopes,
                tools: rules.tools,
                expires_at: None,
            });
            facts.extend(rules.quota.map(|limit| ControlFact::QuotaSet {
                quota: QuotaRule {
                    scope: Scope::Key(key),
                    meter: MeterName::tool_calls(),
                    limit: Quantity(limit),
                    kind: QuotaKind::Hard,
                    period: PeriodRule::Month,
                },
            }));
            facts.extend(rules.rate.map(|rate| ControlFact::KeyRateSet { key, rate: Some(rate) }));
            keys.push(Key { secret, tenant, key });
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let at = Timestamp(i64::try_from(now.as_millis())?);
        let decision = DecisionId(id(3));
        let by = "differential".to_owned();
        let subject = subject::control(&facts[0]);
        let decision = Decision { v: VERSION, decision, at, by, tenant, shard: None, facts };
        let payload = serde_json::to_vec(&decision)?;
        self.connection.jetstream.publish(subject, payload.into()).await?.await?;
        Ok(keys)
    }

    /// Starts a node with settings of its file and of its environment.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn node(
        &self,
        name: &str,
        file: &str,
        env: &[(&str, &str)],
    ) -> Result<NodeProcess, Failure> {
        let address = format!("127.0.0.1:{}", ports::free()?);
        let folder = self.folder.part(name)?;
        let config = folder.join("node.toml");
        std::fs::write(&config, file)?;
        let mut settings = ServiceSettings {
            binary: "mcp-node".into(),
            name: name.into(),
            args: vec![
                "--listen".into(),
                address.clone().into(),
                "--config".into(),
                config.into_os_string(),
            ],
            env: vec![
                ("MCP_NATS_URL".into(), self.nats.url()),
                ("MCP_SPOOL_DIR".into(), folder.join("spool").to_string_lossy().into_owned()),
                ("RUST_LOG".into(), "warn".into()),
            ],
            health: format!("http://{address}/ready"),
        };
        settings.env.extend(env.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let process = Service::start(&self.folder, settings).await?;
        Ok(NodeProcess { address, process })
    }

    /// Waits until a node knows a key.
    ///
    /// # Errors
    /// It does not within a minute.
    pub async fn wait_for_key(&self, node: &NodeProcess, key: &Key) -> Result<(), Failure> {
        let ping = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
        let deadline = tokio::time::Instant::now() + KEY_TIMEOUT;
        loop {
            let answer =
                raw::post(&node.address, "/mcp", &[("x-api-key", &key.secret)], ping).await?;
            if answer.status != 401 && answer.status != 503 {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("the node does not know the key: {}", answer.status).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all that a node has recorded so far is on the log: until the record of one more call is, of a tool
    /// that nobody else calls.
    ///
    /// # Errors
    /// The node does not serve the call, or its record does not come.
    pub async fn all_is_recorded(
        &self,
        node: &NodeProcess,
        path: &str,
        key: &Key,
        tool: &str,
    ) -> Result<(), Failure> {
        let body = well_formed(tool);
        let headers = [("x-api-key", key.secret.as_str())];
        let answer = raw::post(&node.address, path, &headers, &body).await?;
        if answer.status != 200 {
            let (body, log) = (String::from_utf8_lossy(&answer.body), node.log_tail());
            return Err(format!("the node does not serve: {} {body}\n{log}", answer.status).into());
        }
        let is_recorded =
            self.usage.wait_until(RECORD_TIMEOUT, |usage| usage.of_tool(tool).units == 1);
        if !is_recorded.await? {
            let log = self.connection.jetstream.get_stream(LOG).await?;
            let last = log.cached_info().state.last_sequence;
            let metrics = raw::get(&node.address, "/metrics").await?;
            let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
            let of_spool =
                metrics.lines().filter(|line| line.contains("publish") || line.contains("spool"));
            return Err(format!(
                "a call that was answered is not on the log after {RECORD_TIMEOUT:?}: {tool}, {:?}, read up to {} of {last}\n{}\n{}",
                self.usage.of_tool(tool),
                self.usage.read_up_to(),
                of_spool.collect::<Vec<_>>().join("\n"),
                node.log_tail(),
            )
            .into());
        }
        self.usage.forget(tool);
        Ok(())
    }

    /// What the ledger has counted for a tenant. Unit: units of `tool_calls`.
    ///
    /// # Errors
    /// PostgreSQL does not answer.
    pub async fn counted_by_ledger(&self, tenant: TenantId) -> Result<u64, Failure> {
        let pool = sqlx::PgPool::connect(&self.database).await?;
        let sql = "select coalesce(sum(quantity), 0)::bigint from ledger.hour_total \
                   where tenant_id = $1 and meter = 'tool_calls'";
        let units: i64 = sqlx::query_scalar(sql).bind(tenant.to_string()).fetch_one(&pool).await?;
        pool.close().await;
        Ok(u64::try_from(units)?)
    }
}
