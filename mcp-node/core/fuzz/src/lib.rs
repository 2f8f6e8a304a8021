//! What must hold of any bytes at all, one function a reader: the scanner of requests, the splitter of event streams,
//! the parser of keys, the reader of tokens, the filter of tool lists, the lists of several servers, the reader of the spool. Each panics when its claim does not hold.
//!
//! `deploy/fuzz TARGET SECONDS` drives one with libFuzzer, from the seeds in `seeds/TARGET` on; the tests run every seed
//! and a fixed number of its mutations. Absent on purpose: what a message means (the tests of the readers say that).

mod aggregate;
mod message;
mod secret;
mod spool;
mod stream;
mod token;
mod tools;

/// A reader and its claim.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("aggregate", aggregate::check),
    ("message", message::check),
    ("secret", secret::check),
    ("spool", spool::check),
    ("stream", stream::check),
    ("token", token::check),
    ("tools", tools::check),
];
