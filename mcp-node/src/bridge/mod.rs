//! Between the protocol's two eras: clients of 2026-07-28 in front of older servers, older clients in front of servers
//! of 2026-07-28 alone, over HTTP and stdio.
//!
//! Where client and server speak the same era nothing here is used, but for servers over stdio, whose clients of
//! 2026-07-28 all come through [`LegacyServerAdapter`]'s pool of children. Messages are spliced, never rebuilt, so what neither era
//! knows survives. Absent on purpose: the tasks of one era in the other (they do not mean the same), and
//! `x-mcp-header` arguments for older clients (a server that insists on such headers refuses those calls).
//!
//! Who says what comes for a call, by the eras of client and server and the way to the server; `call::Driver` records and
//! delivers in every case, and over HTTP+SSE and WebSocket a client is one of the old era:
//!
//! | client | server | over Streamable HTTP | over stdio, HTTP+SSE, WebSocket |
//! |---|---|---|---|
//! | old | old | `upstream::http::exchange::Exchange` | `upstream::duplex::streams::ChannelAnswer` |
//! | new | new | `upstream::http::exchange::Exchange` | `legacy_call::LegacyCall`, era new |
//! | new | old | `legacy_call::LegacyCall` | `legacy_call::LegacyCall` |
//! | old | new | `to_new::modern_call::ModernCall` | `to_new::modern_call::ModernCall` |
//!
//! Several servers as one (`aggregate`) choose the server, and add nothing of their own to a call.

mod era;
mod legacy_call;
mod link;
pub(crate) mod messages;
mod parked;
mod pool;
mod subscriptions;
mod to_new;
mod to_old;

pub(crate) use self::link::wire_id;
pub use self::{
    era::{Era, Eras},
    to_new::ModernServerAdapter,
    to_old::LegacyServerAdapter,
};
