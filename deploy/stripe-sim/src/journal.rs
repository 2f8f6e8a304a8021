//! What was asked of the API, in the order of the answers.
//!
//! Keeps the newest 50,000 requests and counts what it let go. Holds no key and no secret: the `Authorization` header is never
//! recorded, and answers are not kept. Control calls under `/_sim/` are not requests to Stripe and do not appear.

use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;

const LIMIT: usize = 50_000;

/// One request and how it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// Unix seconds of the simulator's clock.
    pub at: i64,
    pub method: String,
    pub path: String,
    /// The parameters as they came, all as text.
    pub params: Value,
    pub idempotency_key: Option<String>,
    pub stripe_version: Option<String>,
    pub request_id: String,
    /// The status of the answer, also where a fault kept it from the client.
    pub status: u16,
    /// The answer came from the idempotency store.
    pub replayed: bool,
    /// The fault that met this request.
    pub fault: Option<&'static str>,
}

/// The requests so far.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    seq: u64,
}

impl Journal {
    /// Appends; the sequence number is given here.
    pub fn record(&mut self, mut entry: Entry) {
        self.seq += 1;
        entry.seq = self.seq;
        if self.entries.len() == LIMIT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Entries after a sequence number, oldest first.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.seq > seq)
    }

    /// How many requests were recorded, forgotten ones included.
    pub fn recorded(&self) -> u64 {
        self.seq
    }
}
