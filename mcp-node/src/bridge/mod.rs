//! Between the protocol's two eras: clients of 2026-07-28 in front of older servers, older clients in front of servers
//! of 2026-07-28 alone, over HTTP and stdio.
//!
//! Where client and server speak the same era nothing here is used, but for servers over stdio, whose clients of
//! 2026-07-28 all come through [`ToOld`]'s pool of children. Messages are spliced, never rebuilt, so what neither era
//! knows survives. Absent on purpose: the tasks of one era in the other (they do not mean the same), and
//! `x-mcp-header` arguments for older clients (a server that insists on such headers refuses those calls).

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
    to_new::ToNew,
    to_old::ToOld,
};
