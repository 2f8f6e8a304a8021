//! The node against real parts: NATS, MCP servers over HTTP and stdio, and a small ledger that grants by the rules.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::needless_pass_by_value, reason = "a test reads better without `&json!`")]

mod addresses;
mod aggregate;
mod backoff;
mod bridge;
mod calls;
mod clients;
mod conformance;
mod connections;
mod delivered;
mod door;
mod duplex;
mod embedded;
mod floors;
mod http_server;
mod ledger;
mod limits;
mod meters;
mod older_servers;
mod process;
mod publish;
mod quota;
mod quota_told;
mod reachable;
mod readme;
mod rig;
mod server;
mod servers;
mod smuggling;
mod spool;
mod stay_up;
mod stdio_server;
mod tasks;
mod tls;
mod tokens;
mod told;
mod traces;
mod transports;
mod waiting;
mod who;
