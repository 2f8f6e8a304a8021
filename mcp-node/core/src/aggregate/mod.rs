//! Several servers as one, as far as that can be said without asking them: names, lists, greetings, cursors and ids.
//!
//! Nothing of a server's is rebuilt: an entry of a list keeps every byte, with a prefix before its name. What a client
//! holds and brings back (a cursor, the id of an event or of a question) names the servers by the names that their
//! operator gave them, so it stays good when servers come and go. Absent on purpose: asking, and who may call what.

pub mod cursor;
pub mod greeting;
pub mod list;
pub mod names;
mod object;
pub mod tag;

/// What cannot be read without a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message that two readers could read in two ways")]
pub struct Unreadable;
