//! What a served call's answer says of the caller's quotas: in headers, and in the result's `_meta`.
//!
//! Every other byte of the answer stays. Costs nothing for keys without limits. Absent on purpose: answers on a resumed
//! stream, which are sent as they are.

use axum::http::HeaderMap;
use bytes::Bytes;
use mcp_node_core::{
    quota_note::{META, QuotaNote},
    splice,
};

use crate::{clock, meter::Permit, wire::answer};

/// What the answers to one client's call say of its quotas.
#[derive(Clone, Debug, Default)]
pub struct QuotaHints {
    note: QuotaNote,
    in_meta: bool,
}

impl QuotaHints {
    /// What the caller of an admitted call is told.
    pub fn of(permit: &Permit) -> Self {
        let note = permit.note();
        Self { in_meta: permit.tells_in_meta() && !note.is_empty(), note }
    }

    /// Puts it into the headers of an answer.
    pub fn put(&self, headers: &mut HeaderMap) {
        if let Some(hint) = self.note.hint {
            answer::hint(headers, hint);
        }
        for (meter, hint) in &self.note.others {
            answer::hint_of(headers, meter.as_str(), *hint);
        }
        if let Some(warning) = self.note.warning(clock::wall()) {
            answer::warn(headers, &warning);
        }
    }

    /// An answer with it in the `_meta` of its result; as it was, if it is no result that has room for it.
    pub fn in_answer(&self, message: Bytes) -> Bytes {
        if !self.in_meta {
            return message;
        }
        self.edited(&message).map_or(message, Bytes::from)
    }

    fn edited(&self, message: &[u8]) -> Option<Vec<u8>> {
        splice::with_result_meta(message, META, &self.note.member())
    }
}
