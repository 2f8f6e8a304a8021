//! One test's servers, streams and tables, and ways to ask the admin API.

use std::{collections::HashMap, time::Duration};

use admin_api::{AdminError, Config};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use runtime::{nats, settings::Secret};
use schemas::{Decision, subject};
use serde_json::Value;
use stack::{ClickHouse, Folder, Postgres};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub const TOKEN: &str = "an operator's token, long enough";
const SHARDS: &str = "16";
const TIMEOUT: Duration = Duration::from_secs(180);

pub struct World {
    pub nats_server: stack::Nats,
    pub clickhouse: ClickHouse,
    pub log: nats::Nats,
    postgres: Postgres,
    postgres_url: String,
    _folder: Folder,
}

/// An admin-api that runs in this process.
pub struct Admin {
    pub base: String,
    http: runtime::http::Client,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AdminError>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl World {
    pub async fn start() -> Self {
        let folder = Folder::temporary().unwrap();
        let (nats_server, clickhouse, postgres) = tokio::try_join!(
            stack::Nats::start(&folder),
            ClickHouse::start(&folder),
            Postgres::start(&folder)
        )
        .unwrap();
        let log = nats::connect(&nats_server.url(), "test").await.unwrap();
        let postgres_url = postgres.create_database("tollbook").await.unwrap();
        let world = Self { nats_server, clickhouse, log, postgres, postgres_url, _folder: folder };
        world.make_streams().await;
        world.make_usage_tables().await;
        world.make_read_model().await;
        world
    }

    async fn make_streams(&self) {
        for spec in subject::STREAMS {
            let stream = nats::Stream {
                name: spec.name,
                subjects: spec.subjects,
                max_age: spec.max_age,
                max_message_bytes: spec.max_message_bytes,
                replicas: 1,
                metadata: HashMap::from([(subject::SHARDS_METADATA.to_owned(), SHARDS.to_owned())]),
            };
            nats::ensure_stream(&self.log.jetstream, stream).await.unwrap();
        }
    }

    /// The tables as ingest makes them.
    async fn make_usage_tables(&self) {
        const DDL: &str = include_str!("../../../ingest/clickhouse/0004_usage_hour.sql");
        let code: Vec<&str> = DDL.lines().map(|line| line.split("--").next().unwrap()).collect();
        self.clickhouse.query("CREATE DATABASE meter").await.unwrap();
        for statement in code.join("\n").split(';').filter(|statement| !statement.trim().is_empty())
        {
            let statement = statement.replace("IF NOT EXISTS ", "IF NOT EXISTS meter.");
            self.clickhouse.query(&statement).await.unwrap();
        }
    }

    /// The tables that the ledger offers its readers, as far as they are read here.
    async fn make_read_model(&self) {
        self.sql("create schema ledger").await;
        self.sql(
            "create table ledger.hour_total (tenant_id text, project_id text, key_id text, meter text, hour bigint, \
             quantity bigint)",
        )
        .await;
        self.sql(
            "create table ledger.checkpoint (shard int primary key, seq bigint, at_ms bigint)",
        )
        .await;
    }

    pub async fn sql(&self, statement: &'static str) {
        use sqlx::{Connection, Executor};
        let mut connection = sqlx::PgConnection::connect(&self.postgres_url).await.unwrap();
        connection.execute(statement).await.unwrap();
    }

    /// Settings of one admin-api on a free port.
    pub fn config(&self) -> Config {
        let (user, password) = (self.clickhouse.user(), self.clickhouse.password());
        let address = self.clickhouse.url().trim_start_matches("http://");
        Config {
            nats_url: self.nats_server.url(),
            postgres_url: Secret::new(self.postgres_url.clone()),
            clickhouse_url: Secret::new(format!("http://{user}:{password}@{address}/meter")),
            listen: format!("127.0.0.1:{}", stack::ports::free().unwrap()),
            operator_token: Secret::new(TOKEN.to_owned()),
            public_url: String::new(),
        }
    }

    pub async fn admin(&self) -> Admin {
        let config = self.config();
        let base = format!("http://{}", config.listen);
        let stop = CancellationToken::new();
        let task = tokio::spawn(admin_api::run(config, stop.clone()));
        let admin = Admin { base, http: runtime::http::Client::default(), stop, task };
        admin.until_ready().await;
        admin
    }

    /// The decisions on one subject, in order.
    pub async fn decisions(&self, subject: &str) -> Vec<Decision> {
        let mut reader = nats::Reader::open(&self.log, subject::CONTROL, &[subject.to_owned()], 0)
            .await
            .unwrap();
        let mut found = Vec::new();
        loop {
            let messages = reader.next(100, Duration::from_millis(300)).await.unwrap();
            if messages.is_empty() {
                return found;
            }
            found.extend(
                messages
                    .iter()
                    .map(|message| serde_json::from_slice::<Decision>(&message.payload).unwrap()),
            );
        }
    }

    /// Adds one cell to the rollup: billable, free and refused calls.
    pub async fn add_cell(
        &self,
        ids: (&str, &str, &str),
        tool: &str,
        hour: i64,
        counts: (u64, u64, u64),
    ) {
        let (tenant, project, key) = ids;
        let uuid = |id: &str| {
            format!("toUUID('{}')", uuid::Uuid::parse_str(id.split_once('_').unwrap().1).unwrap())
        };
        let (calls, free, refused) = counts;
        let tool = tool.replace('\\', "\\\\").replace('\'', "\\'");
        self.clickhouse
            .query(&format!(
                "INSERT INTO meter.usage_hour SELECT {}, {}, {}, '{tool}', toDateTime({}, 'UTC'), 1, {calls}, {free}, \
                 {refused}, 1, 1, 1, quantilesTimingStateIf(0.5, 0.95, 0.99)(toUInt32(12), {calls} + {free} > 0) FROM system.one",
                uuid(tenant), uuid(project), uuid(key), hour * 3600
            ))
            .await
            .unwrap();
    }

    /// Says that the rollup has come to message `seq`, which was stored at `ms`.
    pub async fn progress(&self, seq: u64, ms: i64) {
        let statement = format!(
            "INSERT INTO meter.rollup_progress SELECT 'usage_hour', 1, {seq}, fromUnixTimestamp64Milli({ms}::Int64, 'UTC')"
        );
        self.clickhouse.query(&statement).await.unwrap();
    }

    /// Adds billable calls to the ledger's read model.
    pub async fn count_in_ledger(&self, tenant: &str, hour: i64, calls: i64) {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.postgres_url).await.unwrap();
        sqlx::query(
            "insert into ledger.hour_total values ($1, 'prj_x', 'key_x', 'tool_calls', $2, $3)",
        )
        .bind(tenant)
        .bind(hour)
        .bind(calls)
        .execute(&mut connection)
        .await
        .unwrap();
    }

    pub async fn stop_clickhouse(&mut self) {
        use stack::Part;
        self.clickhouse.kill().await.unwrap();
    }

    pub async fn stop_postgres(&mut self) {
        use stack::Part;
        self.postgres.stop().await.unwrap();
    }
}

impl Admin {
    async fn until_ready(&self) {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            assert!(!self.task.is_finished(), "admin-api ended at its start");
            let request =
                Request::get(format!("{}/ready", self.base)).body(Full::default()).unwrap();
            if self
                .http
                .send(request, TIMEOUT, 10_000)
                .await
                .is_ok_and(|answer| answer.status() == StatusCode::OK)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("admin-api was not ready within {TIMEOUT:?}");
    }

    /// Sends a request as it is.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let response: Response<Bytes> = self.http.send(request, TIMEOUT, 10_000_000).await.unwrap();
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[("authorization", &bearer())], "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send_json(Method::POST, path, body).await
    }

    pub async fn send_json(&self, method: Method, path: &str, body: Value) -> Answer {
        let headers =
            [("authorization", bearer()), ("content-type", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.send(method, path, &headers, &body.to_string()).await
    }

    pub async fn post_once(&self, path: &str, key: &str, body: Value) -> Answer {
        let (bearer, kind) = (bearer(), "application/json");
        let headers =
            [("authorization", bearer.as_str()), ("content-type", kind), ("idempotency-key", key)];
        self.send(Method::POST, path, &headers, &body.to_string()).await
    }

    /// A tenant, a project in it and a key in that: their ids and the secret.
    pub async fn tenant_project_key(&self) -> (String, String, String, String) {
        let made = |answer: Answer| answer.ok(StatusCode::CREATED);
        let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
        let tenant = text(
            &made(self.post("/admin/tenants", serde_json::json!({"name": "Acme"})).await),
            "id",
        );
        let body = serde_json::json!({"tenant_id": tenant, "name": "Search"});
        let project = text(&made(self.post("/admin/projects", body).await), "id");
        let body = serde_json::json!({"project_id": project, "name": "k"});
        let key = made(self.post("/admin/api-keys", body).await);
        (tenant, project, text(&key, "id"), text(&key, "secret"))
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Answer {
    /// The body, which must come with this status.
    #[track_caller]
    pub fn ok(&self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    /// The slug of a problem, and the problem.
    #[track_caller]
    pub fn problem(&self) -> (String, Value) {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{}", self.text);
        let body: Value = serde_json::from_str(&self.text).unwrap();
        assert_eq!(body["status"], self.status.as_u16());
        (body["type"].as_str().unwrap().trim_start_matches("/problems/").to_owned(), body)
    }
}

pub fn bearer() -> String {
    format!("Bearer {TOKEN}")
}
