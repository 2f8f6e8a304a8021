//! `decision`: how long it takes to say whether one call may go: in the node (find the key's leases, lock them, read
//! the clock, `take`, `settle`), by `governor` (keyed GCRA), by `limitador` in memory (one counter a key), and by a
//! Redis `INCR` over loopback. 1,000 keys, one thread, nothing else in the process.
//!
//! The peers only count a rate: none of them knows what a unit was spent for, or holds a limit over several nodes,
//! except Redis, which asks the network each time. They are compiled with the feature `peers` only.

#[cfg(not(feature = "peers"))]
pub fn run() -> crate::Outcome<()> {
    Err("built without the feature `peers`: run deploy/bench decision".into())
}

#[cfg(feature = "peers")]
pub use with_peers::run;

#[cfg(feature = "peers")]
mod with_peers;
