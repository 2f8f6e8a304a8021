//! A simulated Tollbook: many nodes, a log, several ledgers and a database, driven by one seed.
//!
//! The real cores run in it (`ledger-core`, `mcp-node-core`); the world around them is simulated: messages are lost,
//! doubled, delayed and overtaken, processes die at any step and lose their memory, clocks drift and jump, owners
//! pause and come back believing they still own the shard, disks fill. After every step an independent model checks
//! the laws; a failure names the seed, which replays it exactly. See the README.

mod bug;
mod database;
mod ledger;
mod log;
mod model;
mod node;
mod random;
mod world;

pub use bug::Bug;
pub use model::Violation;
pub use world::run;
