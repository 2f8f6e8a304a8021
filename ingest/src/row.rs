//! Rows of `usage_events` as ClickHouse's RowBinary. Pure.
//!
//! The order of [`COLUMNS`] is the order in which [`Rows`] writes; a test holds both against the real table.

use bytes::{BufMut, Bytes, BytesMut};
use schemas::{
    MeterName, Outcome, Quantity, Record, RefusalReason, TOOL_CALLS, Timestamp, Trace, UsageBatch,
    UsageEvent,
};
use uuid::Uuid;

/// The columns that are written, with the types in which they are sent.
pub const COLUMNS: &[(&str, &str)] = &[
    ("src", "UInt16"),
    ("stream_seq", "UInt64"),
    ("received_at", "DateTime64(3, 'UTC')"),
    ("node", "String"),
    ("epoch", "UInt64"),
    ("shard", "UInt16"),
    ("seq", "UInt64"),
    ("record", "Int8"),
    ("at", "DateTime64(3, 'UTC')"),
    ("tenant_id", "UUID"),
    ("project_id", "UUID"),
    ("key_id", "UUID"),
    ("lease_id", "UUID"),
    ("method", "String"),
    ("tool", "String"),
    ("outcome", "Int8"),
    ("refusal", "Int8"),
    ("calls", "UInt64"),
    ("tool_calls", "UInt64"),
    ("quantities", "Map(String, UInt64)"),
    ("duration_us", "UInt64"),
    ("bytes_in", "UInt64"),
    ("bytes_out", "UInt64"),
    ("server", "String"),
    ("trace_id", "String"),
    ("span_id", "String"),
];

/// Where a row comes from in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub src: u16,
    pub stream_seq: u64,
    /// Unit: milliseconds since 1970.
    pub received_ms: i64,
}

/// Times that the columns can hold: from the start of 2020 to the start of 2100 (UTC); a rollup's hours must fit 32 bits.
/// An event that counts lies near its storing; only what counts for nothing can lie outside.
const TIMES: std::ops::Range<i64> = 1_577_836_800_000..4_102_444_800_000;

/// Rows in the making.
#[derive(Debug, Default)]
pub struct Rows {
    bytes: BytesMut,
    count: usize,
}

/// What differs between the kinds of record; the rest stays empty.
#[derive(Default)]
struct Body<'a> {
    record: i8,
    at_ms: i64,
    tenant: Uuid,
    project: Uuid,
    key: Uuid,
    lease: Uuid,
    method: &'a str,
    tool: &'a str,
    outcome: i8,
    refusal: i8,
    calls: u64,
    tool_calls: u64,
    quantities: Vec<(&'a MeterName, Quantity)>,
    duration_us: u64,
    bytes_in: u64,
    bytes_out: u64,
    server: &'a str,
    trace: Option<Trace>,
}

impl Rows {
    pub fn count(&self) -> usize {
        self.count
    }

    /// Unit: bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }

    /// Adds the record at position `seq` of `batch`.
    pub fn push(&mut self, origin: Origin, batch: &UsageBatch, seq: u64, record: &Record) {
        let place = (batch.node.as_str(), batch.epoch.0, batch.shard.0, seq);
        self.write(origin, place, &body(origin, record));
    }

    /// Adds an event that a person counted out of quarantine: it has no position.
    pub fn push_released(&mut self, origin: Origin, event: &UsageEvent) {
        let body = Body { record: 6, ..usage(event) };
        self.write(origin, ("", 0, 0, 0), &body);
    }

    /// Adds the row that says: everything up to here was read.
    pub fn push_mark(&mut self, origin: Origin) {
        let body = Body { at_ms: origin.received_ms, ..Body::default() };
        self.write(origin, ("", 0, 0, 0), &body);
    }

    fn write(
        &mut self,
        origin: Origin,
        (node, epoch, shard, seq): (&str, u64, u16, u64),
        body: &Body,
    ) {
        let out = &mut self.bytes;
        out.put_u16_le(origin.src);
        out.put_u64_le(origin.stream_seq);
        out.put_i64_le(origin.received_ms);
        put_text(out, node);
        out.put_u64_le(epoch);
        out.put_u16_le(shard);
        out.put_u64_le(seq);
        out.put_i8(body.record);
        out.put_i64_le(body.at_ms);
        for id in [body.tenant, body.project, body.key, body.lease] {
            let (high, low) = id.as_u64_pair();
            out.put_u64_le(high);
            out.put_u64_le(low);
        }
        put_text(out, body.method);
        put_text(out, body.tool);
        out.put_i8(body.outcome);
        out.put_i8(body.refusal);
        out.put_u64_le(body.calls);
        out.put_u64_le(body.tool_calls);
        put_length(out, body.quantities.len());
        for (meter, quantity) in &body.quantities {
            put_text(out, meter.as_str());
            out.put_u64_le(quantity.0);
        }
        out.put_u64_le(body.duration_us);
        out.put_u64_le(body.bytes_in);
        out.put_u64_le(body.bytes_out);
        put_text(out, body.server);
        let (trace_id, span_id) = body.trace.map(hex).unwrap_or_default();
        put_text(out, &trace_id);
        put_text(out, &span_id);
        self.count += 1;
    }
}

fn body(origin: Origin, record: &Record) -> Body<'_> {
    match record {
        Record::Usage(event) => match event.sound(Timestamp(origin.received_ms)) {
            Ok(()) => usage(event),
            Err(_) => held(origin, event),
        },
        Record::Refused { at, tenant, project, key, tool, reason, calls } => Body {
            record: 2,
            at_ms: if TIMES.contains(&at.0) { at.0 } else { origin.received_ms },
            tenant: tenant.0,
            project: project.0,
            key: key.0,
            tool,
            refusal: refusal_code(*reason),
            calls: calls.0,
            ..Body::default()
        },
        Record::LeaseClosed { lease, tenant, spent } => Body {
            record: 3,
            at_ms: origin.received_ms,
            tenant: tenant.0,
            lease: lease.0,
            quantities: spent.iter().map(|(meter, units)| (meter, *units)).collect(),
            ..Body::default()
        },
        Record::EpochEnded => Body { record: 4, at_ms: origin.received_ms, ..Body::default() },
    }
}

/// An event that the ledger has in quarantine: it counts for nothing, and shows what it would have counted for.
fn held(origin: Origin, event: &UsageEvent) -> Body<'_> {
    let quantities = event.quantities.iter().map(|(meter, units)| (meter, *units)).collect();
    let at_ms = origin.received_ms;
    Body { record: 5, at_ms, calls: 0, tool_calls: 0, quantities, ..usage(event) }
}

fn usage(event: &UsageEvent) -> Body<'_> {
    let is_calls = |meter: &MeterName| meter.as_str() == TOOL_CALLS;
    let quantities = event.quantities.iter().map(|(meter, units)| (meter, *units));
    Body {
        record: 1,
        at_ms: event.at.0,
        tenant: event.tenant.0,
        project: event.project.0,
        key: event.key.0,
        lease: event.lease.map_or(Uuid::nil(), |lease| lease.0),
        method: &event.method,
        tool: &event.tool,
        outcome: outcome_code(event.outcome),
        refusal: 0,
        calls: 1,
        tool_calls: quantities
            .clone()
            .find(|(meter, _)| is_calls(meter))
            .map_or(0, |(_, units)| units.0),
        quantities: quantities.filter(|(meter, _)| !is_calls(meter)).collect(),
        duration_us: event.duration_us,
        bytes_in: event.bytes_in,
        bytes_out: event.bytes_out,
        server: event.server.as_deref().unwrap_or_default(),
        trace: event.trace,
    }
}

/// The ids of a trace as tools for traces write them.
fn hex(trace: Trace) -> (String, String) {
    (format!("{:032x}", trace.trace_id), format!("{:016x}", trace.span_id))
}

/// The number of an outcome in the table's Enum8; frozen.
fn outcome_code(outcome: Outcome) -> i8 {
    match outcome {
        Outcome::Success => 1,
        Outcome::ToolError => 2,
        Outcome::ProtocolError => 3,
        Outcome::InputRequired => 4,
        Outcome::TaskCreated => 5,
        Outcome::UpstreamError => 6,
        Outcome::Timeout => 7,
        Outcome::Cancelled => 8,
    }
}

/// The number of a refusal's reason in the table's Enum8; frozen.
fn refusal_code(reason: RefusalReason) -> i8 {
    match reason {
        RefusalReason::QuotaExhausted => 1,
        RefusalReason::UnitsHeld => 2,
        RefusalReason::LedgerUnreachable => 3,
        RefusalReason::CannotRecord => 4,
        RefusalReason::RateLimited => 5,
        RefusalReason::ToolNotAllowed => 6,
        RefusalReason::KeyNotActive => 7,
        RefusalReason::UpstreamUnavailable => 8,
    }
}

/// A text as RowBinary has it: its length in LEB128, then its bytes.
pub fn put_text(out: &mut BytesMut, text: &str) {
    put_length(out, text.len());
    out.put_slice(text.as_bytes());
}

/// A length in LEB128.
pub fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8(u8::try_from(length & 0x7f).expect("seven bits fit a byte") | 0x80);
        length >>= 7;
    }
    out.put_u8(u8::try_from(length).expect("under 128"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_leb128() {
        #[track_caller]
        fn check(length: usize, bytes: &[u8]) {
            let mut out = BytesMut::new();
            put_length(&mut out, length);
            assert_eq!(&out[..], bytes);
        }
        check(0, &[0]);
        check(127, &[127]);
        check(128, &[0x80, 1]);
        check(300, &[0xac, 2]);
        check(1 << 21, &[0x80, 0x80, 0x80, 1]);
    }
}
