//! One test's servers, log and tables, and ways to ask them.

use std::time::Duration;

use ingest::{Config, IngestError};
use runtime::{nats, settings::Secret};
use schemas::{
    ControlFact, Decision, DecisionId, LedgerBatch, LedgerFact, Resolution, Shard, TenantId,
    Timestamp, UsageBatch, subject,
};
use stack::{ClickHouse, Folder, Part};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a condition may take to become true.
const TIMEOUT: Duration = Duration::from_secs(180);

pub struct World {
    pub clickhouse: ClickHouse,
    pub nats_server: stack::Nats,
    pub log: nats::Nats,
    _folder: Folder,
}

/// An ingest that runs in this process.
pub struct Ingest {
    stop: CancellationToken,
    task: JoinHandle<Result<(), IngestError>>,
}

impl World {
    pub async fn start() -> Self {
        let folder = Folder::temporary().unwrap();
        let (clickhouse, nats_server) =
            tokio::try_join!(ClickHouse::start(&folder), stack::Nats::start(&folder)).unwrap();
        let log = nats::connect(&nats_server.url(), "test").await.unwrap();
        let world = Self { clickhouse, nats_server, log, _folder: folder };
        world.make_log().await;
        world
    }

    /// Makes the log, but so that messages can be deleted: some tests lose them.
    pub async fn make_log(&self) {
        let spec = subject::STREAMS.iter().find(|spec| spec.name == subject::LOG).unwrap();
        let config = async_nats::jetstream::stream::Config {
            name: spec.name.to_owned(),
            subjects: spec.subjects.iter().map(ToString::to_string).collect(),
            max_message_size: spec.max_message_bytes,
            ..Default::default()
        };
        self.log.jetstream.create_stream(config).await.unwrap();
    }

    /// Settings of an ingest that speaks to ClickHouse at `address` (`host:port`), in small fast batches.
    pub fn config(&self, address: &str) -> Config {
        let (user, password) = (self.clickhouse.user(), self.clickhouse.password());
        Config {
            nats_url: self.nats_server.url(),
            clickhouse_url: Secret::new(format!("http://{user}:{password}@{address}/meter")),
            listen: "127.0.0.1:0".to_owned(),
            batch_rows: 400,
            flush_ms: 5,
            roll_ms: 20,
            accept_new_stream: false,
        }
    }

    /// `host:port` of ClickHouse itself.
    pub fn address(&self) -> String {
        self.clickhouse.url().trim_start_matches("http://").to_owned()
    }

    pub fn ingest(&self) -> Ingest {
        Ingest::start(self.config(&self.address()))
    }

    /// Appends a message to the log and gives its sequence.
    pub async fn publish(&self, subject: String, payload: Vec<u8>) -> u64 {
        let sent = self.log.jetstream.publish(subject, payload.into()).await.unwrap();
        sent.await.unwrap().sequence
    }

    pub async fn publish_batch(&self, batch: &UsageBatch) -> u64 {
        self.publish(subject::usage(batch.shard, &batch.node), serde_json::to_vec(batch).unwrap())
            .await
    }

    /// The ledger takes in that a person let something out of quarantine.
    pub async fn release(&self, resolution: Resolution) -> u64 {
        let tenant = TenantId(Uuid::from_u128(1));
        let fact = ControlFact::QuarantineResolved { seq: 1, record: 1, resolution };
        let decision = Decision {
            v: 1,
            decision: DecisionId(Uuid::from_u128(7)),
            at: Timestamp(0),
            by: "test".into(),
            tenant,
            shard: None,
            facts: vec![fact],
        };
        let facts = vec![LedgerFact::ControlTaken { control_seq: 1, decision }];
        let batch = LedgerBatch { v: 1, shard: Shard(0), at: Timestamp(0), facts };
        self.publish(subject::ledger(batch.shard), serde_json::to_vec(&batch).unwrap()).await
    }

    pub async fn publish_ledger(&self) -> u64 {
        let batch = LedgerBatch { v: 1, shard: Shard(0), at: Timestamp(0), facts: vec![] };
        self.publish(subject::ledger(batch.shard), serde_json::to_vec(&batch).unwrap()).await
    }

    /// The answer to a query on the test's tables, as tab-separated text.
    pub async fn ask(&self, query: &str) -> String {
        self.clickhouse.query(query).await.unwrap()
    }

    /// Waits until raw rows and rollup hold everything up to message `seq`.
    pub async fn until_rolled(&self, seq: u64) {
        let query = "SELECT (SELECT max(stream_seq) FROM meter.usage_events), \
                     (SELECT max(stream_seq) FROM meter.rollup_progress)";
        self.until(query, |answer| {
            answer.split('\t').all(|part| part.parse::<u64>().is_ok_and(|reached| reached >= seq))
        })
        .await;
    }

    /// Waits until the answer to a query is as wanted; an error is an answer that is not.
    pub async fn until(&self, query: &str, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        let mut last = String::new();
        while Instant::now() < deadline {
            match self.clickhouse.query(query).await {
                Ok(answer) if wanted(&answer) => return,
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("after {TIMEOUT:?} the answer to {query} is {last}");
    }

    /// Makes the log lose its first messages, as if they had expired.
    pub async fn lose_messages_up_to(&self, seq: u64) {
        let log = self.log.jetstream.get_stream(subject::LOG).await.unwrap();
        log.purge().sequence(seq + 1).await.unwrap();
    }

    /// Makes the log lose one message in its middle.
    pub async fn lose_message(&self, seq: u64) {
        let log = self.log.jetstream.get_stream(subject::LOG).await.unwrap();
        assert!(log.delete_message(seq).await.unwrap());
    }

    pub async fn crash_clickhouse(&mut self) {
        self.clickhouse.kill().await.unwrap();
        self.clickhouse.start_again().await.unwrap();
    }
}

impl Ingest {
    pub fn start(config: Config) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(ingest::run(config, stop.clone()));
        Self { stop, task }
    }

    /// Stops it in an orderly way; it must not have failed.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Cuts it off wherever it is; it may have ended already, as one does whose start is disturbed.
    pub async fn cut_off(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until it stops by itself and says why.
    pub async fn failure(self) -> IngestError {
        tokio::time::timeout(TIMEOUT, self.task).await.unwrap().unwrap().unwrap_err()
    }
}
