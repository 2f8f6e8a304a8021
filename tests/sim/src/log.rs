//! The log: one order, and the rule that a message may demand which one its subject's last is.

use ledger_core::Entry;

/// Who writes a subject: one node, or the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Node(usize),
    Ledger,
}

/// One stored message.
#[derive(Clone, Debug)]
pub struct Stored {
    pub seq: u64,
    pub subject: Subject,
    pub entry: Entry,
}

/// The stream `LOG` of one shard.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub messages: Vec<Stored>,
}

impl Log {
    pub fn last(&self, subject: Subject) -> Option<&Stored> {
        self.messages.iter().rev().find(|stored| stored.subject == subject)
    }

    /// Stores a message if the subject's last one is `expected` (`None` = whatever it is).
    pub fn store(
        &mut self,
        subject: Subject,
        entry: Entry,
        expected: Option<u64>,
    ) -> Result<u64, ()> {
        let last = self.last(subject).map_or(0, |stored| stored.seq);
        if expected.is_some_and(|expected| expected != last) {
            return Err(());
        }
        let seq = self.messages.len() as u64 + 1;
        self.messages.push(Stored { seq, subject, entry });
        Ok(seq)
    }

    /// What stands behind `after`, at most `count` messages.
    pub fn read(&self, after: u64, count: usize) -> &[Stored] {
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(self.messages.len());
        &self.messages[from..(from + count).min(self.messages.len())]
    }
}
