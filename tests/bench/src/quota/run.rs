//! One run: the parts, the ledger, the nodes, who was killed, and what can be seen of it from outside.

use std::{collections::BTreeMap, fmt, fs, io, time::Duration};

use ledger_core::Row;
use runtime::nats::Reader;
use schemas::{KeyId, subject};
use sqlx::PgPool;
use stack::{Part, Service, ServiceSettings, ports};

use super::node::{Done, Files, go};
use crate::{
    Outcome,
    report::measure,
    rig::{Rig, wait_until},
    tenants::{secret, tenants},
};

const SHARDS: u16 = 16;
const TIMEOUT: Duration = Duration::from_secs(120);

pub struct Run {
    rig: Rig,
    pool: PgPool,
    ledger: Service,
    nodes: Vec<Member>,
    key: KeyId,
    limit: u64,
}

struct Member {
    name: String,
    files: Files,
    process: Service,
    dead: bool,
}

/// What a run came to; the units and laws are explained in the module above.
pub struct Ended {
    pub admitted: u64,
    pub answered: u64,
    pub held: u64,
    pub false_refusals: u64,
    pub messages_per_1000_calls: f64,
    pub last_percent_s: f64,
    took_s: f64,
    refusals: BTreeMap<String, u64>,
    messages: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { admitted, answered, held, false_refusals, refusals, .. } = self;
        write!(
            f,
            "{admitted} counted, {answered} answered, {held} held by the dead; {:.2} s, the last percent {:.3} s; \
             refused: {refusals:?}, of them too early: {false_refusals}; {}",
            self.took_s, self.last_percent_s, self.messages
        )
    }
}

impl Run {
    pub async fn start(nodes: usize, limit: u64) -> Outcome<Self> {
        let rig = Rig::start().await?;
        rig.make_log(SHARDS).await?;
        let database = rig.postgres.create_database("tollbook").await?;
        let ledger = rig.ledger("ledger", &database, &[]).await?;
        let tenant = tenants(1, 1, SHARDS, |_| Some(limit)).remove(0);
        let decision = tenant.decision(mcp_node::clock::wall());
        let subject = subject::control(&decision.facts[0]);
        let payload = serde_json::to_vec(&decision)?;
        rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
        let key = tenant.keys[0];
        let mut members = Vec::new();
        for number in 0..nodes {
            members.push(Member::start(&rig, format!("node-{number}"), key).await?);
        }
        let pool = PgPool::connect(&database).await?;
        let ready = || async { Ok(members.iter().all(|member| member.files.ready().exists())) };
        wait_until("every node knows the key", TIMEOUT, ready).await?;
        Ok(Self { rig, pool, ledger, nodes: members, key, limit })
    }

    /// Lets all nodes begin.
    pub fn begin(&self) -> Outcome<()> {
        Ok(fs::write(go(self.rig.folder.path()), "")?)
    }

    /// Waits until so many calls were answered.
    pub async fn after(&self, calls: u64) -> Outcome<()> {
        wait_until("calls are made", TIMEOUT, || async { Ok(self.answered()? >= calls) }).await
    }

    pub async fn kill_node(&mut self, number: usize) -> Outcome<()> {
        let member = &mut self.nodes[number];
        member.dead = true;
        Ok(member.process.kill().await?)
    }

    /// Kills the ledger and starts it again.
    pub async fn kill_ledger(&mut self) -> Outcome<()> {
        self.ledger.kill().await?;
        Ok(self.ledger.start_again().await?)
    }

    /// Starts the nodes again that were killed.
    pub async fn revive(&mut self) -> Outcome<()> {
        for member in self.nodes.iter_mut().filter(|member| member.dead) {
            member.process.start_again().await?;
            member.dead = false;
        }
        Ok(())
    }

    /// Waits until every node was told that the quota is exhausted, and all is counted.
    pub async fn exhausted(&self) -> Outcome<()> {
        let told = || async {
            let told = self.nodes.iter().all(|member| member.files.done().exists());
            Ok(told && self.units().await?.1 == 0)
        };
        wait_until("every node is told that the quota is exhausted", TIMEOUT, told).await
    }

    /// Waits until nothing is left but what dead nodes hold.
    pub async fn only_the_dead_hold(&self) -> Outcome<()> {
        let rest = || async {
            let (consumed, outstanding, held) = self.units().await?;
            Ok(outstanding == held && consumed + held >= self.limit)
        };
        wait_until("only dead nodes hold units", TIMEOUT, rest).await
    }

    pub async fn stop(mut self) -> Outcome<()> {
        let all = self.nodes.iter_mut().map(|member| member.process.stop());
        futures::future::try_join_all(all).await?;
        self.pool.close().await;
        Ok(self.ledger.stop().await?)
    }

    /// What the ledger counted, what is out, and how much of that the dead hold: of one moment.
    async fn units(&self) -> Outcome<(u64, u64, u64)> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("set transaction isolation level repeatable read, read only")
            .execute(&mut *tx)
            .await?;
        let (consumed, outstanding): (i64, i64) =
            sqlx::query_as("select consumed, outstanding from ledger.meter_use where scope = $1")
                .bind(self.key.to_string())
                .fetch_optional(&mut *tx)
                .await?
                .unwrap_or_default();
        let leases: Vec<String> =
            sqlx::query_scalar("select body::text from ledger.fold_state where kind = 'lease'")
                .fetch_all(&mut *tx)
                .await?;
        tx.commit().await?;
        let mut held = 0;
        for lease in leases {
            if let Row::Lease { row } = serde_json::from_str(&lease)?
                && self
                    .nodes
                    .iter()
                    .any(|member| member.dead && member.name == row.lease.node.as_str())
            {
                let units: u64 = row.lease.shares.iter().map(|share| share.units.0).sum();
                held += units - row.spent.values().sum::<u64>();
            }
        }
        Ok((u64::try_from(consumed)?, u64::try_from(outstanding)?, held))
    }

    fn answered(&self) -> Outcome<u64> {
        let mut calls = 0;
        for member in &self.nodes {
            calls += fs::metadata(member.files.admitted()).map_or(0, |meta| meta.len() / 8);
        }
        Ok(calls)
    }

    /// Everything that can be said of the run as it stands.
    pub async fn look(&self) -> Outcome<Ended> {
        let (mut admitted, mut refused) = (Vec::new(), Vec::new());
        let (mut refusals, mut sent, mut got) = (BTreeMap::new(), 0, 0);
        for Member { files, .. } in &self.nodes {
            let times = read_if_there(&files.admitted())?;
            let times = times.as_chunks::<8>().0.iter().map(|time| u64::from_le_bytes(*time));
            admitted.extend(times);
            for line in String::from_utf8(read_if_there(&files.refused())?)?.lines() {
                let (time, reason) = line.split_once(' ').ok_or("half a line")?;
                refused.push(time.parse::<u64>()?);
                *refusals.entry(reason.to_owned()).or_default() += 1;
            }
            if let Ok(done) = fs::read(files.done()) {
                let done: Done = serde_json::from_slice(&done)?;
                (sent, got) = (sent + done.sent, got + done.got);
            }
        }
        admitted.sort_unstable();
        let last = admitted.last().copied().unwrap_or(0);
        let percent = admitted.len() / 100;
        let seconds =
            |from: usize| measure(last - admitted.get(from).copied().unwrap_or(last)) / 1e6;
        let (usage, ledger) = self.stored().await?;
        let (consumed, _, held) = self.units().await?;
        Ok(Ended {
            admitted: consumed,
            answered: admitted.len() as u64,
            held,
            false_refusals: refused.iter().filter(|time| **time < last).count() as u64,
            messages_per_1000_calls: measure((sent + got + ledger) * 1_000)
                / measure(consumed.max(1)),
            last_percent_s: seconds(admitted.len().saturating_sub(percent + 1)),
            took_s: seconds(0),
            refusals,
            messages: format!(
                "messages: {sent} from nodes, {got} to nodes; on the log {usage} of nodes, {ledger} of the ledger"
            ),
        })
    }

    /// How many messages of nodes and of the ledger are on the log.
    async fn stored(&self) -> Outcome<(u64, u64)> {
        let mut reader = Reader::open(&self.rig.connection, subject::LOG, &[], 0).await?;
        let (mut usage, mut ledger) = (0, 0);
        loop {
            let messages = reader.next(2_000, Duration::from_millis(500)).await?;
            if messages.is_empty() {
                return Ok((usage, ledger));
            }
            let of_ledger =
                messages.iter().filter(|m| m.subject.starts_with("ledger.")).count() as u64;
            (usage, ledger) = (usage + messages.len() as u64 - of_ledger, ledger + of_ledger);
        }
    }
}

impl Member {
    async fn start(rig: &Rig, name: String, key: KeyId) -> Outcome<Self> {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let folder = rig.folder.path().to_string_lossy().into_owned();
        let args = ["quota-node", &rig.nats.url(), &folder, &name, &secret(key), &listen];
        let settings = ServiceSettings {
            binary: "bench".to_owned(),
            name: name.clone(),
            args: args.map(Into::into).into(),
            env: Vec::new(),
            health: format!("http://{listen}/health"),
        };
        let process = Service::start(&rig.folder, settings).await?;
        let files = Files::new(rig.folder.path(), &name);
        Ok(Self { name, files, process, dead: false })
    }
}

fn read_if_there(path: &std::path::Path) -> Outcome<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => Ok(read?),
    }
}
