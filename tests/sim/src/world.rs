//! The world: time, the wires, and what happens next.

use std::collections::BTreeMap;

use ledger_core::Entry;
use schemas::{Decision, Epoch, LeaseAnswer, PeriodRule, Timestamp, UsageBatch, Watermark};

use crate::{
    bug::Bug,
    database::Database,
    ledger::{InFlight, Ledger, Question},
    log::{Log, Subject},
    model::{KEYS, Limits, MAX_TOKENS, Model, Violation, control, period},
    node::{Finished, Node},
    random::Random,
};

/// 2026-11-30T23:50:00Z: the month ends in the middle of most runs. Unit: milliseconds.
const START_MS: u64 = 1_796_082_600_000;

/// What is on a wire.
#[derive(Clone)]
enum Wire {
    Ask(Question),
    Answer { node: usize, epoch: Epoch, answers: Vec<LeaseAnswer> },
    NodePublish { node: usize, token: u64, batch: UsageBatch, expected: Option<u64> },
    NodeAck { node: usize, token: u64, stored: Result<u64, ()> },
    LedgerPublish { ledger: usize, life: u64, token: u64, entry: Entry, expected: Option<u64> },
    LedgerAck { ledger: usize, life: u64, token: u64, stored: Result<u64, ()> },
    Watermark { node: usize, watermark: Watermark },
    Recall { node: usize },
}

/// One place where a ledger process can run.
#[derive(Default)]
struct Seat {
    process: Option<Ledger>,
    life: u64,
    /// Asleep: it believes whatever it believed, and does nothing until it wakes.
    paused: bool,
}

struct World {
    random: Random,
    bug: Option<Bug>,
    now_ms: u64,
    tokens: u64,
    wires: BTreeMap<(u64, u64), Wire>,
    log: Log,
    database: Database,
    control: Vec<(u64, Decision)>,
    seats: Vec<Seat>,
    owner: Option<usize>,
    nodes: Vec<Node>,
    /// Until when each node is cut off from all others. Unit: milliseconds.
    cut_off: Vec<u64>,
    model: Model,
    /// Percent of messages that are lost, and that are doubled.
    loss: u64,
    doubles: u64,
    delay_ms: u64,
}

/// Runs one seed; returns how many steps it took.
///
/// # Errors
/// The law that did not hold.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<u64, Violation> {
    let mut world = World::new(seed, bug);
    let steps = world.random.between(200, 900);
    for _ in 0..steps {
        world.step();
        world.check()?;
    }
    let more = world.rest()?;
    Ok(steps + more)
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = Random::new(seed);
        let (key, tenant) = (random.between(1, 60), random.between(1, 90));
        let day = random.chance(50).then(|| random.between(1, 40));
        let tokens = random.chance(50).then(|| random.between(1, 60 * MAX_TOKENS));
        let limits = Limits { key, tenant, day, tokens };
        let nodes = random.between(1, 4);
        let nodes: Vec<Node> =
            (0..usize::try_from(nodes).unwrap_or(1)).map(|number| Node::new(number, bug)).collect();
        let start = Timestamp(i64::try_from(START_MS).unwrap_or(0));
        let stormy = random.chance(70);
        let mut world = Self {
            bug,
            now_ms: START_MS + random.below(1_200_000),
            tokens: 0,
            wires: BTreeMap::new(),
            log: Log::default(),
            database: Database::default(),
            control: control(limits, start),
            seats: vec![Seat::default(), Seat::default()],
            owner: None,
            cut_off: vec![0; nodes.len()],
            nodes,
            model: Model::new(limits),
            loss: if stormy { random.below(25) } else { 0 },
            doubles: if stormy { random.below(20) } else { 0 },
            delay_ms: random.between(1, 2_000),
            random,
        };
        for node in &mut world.nodes {
            node.start(world.now_ms);
        }
        world.take_over(0);
        world
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Whether the node that a wire leads to or from is cut off.
    fn is_cut(&self, wire: &Wire) -> bool {
        let node = match wire {
            Wire::Ask(question) => question.from,
            Wire::Answer { node, .. }
            | Wire::NodePublish { node, .. }
            | Wire::NodeAck { node, .. }
            | Wire::Watermark { node, .. }
            | Wire::Recall { node } => *node,
            Wire::LedgerPublish { .. } | Wire::LedgerAck { .. } => return false,
        };
        self.now_ms < self.cut_off[node]
    }

    /// Puts something on a wire: lost, doubled, late, or all is well.
    fn send(&mut self, wire: Wire) {
        if self.is_cut(&wire) || self.random.chance(self.loss) {
            return;
        }
        if self.random.chance(self.doubles) {
            self.put(wire.clone());
        }
        self.put(wire);
    }

    fn put(&mut self, wire: Wire) {
        let at = self.now_ms + self.random.below(self.delay_ms);
        let token = self.token();
        self.wires.insert((at, token), wire);
    }

    /// A request to the log may not be doubled by the wire (the connection is ordered), only lost, late, or unanswered.
    fn publish(&mut self, wire: Wire) {
        if !self.is_cut(&wire) && !self.random.chance(self.loss) {
            self.put(wire);
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..20 => self.now_ms += self.random.below(400),
            20 => self.now_ms += self.random.below(60_000),
            21..45 => self.deliver_next(),
            45..55 => self.node_call(),
            55..65 => self.node_finish(),
            65..73 => self.node_chores(),
            73..89 => self.ledger_work(),
            89 => self.cut_off_node(),
            90..92 => self.crash_node(),
            92..94 => self.crash_ledger(),
            94..96 => self.pause_or_wake(),
            96 => self.clock_jumps(),
            97 => self.disk_fills(),
            _ => self.hand_over(),
        }
        self.deliver_due();
    }

    fn node(&mut self) -> usize {
        self.random.index(self.nodes.len())
    }

    fn node_call(&mut self) {
        let (node, key) = (self.node(), self.random.index(KEYS.len()));
        self.nodes[node].call(self.now_ms, key, &mut self.random);
    }

    fn node_finish(&mut self) {
        let (node, which) = (self.node(), self.random.index(64));
        let used = self.random.chance(85).then(|| self.random.between(0, MAX_TOKENS));
        self.finish(node, which, used);
    }

    fn finish(&mut self, node: usize, which: usize, used: Option<u64>) {
        let before = self.nodes[node].call_key(which);
        if let (Finished::Counted(at), Some(key)) =
            (self.nodes[node].finish(self.now_ms, which, used), before)
        {
            self.model.answered(key, at, used.unwrap_or(0));
        }
    }

    fn node_chores(&mut self) {
        let node = self.node();
        self.chores(node);
    }

    /// What a node's tasks do by themselves: ask, publish, give up, tick, start again.
    fn chores(&mut self, node: usize) {
        let now = self.now_ms;
        if self.nodes[node].process.is_none() {
            self.nodes[node].start(now);
        }
        self.nodes[node].tick(now);
        self.nodes[node].give_up(now);
        if let Some(request) = self.nodes[node].questions(&mut self.random) {
            self.send(Wire::Ask(Question { from: node, request }));
        }
        if self.nodes[node].wants_tip() {
            let tip = self.log.last(Subject::Node(node)).map_or((0, (Epoch(0), 0)), |stored| {
                let Entry::Usage { batch, .. } = &stored.entry else {
                    return (stored.seq, (Epoch(0), 0));
                };
                (stored.seq, (batch.epoch, batch.first_seq + batch.records.len() as u64 - 1))
            });
            self.nodes[node].learn_tip(tip.0, tip.1);
        }
        let (token, max) = (self.token(), self.random.index(6) + 1);
        if let Some((batch, expected)) = self.nodes[node].publish(now, token, max) {
            self.publish(Wire::NodePublish { node, token, batch, expected });
        }
    }

    fn ledger_work(&mut self) {
        let seat = self.random.index(self.seats.len());
        let depth = self.random.index(8) + 1;
        self.work(seat, depth);
    }

    fn work(&mut self, seat: usize, depth: usize) {
        if self.seats[seat].paused {
            return;
        }
        let seals = self.random.chance(20);
        let now = self.now();
        let life = self.seats[seat].life;
        let commits = self.random.chance(60);
        let Some(ledger) = self.seats[seat].process.as_mut() else { return };
        ledger.fold(self.log.read(ledger.state.seq, depth));
        let mut watermarks = Vec::new();
        if commits {
            if !ledger.commit(&mut self.database) {
                self.seats[seat].process = None; // Fenced: somebody else owns the shard.
                return;
            }
            watermarks = ledger.watermarks();
        }
        let decided = ledger.decide(now, &self.control, seals);
        for (name, watermark) in watermarks {
            if let Some(node) = self.nodes.iter().position(|node| node.name == name) {
                self.send(Wire::Watermark { node, watermark });
            }
        }
        let Some(decided) = decided else { return };
        if decided.recall {
            for node in 0..self.nodes.len() {
                self.send(Wire::Recall { node });
            }
        }
        let Some(batch) = decided.batch else { return self.answer(decided.answers) };
        let token = self.token();
        let first = self.bug == Some(Bug::AnswerFirst);
        let (early, late) =
            if first { (decided.answers, vec![]) } else { (vec![], decided.answers) };
        self.answer(early);
        if let Some(ledger) = self.seats[seat].process.as_mut() {
            ledger.in_flight = Some(InFlight { token, answers: late });
        }
        let (entry, expected) = (Entry::Ledger(batch), decided.expected);
        self.publish(Wire::LedgerPublish { ledger: seat, life, token, entry, expected });
        // An acknowledgement that does not come ends this life; the next one folds the log and knows.
        if self.random.chance(self.loss) {
            self.seats[seat].process = None;
        }
    }

    fn answer(&mut self, answers: Vec<(usize, Vec<LeaseAnswer>)>) {
        for (node, answers) in answers {
            let epoch = self.nodes[node].epoch;
            self.send(Wire::Answer { node, epoch, answers });
        }
    }

    fn take_over(&mut self, seat: usize) {
        let last = self.log.last(Subject::Ledger).map_or(0, |stored| stored.seq);
        self.owner = Some(seat);
        self.seats[seat].life += 1;
        self.seats[seat].paused = false;
        self.seats[seat].process = Some(Ledger::begin(&self.database, last, self.bug));
    }

    /// The lock moves; the old owner may not know it yet.
    fn hand_over(&mut self) {
        let seat = self.random.index(self.seats.len());
        if self.owner != Some(seat) || self.seats[seat].process.is_none() {
            self.take_over(seat);
        }
    }

    fn crash_ledger(&mut self) {
        let seat = self.random.index(self.seats.len());
        self.seats[seat].process = None;
    }

    fn pause_or_wake(&mut self) {
        let seat = self.random.index(self.seats.len());
        self.seats[seat].paused = !self.seats[seat].paused;
    }

    fn crash_node(&mut self) {
        let node = self.node();
        self.nodes[node].process = None;
    }

    /// A partition: nothing reaches the node or leaves it, for up to two lease times.
    fn cut_off_node(&mut self) {
        let node = self.node();
        self.cut_off[node] = self.now_ms + self.random.below(60_000);
    }

    fn clock_jumps(&mut self) {
        let node = self.node();
        let far = self.random.below(4_000_000_000);
        self.nodes[node].wall_error = i64::try_from(far).unwrap_or(0) - 2_000_000_000;
    }

    fn disk_fills(&mut self) {
        let node = self.node();
        self.nodes[node].disk_full = self.random.chance(50);
    }

    fn deliver_next(&mut self) {
        if let Some((at, _)) = self.wires.first_key_value().map(|(key, _)| *key) {
            self.now_ms = self.now_ms.max(at);
        }
    }

    fn deliver_due(&mut self) {
        while let Some(first) =
            self.wires.first_entry().filter(|first| first.key().0 <= self.now_ms)
        {
            let wire = first.remove();
            self.deliver(wire);
        }
    }

    fn deliver(&mut self, wire: Wire) {
        match wire {
            Wire::Ask(question) => {
                for seat in self.seats.iter_mut() {
                    if let Some(ledger) = seat.process.as_mut() {
                        ledger.questions.push_back(question.clone());
                    }
                }
            }
            Wire::Answer { node, epoch, answers } => {
                self.nodes[node].answered(self.now_ms, epoch, &answers);
            }
            Wire::NodePublish { node, token, batch, expected } => {
                let stored_at = self.now();
                let entry = Entry::Usage { stored_at, batch };
                let stored = self.log.store(Subject::Node(node), entry, expected);
                self.send(Wire::NodeAck { node, token, stored });
            }
            Wire::NodeAck { node, token, stored } => self.nodes[node].acknowledged(token, stored),
            Wire::LedgerPublish { ledger, life, token, entry, expected } => {
                let stored = self.log.store(Subject::Ledger, entry, expected);
                self.send(Wire::LedgerAck { ledger, life, token, stored });
            }
            Wire::LedgerAck { ledger, life, token, stored } => {
                self.ledger_ack(ledger, life, token, stored);
            }
            Wire::Watermark { node, watermark } => self.nodes[node].watermark(&watermark),
            Wire::Recall { node } => self.nodes[node].recalled(self.now_ms),
        }
    }

    fn ledger_ack(&mut self, seat: usize, life: u64, token: u64, stored: Result<u64, ()>) {
        if self.seats[seat].life != life {
            return;
        }
        let Some(ledger) = self.seats[seat].process.as_mut() else { return };
        if ledger.in_flight.as_ref().is_none_or(|flight| flight.token != token) {
            return;
        }
        match stored {
            Ok(seq) => {
                let answers = ledger.stored(seq);
                self.answer(answers);
            }
            Err(()) => self.seats[seat].process = None, // Somebody else wrote: begin anew at the checkpoint.
        }
    }

    fn check(&self) -> Result<(), Violation> {
        let states: Vec<_> =
            self.seats.iter().filter_map(|seat| Some(&seat.process.as_ref()?.state)).collect();
        self.model.check(&states)
    }

    /// The storm ends: everything runs, every call ends, every lease closes. Then all counts must agree.
    fn rest(&mut self) -> Result<u64, Violation> {
        (self.loss, self.doubles, self.delay_ms) = (0, 0, 5);
        self.cut_off.fill(0);
        for seat in &mut self.seats {
            seat.process = None;
            seat.paused = false;
        }
        self.take_over(0);
        for node in 0..self.nodes.len() {
            self.nodes[node].disk_full = false;
            while self.nodes[node].call_key(0).is_some() {
                self.finish(node, 0, Some(MAX_TOKENS));
            }
            self.nodes[node].close_all(self.now_ms);
            self.nodes[node].process = None; // And so its epoch ends.
        }
        let mut steps = self.settle(600)?;
        self.spend_the_rest()?;
        for node in 0..self.nodes.len() {
            self.nodes[node].close_all(self.now_ms);
            self.nodes[node].process = None;
        }
        steps += self.settle(600)?;
        self.now_ms += 7_200_000;
        steps += self.settle(60)?;
        let spooled = self.nodes.iter().map(|node| node.spool.len()).sum::<usize>();
        if spooled > 0 {
            return Err(Violation(format!("law 2: {spooled} records never left their spools")));
        }
        let Some(live) = self.seats[0].process.as_ref() else {
            return Err(Violation("the ledger does not stay up on a quiet log".to_owned()));
        };
        self.model.check_rest(&self.log, &live.state, &self.database)?;
        Ok(steps)
    }

    fn now(&self) -> Timestamp {
        Timestamp(i64::try_from(self.now_ms).unwrap_or(i64::MAX))
    }

    /// Lets everything go its way for some rounds.
    fn settle(&mut self, rounds: u64) -> Result<u64, Violation> {
        for _ in 0..rounds {
            self.now_ms += 20;
            self.deliver_due();
            for node in 0..self.nodes.len() {
                self.chores(node);
            }
            if self.seats[0].process.is_none() {
                self.take_over(0);
            }
            self.work(0, 64);
            self.check()?;
        }
        Ok(rounds)
    }

    /// Law 4: when nobody holds anything, one node can spend what is left to the last unit.
    fn spend_the_rest(&mut self) -> Result<(), Violation> {
        let day = |at| period(PeriodRule::Day, at);
        if day(self.now().plus_ms(300_000)) != day(self.now()) {
            self.now_ms += 300_000; // Neither day nor month must end under way: their quotas would be others.
        }
        let now = self.now();
        let answered = |world: &Self, key| world.model.of(now, key);
        for key in 0..KEYS.len() {
            let target = answered(self, key) + self.model.left(now, key);
            for _ in 0..3_000 {
                if answered(self, key) >= target {
                    break;
                }
                self.nodes[0].wall_error = 0;
                self.nodes[0].call(self.now_ms, key, &mut self.random);
                while self.nodes[0].call_key(0).is_some() {
                    self.finish(0, 0, Some(MAX_TOKENS));
                }
                self.settle(1)?;
            }
            let found = answered(self, key);
            if found != target {
                return Err(Violation(format!(
                    "law 4: key {key} was served {found} of {target} with nobody in the way"
                )));
            }
        }
        Ok(())
    }
}
