//! A simulated node: the real lease book, a spool that survives a crash, and the publisher's protocol.

use std::collections::BTreeMap;

use mcp_node_core::{
    Now,
    lease_book::{Action, LeaseBook, MeterDemand, Needs, Take, Unit},
};
use schemas::{
    Epoch, LeaseAnswer, LeaseAsk, LeaseId, LeaseRequest, MeterName, NodeId, Outcome, Quantity,
    Record, Timestamp, UsageBatch, UsageEvent, Watermark,
};
use uuid::Uuid;

use crate::{
    bug::Bug,
    model::{KEYS, MAX_TOKENS, PROJECT, SHARD, TENANT, tokens},
    random::Random,
};

/// One record as the spool keeps it.
#[derive(Clone, Debug)]
pub struct Spooled {
    pub epoch: Epoch,
    pub seq: u64,
    pub record: Record,
}

/// A call in flight.
pub struct Call {
    key: usize,
    unit: Unit,
    at: Timestamp,
}

/// A publish on its way.
pub struct Sending {
    pub token: u64,
    since_ms: u64,
    last: (Epoch, u64),
}

/// What only the running process knows.
pub struct Process {
    books: Vec<LeaseBook>,
    asking: Vec<Option<(LeaseAsk, u64)>>,
    calls: Vec<Call>,
    next_seq: u64,
    sending: Option<Sending>,
    /// (sequence of our last message on the log, its last position); `None` = the log must be asked.
    tip: Option<(u64, (Epoch, u64))>,
    mono_base: u64,
}

/// One node: a disk, clocks, and perhaps a process.
pub struct Node {
    pub name: NodeId,
    pub epoch: Epoch,
    pub spool: Vec<Spooled>,
    pub disk_full: bool,
    /// The wall clock's error. Unit: milliseconds.
    pub wall_error: i64,
    pub process: Option<Process>,
    dropped_to: (Epoch, u64),
    needs: Needs,
    bug: Option<Bug>,
}

/// What a finished call was worth to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The client has the answer; it must count, in this period's time.
    Counted(Timestamp),
    Free,
    /// The node could not record: the client got an error.
    Refused,
}

impl Node {
    pub fn new(number: usize, bug: Option<Bug>) -> Self {
        Self {
            name: format!("node-{number}").parse().expect("a name"),
            epoch: Epoch(0),
            spool: Vec::new(),
            disk_full: false,
            wall_error: 0,
            process: None,
            dropped_to: (Epoch(0), 0),
            needs: [
                MeterDemand { meter: MeterName::tool_calls(), units: 1 },
                MeterDemand { meter: tokens(), units: MAX_TOKENS },
            ]
            .into(),
            bug,
        }
    }

    fn now(&self, true_ms: u64) -> Now {
        let base = self.process.as_ref().map_or(0, |process| process.mono_base);
        let wall = i64::try_from(true_ms).unwrap_or(i64::MAX).saturating_add(self.wall_error);
        Now { mono_ms: true_ms - base, wall: Timestamp(wall) }
    }

    /// Begins a new epoch: what the spool holds of older ones goes first, then the end of each.
    pub fn start(&mut self, true_ms: u64) {
        let ended = self.epoch;
        if ended > Epoch(0) {
            let last = self.last_seq(ended);
            let closed =
                self.spool.iter().any(|s| s.epoch == ended && s.record == Record::EpochEnded);
            let place = if self.bug == Some(Bug::EpochEndsEarly) {
                self.spool.iter().position(|s| s.epoch == ended).unwrap_or(self.spool.len())
            } else {
                self.spool.len()
            };
            if !closed && self.dropped_to < (ended, u64::MAX) {
                self.spool.insert(
                    place,
                    Spooled { epoch: ended, seq: last + 1, record: Record::EpochEnded },
                );
                if self.bug == Some(Bug::EpochEndsEarly) {
                    // The mistake: it takes the first free place, and pushes what was not sent behind it.
                    for (offset, spooled) in
                        self.spool.iter_mut().filter(|s| s.epoch == ended).enumerate()
                    {
                        spooled.seq = self.dropped_to.1 + 1 + offset as u64;
                    }
                }
            }
        }
        self.epoch = Epoch(ended.0 + 1);
        self.process = Some(Process {
            books: KEYS.iter().map(|key| LeaseBook::new(*key, true, true, 1)).collect(),
            asking: vec![None; KEYS.len()],
            calls: Vec::new(),
            next_seq: 1,
            sending: None,
            tip: None,
            mono_base: true_ms.saturating_sub(7),
        });
    }

    fn last_seq(&self, epoch: Epoch) -> u64 {
        let dropped = if self.dropped_to.0 == epoch { self.dropped_to.1 } else { 0 };
        self.spool
            .iter()
            .filter(|s| s.epoch == epoch)
            .map(|s| s.seq)
            .max()
            .unwrap_or(0)
            .max(dropped)
    }

    /// A client calls. `None` = it was turned away.
    pub fn call(&mut self, true_ms: u64, key: usize, random: &mut Random) -> Option<()> {
        if self.disk_full && self.bug != Some(Bug::IgnoreFullDisk) {
            return None;
        }
        let now = self.now(true_ms);
        let process = self.process.as_mut()?;
        let mut actions = Vec::new();
        let id = LeaseId(Uuid::from_u128(random.id()));
        let taken = process.books[key].take(now, &self.needs, || id, &mut actions);
        if let Take::Unit(unit) = taken {
            let at = unit.at(now.wall);
            process.calls.push(Call { key, unit, at });
        }
        self.act(key, actions, true_ms);
        Some(())
    }

    /// A call's answer came. It is recorded before the client has it, then the unit is settled.
    /// A success counts for one call and `used` tokens.
    pub fn finish(&mut self, true_ms: u64, which: usize, used: Option<u64>) -> Finished {
        let success = used.is_some();
        let Some(process) = self.process.as_mut() else { return Finished::Free };
        if process.calls.is_empty() {
            return Finished::Free;
        }
        let place = which % process.calls.len();
        let Call { key, unit, at } = process.calls.swap_remove(place);
        let counted = |used: u64| {
            let quantities = [(MeterName::tool_calls(), 1), (tokens(), used)];
            quantities.map(|(meter, units)| (meter, Quantity(units))).into()
        };
        let quantities: BTreeMap<MeterName, Quantity> = used.map(counted).unwrap_or_default();
        let record = Record::Usage(UsageEvent {
            at,
            tenant: TENANT,
            project: PROJECT,
            key: KEYS[key],
            lease: Some(unit.lease),
            method: "tools/call".to_owned(),
            tool: "echo".to_owned(),
            outcome: if success { Outcome::Success } else { Outcome::ToolError },
            quantities: quantities.clone(),
            duration_us: 1,
            bytes_in: 1,
            bytes_out: 1,
            server: None,
            trace: None,
        });
        let mut actions = Vec::new();
        if self.bug == Some(Bug::CloseEarly) {
            process.books[key].settle(unit, &quantities, &mut actions);
            self.act(key, actions, true_ms);
            let written = self.append(record);
            return if success && written { Finished::Counted(at) } else { Finished::Free };
        }
        let lost = self.bug == Some(Bug::AnswerBeforeSpool) && at.0 % 5 == 0;
        let written = if lost { true } else { self.append(record) };
        let answered = written || self.bug == Some(Bug::IgnoreFullDisk);
        let process = self.process.as_mut().expect("it runs");
        let counted = if answered { quantities } else { BTreeMap::new() };
        process.books[key].settle(unit, &counted, &mut actions);
        self.act(key, actions, true_ms);
        match (success, answered) {
            (true, true) => Finished::Counted(at),
            (false, true) => Finished::Free,
            (_, false) => Finished::Refused,
        }
    }

    fn append(&mut self, record: Record) -> bool {
        if self.disk_full {
            return false;
        }
        let Some(process) = self.process.as_mut() else { return false };
        self.spool.push(Spooled { epoch: self.epoch, seq: process.next_seq, record });
        process.next_seq += 1;
        true
    }

    fn act(&mut self, key: usize, actions: Vec<Action>, true_ms: u64) {
        for action in actions {
            match action {
                Action::Ask(ask) => {
                    if let Some(process) = self.process.as_mut() {
                        process.asking[key] = Some((ask, true_ms));
                    }
                }
                Action::Close { lease, spent } => {
                    // A node keeps room for these; in this world a full disk frees itself in time.
                    let full = std::mem::replace(&mut self.disk_full, false);
                    self.append(Record::LeaseClosed { lease, tenant: TENANT, spent });
                    self.disk_full = full;
                }
                Action::Stop => return self.process = None,
            }
        }
    }

    /// The questions that are open now, to be sent (again).
    pub fn questions(&mut self, random: &mut Random) -> Option<LeaseRequest> {
        let (name, epoch, bug) = (self.name.clone(), self.epoch, self.bug);
        let process = self.process.as_mut()?;
        if bug == Some(Bug::NewIdEachTime) {
            for (ask, _) in process.asking.iter_mut().flatten() {
                ask.lease = LeaseId(Uuid::from_u128(random.id()));
            }
        }
        let asks: Vec<LeaseAsk> =
            process.asking.iter().flatten().map(|(ask, _)| ask.clone()).collect();
        (!asks.is_empty()).then_some(LeaseRequest { node: name, epoch, asks })
    }

    pub fn answered(&mut self, true_ms: u64, epoch: Epoch, answers: &[LeaseAnswer]) {
        if epoch != self.epoch {
            return; // An answer to a process that is gone: its inbox went with it.
        }
        for answer in answers {
            let now = self.now(true_ms);
            let Some(process) = self.process.as_mut() else { return };
            let lease = match answer {
                LeaseAnswer::Granted(lease) => lease.lease,
                LeaseAnswer::Refused { lease, .. } => *lease,
            };
            let matches = |open: &Option<(LeaseAsk, u64)>| {
                open.as_ref().is_some_and(|(ask, _)| ask.lease == lease)
            };
            let Some(key) = process.asking.iter().position(matches) else { continue };
            process.asking[key] = None;
            let mut actions = Vec::new();
            match answer {
                LeaseAnswer::Granted(lease) if self.bug == Some(Bug::LateStart) => {
                    let mut late = lease.clone();
                    late.expires_at = late.expires_at.plus_ms(20_000);
                    process.books[key].granted(now, &late, &mut actions);
                }
                LeaseAnswer::Granted(lease) => process.books[key].granted(now, lease, &mut actions),
                LeaseAnswer::Refused { lease, why } => {
                    process.books[key].refused(now, *lease, why.clone(), &mut actions);
                }
            }
            self.act(key, actions, true_ms);
        }
    }

    pub fn recalled(&mut self, true_ms: u64) {
        self.each_book(true_ms, |book, now, actions| book.recalled(now, actions));
    }

    pub fn tick(&mut self, true_ms: u64) {
        self.each_book(true_ms, |book, now, actions| book.tick(now, actions));
    }

    pub fn close_all(&mut self, true_ms: u64) {
        self.each_book(true_ms, |book, _, actions| book.close_all(actions));
    }

    fn each_book(&mut self, true_ms: u64, act: impl Fn(&mut LeaseBook, Now, &mut Vec<Action>)) {
        let now = self.now(true_ms);
        for key in 0..KEYS.len() {
            let Some(process) = self.process.as_mut() else { return };
            let mut actions = Vec::new();
            act(&mut process.books[key], now, &mut actions);
            self.act(key, actions, true_ms);
        }
    }

    /// The log says what it has of us: we go on behind it.
    pub fn learn_tip(&mut self, seq: u64, last: (Epoch, u64)) {
        if let Some(process) = self.process.as_mut() {
            process.tip = Some((seq, last));
            process.sending = None;
        }
    }

    pub fn wants_tip(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.tip.is_none())
    }

    /// The next message to publish: consecutive records of one epoch behind the tip.
    pub fn publish(
        &mut self,
        true_ms: u64,
        token: u64,
        max: usize,
    ) -> Option<(UsageBatch, Option<u64>)> {
        let (name, bug) = (self.name.clone(), self.bug);
        let process = self.process.as_mut()?;
        if process.sending.is_some() {
            return None;
        }
        let (seq, last) = process.tip?;
        let mut next = self.spool.iter().filter(|s| (s.epoch, s.seq) > last).peekable();
        let (epoch, first_seq) = next.peek().map(|s| (s.epoch, s.seq))?;
        let records: Vec<Record> =
            next.take_while(|s| s.epoch == epoch).take(max).map(|s| s.record.clone()).collect();
        let last = (epoch, first_seq + records.len() as u64 - 1);
        process.sending = Some(Sending { token, since_ms: true_ms, last });
        let first_seq =
            if bug == Some(Bug::Renumber) { seq * 1_000 + first_seq } else { first_seq };
        let batch = UsageBatch { v: 1, node: name, epoch, shard: SHARD, first_seq, records };
        Some((batch, (bug != Some(Bug::Renumber)).then_some(seq)))
    }

    /// The log answered. Any doubt: ask the log.
    pub fn acknowledged(&mut self, token: u64, stored: Result<u64, ()>) {
        let Some(process) = self.process.as_mut() else { return };
        let Some(sending) = process.sending.take_if(|sending| sending.token == token) else {
            return;
        };
        process.tip = stored.ok().map(|seq| (seq, sending.last));
    }

    /// A publish that was not answered in time.
    pub fn give_up(&mut self, true_ms: u64) {
        let Some(process) = self.process.as_mut() else { return };
        let Some(sending) = process.sending.take_if(|sending| true_ms > sending.since_ms + 3_000)
        else {
            return;
        };
        process.tip = match (self.bug, process.tip) {
            (Some(Bug::TrustLostAck), Some((seq, _))) => Some((seq, sending.last)),
            _ => None,
        };
    }

    /// The ledger has folded this much: the spool may forget it.
    pub fn watermark(&mut self, watermark: &Watermark) {
        let folded = |s: &Spooled| {
            watermark.ended.is_some_and(|ended| s.epoch <= ended)
                || watermark.epochs.get(&s.epoch).is_some_and(|seq| s.seq <= *seq)
        };
        let dropped = self.spool.iter().filter(|s| folded(s)).map(|s| (s.epoch, s.seq)).max();
        self.dropped_to = dropped.map_or(self.dropped_to, |dropped| self.dropped_to.max(dropped));
        self.spool.retain(|s| !folded(s));
    }

    /// The key of a call in flight; `which` wraps around. `None` = no call is in flight.
    pub fn call_key(&self, which: usize) -> Option<usize> {
        let calls = &self.process.as_ref()?.calls;
        Some(calls.get(which.checked_rem(calls.len())?)?.key)
    }
}
