//! Rows of `quarantine`: messages that cannot be read, kept whole.

use bytes::{BufMut, Bytes, BytesMut};
use runtime::nats::Message;

use crate::{
    decode::Unreadable,
    row::{Origin, put_length, put_text},
};

/// The columns that are written, with the types in which they are sent.
pub const COLUMNS: &[(&str, &str)] = &[
    ("src", "UInt16"),
    ("stream_seq", "UInt64"),
    ("received_at", "DateTime64(3, 'UTC')"),
    ("subject", "String"),
    ("reason", "String"),
    ("detail", "String"),
    ("payload", "String"),
];

/// Rows in the making.
#[derive(Debug, Default)]
pub struct Quarantined {
    bytes: BytesMut,
    last_seq: u64,
}

impl Quarantined {
    pub fn push(&mut self, origin: Origin, message: &Message, unreadable: &Unreadable) {
        let out = &mut self.bytes;
        out.put_u16_le(origin.src);
        out.put_u64_le(origin.stream_seq);
        out.put_i64_le(origin.received_ms);
        put_text(out, &message.subject);
        put_text(out, unreadable.reason);
        put_text(out, &unreadable.detail);
        put_length(out, message.payload.len());
        out.put_slice(&message.payload);
        self.last_seq = origin.stream_seq;
    }

    /// Unit: bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The rows and the stream sequence of the last of them; `None` when there are none.
    pub fn into_rows(self) -> Option<(u64, Bytes)> {
        (!self.bytes.is_empty()).then(|| (self.last_seq, self.bytes.freeze()))
    }
}
