//! The four measurements, in turns.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hint::black_box,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    num::NonZeroU32,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use governor::{Quota, RateLimiter as Governor};
use limitador::{
    RateLimiter,
    limit::{Context, Limit},
};
use mcp_node::clock::Clock;
use mcp_node_core::{
    LeaseBook, Now, Take,
    lease_book::{Needs, one_call},
};
use parking_lot::Mutex;
use schemas::{
    Epoch, KeyId, Lease, LeaseId, MeterName, Period, ProjectId, Quantity, Share, TenantId,
    Timestamp,
};
use serde::Serialize;
use stack::ports;
use uuid::Uuid;

use crate::{
    Outcome, machine, report,
    report::{median, short},
    tenants::{Kind, id, mix},
};

const KEYS: u64 = 1_000;
const ROUNDS: usize = 11;
const ROUND_TRIPS: u32 = 5_000;

#[derive(Serialize)]
struct Figures {
    take_settle_ns: f64,
    governor_ns: f64,
    limitador_ns: f64,
    redis_ns: f64,
}

pub fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let (mut ours, governor, limitador) = (Books::new()?, governor(), limitador()?);
    let mut redis = Redis::start()?;
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(time(1_000_000, |turn| ours.decide(turn)));
        rounds[1].push(time(1_000_000, |_| ours.bare()));
        rounds[2].push(time(1_000_000, |turn| governor.check_key(&key(turn)).is_ok()));
        rounds[3].push(time(100_000, |turn| limited(&limitador, turn)));
        rounds[4].push(time(ROUND_TRIPS, |turn| redis.incr(turn)));
    }
    redis.check()?;
    let [whole, bare, governor_ns, limitador_ns, redis_ns] =
        rounds.map(|round| short(median(&round)));
    println!(
        "take + settle alone: {bare} ns; with the key's look-up, its lock and the clock: {whole} ns"
    );
    let figures = Figures { take_settle_ns: whole, governor_ns, limitador_ns, redis_ns };
    report::finish("decision", &figures)
}

/// Nanoseconds of one of `count` decisions, each of which must allow.
fn time(count: u32, mut decide: impl FnMut(u64) -> bool) -> f64 {
    let begun = Instant::now();
    let allowed = (0..u64::from(count)).filter(|turn| black_box(decide(black_box(*turn)))).count();
    let taken = begun.elapsed().as_secs_f64();
    assert_eq!(
        allowed, count as usize,
        "a decision refused, so it was not the one that is measured"
    );
    taken * 1e9 / f64::from(count)
}

fn key(turn: u64) -> KeyId {
    KeyId(id(Kind::Key, mix(turn) % KEYS))
}

/// The node's books, each with a lease in hand.
struct Books {
    keys: Vec<KeyId>,
    books: HashMap<KeyId, Mutex<LeaseBook>>,
    clock: Clock,
    call: OneCall,
    one: LeaseBook,
    now: Now,
}

impl Books {
    fn new() -> Outcome<Self> {
        let (clock, keys): (_, Vec<KeyId>) =
            (Clock::default(), (0..KEYS).map(|number| KeyId(id(Kind::Key, number))).collect());
        let now = clock.now();
        let books = keys.iter().map(|key| Ok((*key, Mutex::new(book(*key, now)?))));
        let books = books.collect::<Outcome<_>>()?;
        let call =
            OneCall { needs: one_call(), counted: [(MeterName::tool_calls(), Quantity(1))].into() };
        Ok(Self { one: book(keys[0], now)?, keys, books, clock, call, now })
    }

    fn decide(&self, turn: u64) -> bool {
        let key = self.keys[usize::try_from(mix(turn) % KEYS).unwrap_or(0)];
        let Some(book) = self.books.get(&key) else { return false };
        let now = self.clock.now();
        self.call.spend(&mut book.lock(), now)
    }

    fn bare(&mut self) -> bool {
        let now = self.now;
        self.call.spend(&mut self.one, now)
    }
}

/// What every call takes, and counts for.
struct OneCall {
    needs: Needs,
    counted: BTreeMap<MeterName, Quantity>,
}

impl OneCall {
    fn spend(&self, book: &mut LeaseBook, now: Now) -> bool {
        let mut actions = Vec::new();
        let taken = book.take(now, &self.needs, || LeaseId(Uuid::nil()), &mut actions);
        let Take::Unit(unit) = taken else { return false };
        book.settle(black_box(unit), &self.counted, &mut actions);
        actions.is_empty()
    }
}

/// A book that holds a lease of far more units and time than are spent here.
fn book(key: KeyId, now: Now) -> Outcome<LeaseBook> {
    let (mut book, mut actions) = (LeaseBook::new(key, true, true, 1), Vec::new());
    let lease = LeaseId(Uuid::from_u128(1));
    let _ = book.take(now, &one_call(), || lease, &mut actions);
    let period = Period { from: Timestamp(0), to: Timestamp(i64::MAX) };
    let (units, limit) = (Quantity(1 << 40), Quantity(1 << 41));
    let share =
        Share { meter: MeterName::tool_calls(), units, left: units, held: None, limit, period };
    let lease = Lease {
        lease,
        tenant: TenantId(Uuid::nil()),
        project: ProjectId(Uuid::nil()),
        key,
        node: "node-0".parse()?,
        epoch: Epoch(1),
        granted_at: now.wall,
        expires_at: now.wall.plus_ms(3_600_000),
        shares: vec![share],
        rate: None,
        notices: vec![],
    };
    book.granted(now, &lease, &mut actions);
    Ok(book)
}

fn governor() -> governor::DefaultKeyedRateLimiter<KeyId> {
    // Two thousand million a second: it never refuses here.
    Governor::keyed(Quota::per_second(NonZeroU32::new(2_000_000_000).unwrap_or(NonZeroU32::MAX)))
}

fn limitador() -> Outcome<RateLimiter> {
    let limiter = RateLimiter::new(KEYS * 2);
    let key = "key".try_into().map_err(|error| format!("{error}"))?;
    limiter.add_limit(Limit::new("tools", 1 << 40, 60, vec![], vec![key]));
    Ok(limiter)
}

fn limited(limiter: &RateLimiter, turn: u64) -> bool {
    let values = HashMap::from([("key".to_owned(), key(turn).to_string())]);
    let context: Context<'_> = values.into();
    limiter
        .check_rate_limited_and_update(&"tools".into(), &context, 1)
        .is_ok_and(|said| !said.limited && !said.counters.is_empty())
}

/// A Redis server of our own, in memory only, that ends with this process.
struct Redis {
    server: Child,
    stream: BufReader<TcpStream>,
    /// How many counters answered 1.
    begun: usize,
}

impl Redis {
    fn start() -> Outcome<Self> {
        let port = ports::free()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--port"]);
        command.arg(port.to_string()).args(["--save", "", "--appendonly", "no", "--dir", "/"]);
        let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let give_up = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > give_up => {
                    server.kill()?;
                    server.wait()?;
                    return Err(format!("redis-server does not serve: {error}").into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_nodelay(true)?;
        Ok(Self { server, stream: BufReader::new(stream), begun: 0 })
    }

    /// One round trip; whether it was answered with a number.
    fn incr(&mut self, turn: u64) -> bool {
        let key = key(turn).to_string();
        let command = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len());
        let mut answer = String::new();
        let told = self.stream.get_mut().write_all(command.as_bytes());
        let said = told.and_then(|()| self.stream.read_line(&mut answer)).is_ok();
        let number: Option<i64> =
            answer.strip_prefix(':').and_then(|text| text.trim().parse().ok());
        self.begun += usize::from(number == Some(1));
        said && number.is_some()
    }

    /// Every key was new to the server once: what answered was a counter.
    fn check(&self) -> Outcome<()> {
        let keys: HashSet<KeyId> = (0..u64::from(ROUND_TRIPS)).map(key).collect();
        if self.begun == keys.len() {
            return Ok(());
        }
        Err(format!("Redis began {} counters for {} keys", self.begun, keys.len()).into())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and the wait says so.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
