//! Which server has what: learnt from what servers list and answer, for each key, since servers may show each its own.
//!
//! Bounded: the oldest are forgotten when there are too many, and asked for again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use mcp_node_core::aggregate::list::{List, PROMPTS, TOOLS};
use parking_lot::Mutex;
use schemas::KeyId;

/// The most that is remembered.
const MAX: usize = 65_536;

/// What a server can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemKind {
    Tool,
    Prompt,
    /// An address, or the template of addresses.
    Resource,
    Task,
}

impl ItemKind {
    /// What a list lists.
    pub fn of(list: &List) -> Self {
        match list.method {
            method if method == TOOLS.method => Self::Tool,
            method if method == PROMPTS.method => Self::Prompt,
            "tasks/list" => Self::Task,
            _ => Self::Resource,
        }
    }
}

type ItemOwnerKey = (KeyId, ItemKind, String);

#[derive(Default)]
struct Owner {
    by_place: HashMap<ItemOwnerKey, Arc<str>>,
    order: VecDeque<ItemOwnerKey>,
}

/// What is known.
#[derive(Default)]
pub struct Owners(Mutex<Owner>);

impl Owners {
    /// The server that has it, by name.
    pub fn get(&self, key: KeyId, what: ItemKind, name: &str) -> Option<Arc<str>> {
        self.0.lock().by_place.get(&(key, what, name.to_owned())).cloned()
    }

    /// This server has it.
    pub fn learn(&self, key: KeyId, what: ItemKind, name: String, server: &Arc<str>) {
        let mut known = self.0.lock();
        let place = (key, what, name);
        if known.by_place.insert(place.clone(), server.clone()).is_some() {
            return;
        }
        known.order.push_back(place);
        if known.order.len() > MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_place.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_one_key_knows_nothing_of_another() {
        let (owners, key) = (Owners::default(), KeyId(Uuid::from_u128(1)));
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        owners.learn(key, ItemKind::Tool, "x".into(), &one);
        owners.learn(key, ItemKind::Tool, "x".into(), &two);
        assert_eq!(owners.get(key, ItemKind::Tool, "x"), Some(two.clone()), "the last word holds");
        assert_eq!(owners.get(key, ItemKind::Prompt, "x"), None);
        assert_eq!(owners.get(KeyId(Uuid::from_u128(2)), ItemKind::Tool, "x"), None);
        for number in 0..MAX {
            owners.learn(key, ItemKind::Task, number.to_string(), &one);
        }
        assert_eq!(owners.get(key, ItemKind::Tool, "x"), None, "there is an end to it");
        assert_eq!(owners.get(key, ItemKind::Task, "0"), Some(one));
    }
}
