//! A ledger for the tests: grants, settles and counts by the contract, in memory, from the log.
//!
//! It checks what the real one relies on: every position once and in order, no lease overspent, each closing true.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use mcp_node::{clock, spool::Spool};
use mcp_node_core::spool_format::Position;
use parking_lot::Mutex;
use runtime::nats::{Bucket, Nats, Reader, Stream, ensure_bucket, ensure_stream};
use schemas::{
    Epoch, KeyDigest, KeyId, KeyState, KeyStatus, Lease, LeaseAnswer, LeaseAsk, LeaseId,
    LeaseRefusal, LeaseReply, LeaseRequest, MeterName, NodeId, Notice, Period, ProjectId, Quantity,
    Record, Reserve, Scope, Shard, Share, TenantId, UsageBatch, Watermark, lease::LeaseRecall,
    subject,
};
use uuid::Uuid;

pub const SHARDS: u16 = 4;

/// What the ledger knows.
#[derive(Default)]
struct Books {
    keys: HashMap<KeyId, Key>,
    leases: HashMap<LeaseId, Open>,
    answers: HashMap<LeaseId, LeaseAnswer>,
    records: Vec<Placed>,
    /// Keys that a lease was asked for.
    asked: HashSet<KeyId>,
    next: BTreeMap<(NodeId, Epoch, Shard), u64>,
    as_of: u64,
    silent: bool,
    ttl_ms: i64,
    max_units: u64,
}

struct Key {
    state: KeyState,
    /// What was counted, limited or not.
    counted: BTreeMap<MeterName, u64>,
    quotas: BTreeMap<MeterName, Quota>,
    notices: Vec<Notice>,
}

#[derive(Default)]
struct Quota {
    limit: u64,
    consumed: u64,
    outstanding: u64,
    /// `None` = one that began a while ago and ends in a while, whenever it is asked for.
    period: Option<Period>,
}

impl Quota {
    fn left(&self) -> u64 {
        self.limit - self.consumed - self.outstanding
    }
}

struct Open {
    lease: Lease,
    spent: BTreeMap<MeterName, u64>,
}

/// One record and where it stood.
#[derive(Clone, Debug)]
pub struct Placed {
    pub epoch: Epoch,
    pub shard: Shard,
    pub record: Record,
}

#[derive(Clone)]
pub struct Ledger {
    nats: Nats,
    books: Arc<Mutex<Books>>,
}

impl Ledger {
    pub async fn start(nats: &Nats) -> Self {
        for spec in subject::STREAMS {
            let metadata =
                HashMap::from([(subject::SHARDS_METADATA.to_owned(), SHARDS.to_string())]);
            let (max_age, max_message_bytes) = (spec.max_age, spec.max_message_bytes);
            let (name, subjects) = (spec.name, spec.subjects);
            let stream =
                Stream { name, subjects, max_age, max_message_bytes, replicas: 1, metadata };
            ensure_stream(&nats.jetstream, stream).await.unwrap();
        }
        for spec in subject::BUCKETS {
            let bucket = Bucket { name: spec.name, push: spec.push, replicas: 1 };
            ensure_bucket(&nats.jetstream, bucket).await.unwrap();
        }
        let books = Books { ttl_ms: 90_000, max_units: 1_000_000, ..Books::default() };
        let ledger = Self { nats: nats.clone(), books: Arc::new(Mutex::new(books)) };
        let asks = nats.client.subscribe("lease.ask.*").await.unwrap();
        nats.client.flush().await.unwrap();
        tokio::spawn(ledger.clone().answer(asks));
        let reader = Reader::open(nats, subject::LOG, &[], 0).await.unwrap();
        tokio::spawn(ledger.clone().count(reader));
        ledger
    }

    /// Makes a key that serves, with a hard quota of `limit` calls if there is one.
    pub async fn key(&self, secret: &str, limit: Option<u64>) -> KeyState {
        self.key_with(secret, limit, |_| {}).await
    }

    pub async fn key_with(
        &self,
        secret: &str,
        limit: Option<u64>,
        change: impl FnOnce(&mut KeyState),
    ) -> KeyState {
        let tenant = TenantId(Uuid::now_v7());
        let mut state = KeyState {
            key: KeyId(Uuid::now_v7()),
            tenant,
            project: ProjectId(Uuid::now_v7()),
            shard: Shard::of(tenant, SHARDS),
            digest: KeyDigest::of(secret),
            status: KeyStatus::Active,
            reason: String::new(),
            plan: Some("team@2".into()),
            scopes: vec![],
            tools: None,
            expires_at: None,
            rate: None,
            limited: limit.is_some(),
            as_of: 0,
        };
        change(&mut state);
        let quota = limit.map(|limit| Quota { limit, ..Quota::default() });
        let quotas = quota.map(|quota| (MeterName::tool_calls(), quota)).into_iter().collect();
        let (counted, notices) = (BTreeMap::new(), vec![]);
        let key = Key { state: state.clone(), counted, quotas, notices };
        self.books.lock().keys.insert(state.key, key);
        self.put(&mut state).await;
        state
    }

    /// Limits a meter of the key, hard; `period` = which, if it matters. To be said before the key is used.
    pub fn limit(&self, key: &KeyState, meter: &str, limit: u64, period: Option<Period>) {
        let quota = Quota { limit, period, ..Quota::default() };
        let mut books = self.books.lock();
        books.keys.get_mut(&key.key).unwrap().quotas.insert(meter.parse().unwrap(), quota);
    }

    /// What leases of the key say of quotas that near their limit, from now on.
    pub fn warn(&self, key: &KeyState, notices: Vec<Notice>) {
        self.books.lock().keys.get_mut(&key.key).unwrap().notices = notices;
    }

    /// Publishes a state, newer than all before.
    pub async fn put(&self, state: &mut KeyState) {
        state.as_of = {
            let mut books = self.books.lock();
            books.as_of += 1;
            let as_of = books.as_of;
            books.keys.get_mut(&state.key).unwrap().state = state.clone();
            as_of
        };
        let bucket = self.nats.jetstream.get_key_value(subject::KEYS).await.unwrap();
        bucket
            .put(subject::key_entry(&state.digest), serde_json::to_vec(state).unwrap().into())
            .await
            .unwrap();
    }

    /// Answers nothing any more, or again.
    pub fn silence(&self, silent: bool) {
        self.books.lock().silent = silent;
    }

    /// How long leases last and how many units one holds at most, from now on.
    pub fn grant(&self, ttl_ms: i64, max_units: u64) {
        let mut books = self.books.lock();
        (books.ttl_ms, books.max_units) = (ttl_ms, max_units);
    }

    /// Holds so many calls of the key's quota, as a node does that never gives them back.
    pub fn hold(&self, key: &KeyState, units: u64) {
        let mut books = self.books.lock();
        let quotas = &mut books.keys.get_mut(&key.key).unwrap().quotas;
        quotas.get_mut(&MeterName::tool_calls()).unwrap().outstanding += units;
    }

    pub async fn recall(&self, key: &KeyState) {
        let payload = serde_json::to_vec(&LeaseRecall { key: key.key }).unwrap();
        self.nats.client.publish(subject::lease_recall(key.shard), payload.into()).await.unwrap();
    }

    /// What was counted for the key.
    pub fn consumed(&self, key: &KeyState) -> u64 {
        self.used(key, "tool_calls")
    }

    /// What was counted of a meter.
    pub fn used(&self, key: &KeyState, meter: &str) -> u64 {
        let books = self.books.lock();
        books.keys[&key.key].counted.get(&meter.parse().unwrap()).copied().unwrap_or(0)
    }

    /// Units that leases of the key still hold.
    pub fn outstanding(&self, key: &KeyState) -> u64 {
        self.books.lock().keys[&key.key].quotas.values().map(|quota| quota.outstanding).sum()
    }

    /// Whether a lease was asked for.
    pub fn was_asked(&self, key: &KeyState) -> bool {
        self.books.lock().asked.contains(&key.key)
    }

    /// Whether it has read everything that the spool holds.
    pub fn has_all(&self, spool: &Spool) -> bool {
        let books = self.books.lock();
        (0..SHARDS).map(Shard).all(|shard| {
            let Position { epoch, seq, .. } = spool.appended(shard);
            let next = books.next.get(&(spool.node().clone(), Epoch(epoch), shard));
            seq == 0 || next == Some(&(seq + 1))
        })
    }

    /// How many leases are open.
    pub fn open_leases(&self) -> usize {
        self.books.lock().leases.len()
    }

    /// Everything that was said, in the log's order.
    pub fn records(&self) -> Vec<Placed> {
        self.books.lock().records.clone()
    }

    /// Says to the node that everything was counted.
    pub async fn push_watermarks(&self, node: &NodeId) {
        let (next, as_of) = {
            let books = self.books.lock();
            (books.next.clone(), books.records.len() as u64)
        };
        let bucket = self.nats.jetstream.get_key_value(subject::WATERMARKS).await.unwrap();
        for shard in (0..SHARDS).map(Shard) {
            let of_shard = next.iter().filter(|((n, _, s), _)| n == node && *s == shard);
            let epochs = of_shard.map(|((_, epoch, _), next)| (*epoch, next - 1)).collect();
            let watermark = Watermark { epochs, ended: None, as_of };
            let entry = subject::watermark_entry(node, shard);
            bucket.put(entry, serde_json::to_vec(&watermark).unwrap().into()).await.unwrap();
        }
    }

    async fn answer(self, mut asks: async_nats::Subscriber) {
        while let Some(message) = asks.next().await {
            let request: LeaseRequest = serde_json::from_slice(&message.payload).unwrap();
            let (answers, recalls) = {
                let mut books = self.books.lock();
                if books.silent {
                    continue;
                }
                let answers: Vec<_> =
                    request.asks.iter().map(|ask| books.grant(ask, &request)).collect();
                (answers, books.recalls(&request))
            };
            for key in recalls {
                self.recall(&key).await;
            }
            let reply = serde_json::to_vec(&LeaseReply { answers }).unwrap();
            self.nats.client.publish(message.reply.unwrap(), reply.into()).await.unwrap();
        }
    }

    async fn count(self, mut reader: Reader) {
        loop {
            match reader.next(1_000, Duration::from_secs(1)).await {
                Ok(messages) => {
                    for message in messages {
                        let batch = serde_json::from_slice(&message.payload).unwrap();
                        self.books.lock().count(batch);
                    }
                }
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Books {
    fn grant(&mut self, ask: &LeaseAsk, request: &LeaseRequest) -> LeaseAnswer {
        if let Some(answer) = self.answers.get(&ask.lease) {
            return answer.clone(); // The same question has the same answer.
        }
        self.asked.insert(ask.key);
        let (ttl_ms, max) = (self.ttl_ms, self.max_units);
        let key = self.keys.get_mut(&ask.key).unwrap();
        let now = clock::wall();
        let period = Period { from: now.plus_ms(-1_000_000), to: now.plus_ms(1_000_000) };
        let refused = |why| LeaseAnswer::Refused { lease: ask.lease, why };
        if key.state.status != KeyStatus::Active {
            return refused(LeaseRefusal::KeyNotActive);
        }
        let shard = key.state.shard;
        let later = |(node, epoch, of): &(NodeId, Epoch, Shard)| {
            *node == request.node && *epoch > request.epoch && *of == shard
        };
        if self.next.keys().any(later) {
            return refused(LeaseRefusal::EpochEnded);
        }
        let mut shares = vec![];
        // What this epoch of this node holds of the key itself.
        let own = |open: &&Open| {
            let lease = &open.lease;
            (&lease.node, lease.epoch, lease.key) == (&request.node, request.epoch, ask.key)
        };
        let own_unspent = |meter: &MeterName| -> u64 {
            let unspent = |open: &Open| {
                let units = open.lease.share(meter).map_or(0, |units| units.0);
                units - open.spent.get(meter).copied().unwrap_or(0)
            };
            self.leases.values().filter(own).map(unspent).sum()
        };
        for (meter, quota) in &key.quotas {
            let held = Some(Quantity(quota.outstanding - own_unspent(meter)));
            let reserve = Reserve { per_call: Quantity(1), want: ask.want };
            let reserve = ask.reserve.get(meter).copied().unwrap_or(reserve);
            let (per_call, left) = (reserve.per_call.0, quota.left());
            let (meter, scope, limit) = (meter.clone(), Scope::Key(ask.key), Quantity(quota.limit));
            let period = quota.period.unwrap_or(period);
            if quota.limit - quota.consumed < per_call {
                return refused(LeaseRefusal::QuotaExhausted { meter, scope, limit, period });
            }
            if left < per_call {
                let retry_ms = 50;
                return refused(LeaseRefusal::UnitsHeld { meter, scope, limit, period, retry_ms });
            }
            let units = reserve.want.0.min(max).min(left.div_ceil(4)).max(per_call);
            let (units, left) = (Quantity(units), Quantity(left - units));
            shares.push(Share { meter, units, left, held, limit, period });
        }
        for share in &shares {
            key.quotas.get_mut(&share.meter).unwrap().outstanding += share.units.0;
        }
        let lease = Lease {
            lease: ask.lease,
            tenant: key.state.tenant,
            project: key.state.project,
            key: ask.key,
            node: request.node.clone(),
            epoch: request.epoch,
            granted_at: now,
            expires_at: now.plus_ms(ttl_ms),
            shares,
            rate: key.state.rate,
            notices: key.notices.clone(),
        };
        let open = Open { lease: lease.clone(), spent: BTreeMap::new() };
        self.leases.insert(ask.lease, open);
        let answer = LeaseAnswer::Granted(lease);
        self.answers.insert(ask.lease, answer.clone());
        answer
    }

    /// Keys that someone asks for while their units are held.
    fn recalls(&self, request: &LeaseRequest) -> Vec<KeyState> {
        let is_short = |ask: &&LeaseAsk| {
            self.keys[&ask.key].quotas.iter().any(|(meter, quota)| {
                let per_call = ask.reserve.get(meter).map_or(1, |reserve| reserve.per_call.0);
                quota.outstanding > 0 && quota.left() < per_call
            })
        };
        let short = request.asks.iter().filter(is_short);
        short.map(|ask| self.keys[&ask.key].state.clone()).collect()
    }

    fn count(&mut self, batch: UsageBatch) {
        let UsageBatch { node, epoch, shard, first_seq, records, .. } = batch;
        let next = self.next.entry((node.clone(), epoch, shard)).or_insert(1);
        assert_eq!(*next, first_seq, "every position once and in order: {node} {epoch:?} {shard}");
        *next += records.len() as u64;
        for record in records {
            self.fold(epoch, shard, &record);
            self.records.push(Placed { epoch, shard, record });
        }
    }

    fn fold(&mut self, epoch: Epoch, shard: Shard, record: &Record) {
        match record {
            Record::Usage(event) => {
                // A test that only publishes has no leases.
                let Some(open) = event.lease.and_then(|lease| self.leases.get_mut(&lease)) else {
                    return;
                };
                assert!(
                    (open.lease.granted_at..open.lease.expires_at).contains(&event.at),
                    "{event:?}"
                );
                let key = self.keys.get_mut(&event.key).unwrap();
                for (meter, Quantity(counted)) in &event.quantities {
                    *key.counted.entry(meter.clone()).or_default() += counted;
                    let Some(share) = open.lease.share(meter) else { continue };
                    let spent = open.spent.entry(meter.clone()).or_default();
                    *spent += counted;
                    assert!(*spent <= share.0, "overspent: {:?}", open.lease);
                    let quota = key.quotas.get_mut(meter).unwrap();
                    quota.outstanding -= counted;
                    quota.consumed += counted;
                    assert!(quota.consumed + quota.outstanding <= quota.limit);
                }
            }
            Record::LeaseClosed { lease, spent, .. } => {
                let Some(open) = self.leases.remove(lease) else {
                    // A new epoch is announced by the closing of a lease that was never asked for.
                    assert!(spent.is_empty(), "closed once, and only what was granted");
                    return;
                };
                let counted = open.lease.shares.iter().map(|share| {
                    let spent = open.spent.get(&share.meter).copied().unwrap_or(0);
                    (share.meter.clone(), Quantity(spent))
                });
                assert_eq!(*spent, counted.collect(), "what it says was spent");
                self.free(&open);
            }
            Record::EpochEnded => {
                let here = |lease: &Lease| Shard::of(lease.tenant, SHARDS) == shard;
                let of_epoch = |open: &Open| open.lease.epoch == epoch && here(&open.lease);
                let all = self.leases.iter().filter(|(_, open)| of_epoch(open));
                let ended: Vec<LeaseId> = all.map(|(lease, _)| *lease).collect();
                for lease in ended {
                    let open = self.leases.remove(&lease).unwrap();
                    self.free(&open);
                }
            }
            Record::Refused { .. } => {}
        }
    }

    fn free(&mut self, open: &Open) {
        let key = self.keys.get_mut(&open.lease.key).unwrap();
        for share in &open.lease.shares {
            let spent = open.spent.get(&share.meter).copied().unwrap_or(0);
            key.quotas.get_mut(&share.meter).unwrap().outstanding -= share.units.0 - spent;
        }
    }
}
