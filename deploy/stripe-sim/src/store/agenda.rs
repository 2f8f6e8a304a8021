//! What is due when: one entry for each object that time will change, on the clock that the object follows.
//!
//! An entry is only a hint of when to look; what is to be done follows from the object itself at that moment. Entries are kept up
//! by looking at every row that changed ([`crate::life::refresh`]), so no handler has to remember them. Ties go by kind, then by
//! the order of creation: the same script has the same order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// When to look at an object again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Unix seconds of its clock.
    pub at: i64,
    /// Subscriptions before invoices: an invoice of this second is made before older ones move on.
    pub rank: u8,
    /// Order of creation within its kind.
    pub place: u64,
    pub id: String,
}

/// Entries by clock: `None` is the simulator's own.
#[derive(Debug, Default)]
pub struct Agenda {
    clocks: BTreeMap<Option<String>, BTreeSet<Entry>>,
    by_id: HashMap<String, (Option<String>, Entry)>,
}

impl Agenda {
    /// Puts an object's entry in the place of its old one, or only takes the old one out.
    pub fn set(&mut self, id: &str, clock: Option<String>, entry: Option<Entry>) {
        if let Some((clock, old)) = self.by_id.remove(id)
            && let Some(entries) = self.clocks.get_mut(&clock)
        {
            entries.remove(&old);
        }
        if let Some(entry) = entry {
            self.clocks.entry(clock.clone()).or_default().insert(entry.clone());
            self.by_id.insert(id.to_owned(), (clock, entry));
        }
    }

    /// The first entry of a clock, if it is due by `until`.
    pub fn first(&self, clock: Option<&str>, until: i64) -> Option<Entry> {
        let entries = self.clocks.get(&clock.map(str::to_owned))?;
        entries.first().filter(|entry| entry.at <= until).cloned()
    }

    /// The next entries of the simulator's own clock, in order.
    pub fn upcoming(&self, limit: usize) -> impl Iterator<Item = &Entry> {
        self.clocks.get(&None).into_iter().flatten().take(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: i64, rank: u8, id: &str) -> Option<Entry> {
        Some(Entry { at, rank, place: 1, id: id.to_owned() })
    }

    #[test]
    fn an_object_has_one_entry_on_one_clock() {
        let mut agenda = Agenda::default();
        agenda.set("sub_1", None, entry(10, 0, "sub_1"));
        agenda.set("in_1", None, entry(10, 1, "in_1"));
        agenda.set("sub_2", Some("clock_1".to_owned()), entry(1, 0, "sub_2"));
        assert_eq!(agenda.first(None, 9), None);
        assert_eq!(agenda.first(None, 10).unwrap().id, "sub_1");
        agenda.set("sub_1", None, entry(20, 0, "sub_1"));
        assert_eq!(agenda.first(None, 30).unwrap().id, "in_1");
        agenda.set("in_1", None, None);
        let next: Vec<_> = agenda.upcoming(9).map(|entry| entry.at).collect();
        assert_eq!(next, [20]);
        assert_eq!(agenda.first(Some("clock_1"), 1).unwrap().id, "sub_2");
    }
}
