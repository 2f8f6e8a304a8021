//! The loop itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use ledger_core::{Changes, Demand, NodeState, ShardState};
use runtime::nats::{PublishError, last_on_subject, publish_expecting};
use schemas::{
    KeyId, KeyState, LeaseAnswer, LedgerBatch, NodeId, Shard, Timestamp, Watermark,
    lease::LeaseRecall, subject,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    ShardError,
    asks::{self, Question},
    control,
    decide::{self, Pending},
    publish::{self, News},
    read::{self, Read},
};
use crate::{
    Shared,
    store::{self, StoreError, Write},
    streams,
};

/// How often seals are looked for.
const TICK: Duration = Duration::from_millis(200);
/// How often the units of one key are recalled at most.
const RECALL_PAUSE: Duration = Duration::from_millis(200);

/// How long after the last commit usage waits for the next one: rows that many messages change are written once for all
/// of them. What nodes must know of keys does not wait.
const COMMIT_PAUSE: Duration = Duration::from_millis(100);

type Answers = Vec<(async_nats::Subject, Vec<LeaseAnswer>)>;

/// A message of ours that is on its way, and what to say once it is stored.
struct InFlight {
    stored: AbortOnDropHandle<Result<u64, PublishError>>,
    answers: Answers,
}

struct Work<'a> {
    shared: &'a Arc<Shared>,
    state: ShardState,
    changes: Changes,
    pending: Pending,
    /// The next decision waits until `ledger.<shard>` is folded up to here.
    fold_first: u64,
    in_flight: Option<InFlight>,
    committing: Option<AbortOnDropHandle<Result<Write, StoreError>>>,
    committed: u64,
    commit_after: tokio::time::Instant,
    log_created_ms: i64,
    news: mpsc::UnboundedSender<News>,
    look: bool,
    demand: Demand,
    recalled: HashMap<KeyId, tokio::time::Instant>,
}

/// Runs one shard from its checkpoint until `stop` or trouble.
pub(super) async fn run(
    shared: &Arc<Shared>,
    shard: Shard,
    stop: &CancellationToken,
) -> Result<(), ShardError> {
    let nats = |error: crate::LedgerError| ShardError::Nats(Box::new(error));
    let log_created_ms = streams::log_created_ms(&shared.nats).await.map_err(nats)?;
    let (state, published) = store::load(&shared.pool, shard, log_created_ms).await?;
    let reader = read::open(&shared.nats, shard, state.seq).await?;
    let own =
        last_on_subject(&shared.nats.jetstream, subject::LOG, &subject::ledger(shard)).await?;

    let (read_to, mut entries) = mpsc::channel(4);
    let (control_to, mut decisions) = mpsc::channel(256);
    let (ask_to, mut questions) = mpsc::channel(1024);
    let (news, news_from) = mpsc::unbounded_channel();
    let subscriber = asks::open(&shared.nats.client, shard).await?;
    let _read = AbortOnDropHandle::new(tokio::spawn(read::run(reader, shard, read_to)));
    let _control = AbortOnDropHandle::new(tokio::spawn(control::run(
        shared.nats.clone(),
        (shard, shared.shards),
        state.control_seq,
        control_to,
    )));
    let _asks = AbortOnDropHandle::new(tokio::spawn(asks::run(subscriber, ask_to)));
    let mut telling =
        AbortOnDropHandle::new(tokio::spawn(publish::run(Arc::clone(shared), shard, news_from)));

    let keys = store::unpublished_keys(&shared.pool, &state, published).await?;
    let mut work = Work {
        shared,
        committed: state.seq,
        commit_after: tokio::time::Instant::now(),
        fold_first: own.map_or(0, |message| message.sequence),
        state,
        changes: Changes::default(),
        pending: Pending::default(),
        in_flight: None,
        committing: None,
        log_created_ms,
        news,
        look: false,
        demand: Demand::default(),
        recalled: HashMap::new(),
    };
    work.tell(keys, work.state.nodes());
    tracing::info!(shard = shard.0, stream.seq = work.state.seq, "Owns the shard");
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return work.finish().await,
            read = entries.recv() => work.fold(read.ok_or(ShardError::Ended("reader"))??),
            taken = decisions.recv() => work.pending.control.push_back(taken.ok_or(ShardError::Ended("control"))??),
            question = questions.recv() => work.hear(question.ok_or(ShardError::Ended("asks"))?, &mut questions),
            stored = stored(&mut work.in_flight) => work.stored(stored?).await,
            committed = committed(&mut work.committing) => work.committed(committed?)?,
            told = &mut telling => return Err(told.map_or(ShardError::Ended("publisher"), |told| {
                told.err().unwrap_or(ShardError::Ended("publisher"))
            })),
            () = tokio::time::sleep_until(work.commit_after), if work.may_commit() => {}
            _ = tick.tick() => work.tick(),
        }
        while let Ok(taken) = decisions.try_recv() {
            work.pending.control.push_back(taken?);
        }
        work.commit_in_time();
        work.decide().await;
    }
}

/// Waits for our message to be stored; for ever when there is none.
async fn stored(in_flight: &mut Option<InFlight>) -> Result<u64, ShardError> {
    match in_flight {
        Some(flight) => {
            Ok((&mut flight.stored).await.map_err(|_| ShardError::Ended("writer"))??)
        }
        None => std::future::pending().await,
    }
}

/// Waits for the commit that runs; for ever when there is none.
async fn committed(
    committing: &mut Option<AbortOnDropHandle<Result<Write, StoreError>>>,
) -> Result<Result<Write, StoreError>, ShardError> {
    match committing {
        Some(commit) => commit.await.map_err(|_| ShardError::Ended("store")),
        None => std::future::pending().await,
    }
}

impl Work<'_> {
    fn fold(&mut self, messages: Vec<Read>) {
        for (seq, entry) in messages {
            let (quarantined, anomalies) =
                (self.changes.quarantined.len(), self.changes.anomalies.len());
            self.state.apply(seq, &entry, &mut self.changes);
            for found in &self.changes.quarantined[quarantined..] {
                tracing::error!(
                    stream.seq = seq,
                    reason = found.reason,
                    "Quarantines what cannot be counted"
                );
                metrics::counter!("tollbook_ledger_quarantined_total").increment(1);
            }
            for anomaly in &self.changes.anomalies[anomalies..] {
                tracing::warn!(
                    stream.seq = seq,
                    kind = anomaly.kind,
                    detail = anomaly.detail,
                    "Anomaly"
                );
                metrics::counter!("tollbook_ledger_anomalies_total", "kind" => anomaly.kind)
                    .increment(1);
            }
        }
        let shard = self.state.shard.to_string();
        metrics::gauge!("tollbook_ledger_folded_seq", "shard" => shard)
            .set(precise(self.state.seq));
    }

    fn hear(&mut self, question: Question, more: &mut mpsc::Receiver<Question>) {
        self.pending.questions.push_back(question);
        while let Ok(question) = more.try_recv() {
            self.pending.questions.push_back(question);
        }
    }

    /// Whether there is something to commit and no commit runs.
    fn may_commit(&self) -> bool {
        self.committing.is_none() && self.state.seq != self.committed
    }

    /// Begins a commit of what was folded, when it is time.
    fn commit_in_time(&mut self) {
        let now = tokio::time::Instant::now();
        if now >= self.commit_after || !self.changes.keys.is_empty() {
            self.commit();
        }
    }

    /// Begins a commit of what was folded, unless one runs.
    fn commit(&mut self) {
        if !self.may_commit() {
            return;
        }
        self.commit_after = tokio::time::Instant::now() + COMMIT_PAUSE;
        let changes = std::mem::take(&mut self.changes);
        let write = Write::gather(&self.state, changes, self.committed, self.log_created_ms);
        let pool = self.shared.pool.clone();
        self.committing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            write.commit(&pool).await?;
            Ok(write)
        })));
    }

    fn committed(&mut self, result: Result<Write, StoreError>) -> Result<(), ShardError> {
        self.committing = None;
        let write = result?;
        self.committed = write.to_seq();
        let (keys, nodes) = write.into_news();
        self.tell(keys, nodes);
        Ok(())
    }

    fn tell(&self, keys: Vec<KeyState>, nodes: Vec<(NodeId, NodeState)>) {
        let watermarks = nodes
            .into_iter()
            .map(|(node, state)| (node, watermark(&state, self.committed)))
            .collect();
        // The receiver ends only with the loop, which sees it end.
        let _ = self.news.send(News { keys, watermarks, as_of: self.committed });
    }

    fn tick(&mut self) {
        self.look = true;
        self.demand.forget(Timestamp::from(chrono::Utc::now()));
    }

    /// Decides what waits, unless a message of ours is still on its way or not yet folded.
    async fn decide(&mut self) {
        if self.in_flight.is_some() || self.state.ledger_seq < self.fold_first {
            return;
        }
        let now = Timestamp::from(chrono::Utc::now());
        let look = std::mem::take(&mut self.look);
        let (policies, demand) = (&self.shared.policies, &mut self.demand);
        let Some(decided) =
            decide::decide(&self.state, &mut self.pending, now, policies, demand, look)
        else {
            return;
        };
        self.recall(&decided.recalls).await;
        match decided.batch {
            Some(batch) => self.write(batch, decided.answers),
            None => self.answer(decided.answers).await,
        }
    }

    fn write(&mut self, batch: LedgerBatch, answers: Answers) {
        let jetstream = self.shared.nats.jetstream.clone();
        let (subject, expected) = (subject::ledger(self.state.shard), self.state.ledger_seq);
        let stored = AbortOnDropHandle::new(tokio::spawn(async move {
            let payload = serde_json::to_vec(&batch)
                .map_err(|error| PublishError::Unknown(Box::new(error)))?;
            publish_expecting(&jetstream, subject, None, payload.into(), expected).await
        }));
        self.in_flight = Some(InFlight { stored, answers });
    }

    /// Our message is on the log: now, and not before, the nodes may hear of their leases.
    async fn stored(&mut self, seq: u64) {
        self.fold_first = seq;
        if let Some(flight) = self.in_flight.take() {
            self.answer(flight.answers).await;
        }
    }

    async fn answer(&self, answers: Answers) {
        for (reply, said) in answers {
            let granted =
                said.iter().filter(|answer| matches!(answer, LeaseAnswer::Granted(_))).count()
                    as u64;
            metrics::counter!("tollbook_ledger_leases_granted_total").increment(granted);
            metrics::counter!("tollbook_ledger_leases_refused_total")
                .increment(said.len() as u64 - granted);
            asks::answer(&self.shared.nats.client, reply, said).await;
        }
    }

    /// Asks all nodes for units that somebody wants; each key once in a while.
    async fn recall(&mut self, keys: &BTreeSet<KeyId>) {
        self.recalled.retain(|_, at| at.elapsed() < RECALL_PAUSE);
        for key in keys {
            if self.recalled.contains_key(key) {
                continue;
            }
            self.recalled.insert(*key, tokio::time::Instant::now());
            let Ok(payload) = serde_json::to_vec(&LeaseRecall { key: *key }) else { continue };
            let sent = self
                .shared
                .nats
                .client
                .publish(subject::lease_recall(self.state.shard), payload.into())
                .await;
            if let Err(error) = sent {
                tracing::debug!(%error, "A recall was not sent");
            }
        }
    }

    /// Stores what is folded and ends.
    async fn finish(mut self) -> Result<(), ShardError> {
        if self.committing.is_some() {
            let result = committed(&mut self.committing).await?;
            self.committed(result)?;
        }
        self.commit();
        if self.committing.is_some() {
            committed(&mut self.committing).await??;
        }
        Ok(())
    }
}

fn watermark(state: &NodeState, as_of: u64) -> Watermark {
    let running = state.epochs.iter().filter(|(_, epoch)| !epoch.ended);
    let epochs = running.map(|(epoch, state)| (*epoch, state.seen.watermark)).collect();
    Watermark { epochs, ended: state.ended(), as_of }
}

/// A gauge is a float; a sequence below 2^52 is exact in it.
fn precise(seq: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a metric, never a count")]
    let gauge = seq as f64;
    gauge
}
