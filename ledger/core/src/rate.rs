//! How a key's rate is shared among the nodes that serve it.
//!
//! Invariant: the shares of the nodes that hold leases of a key add up to no more than its rate. A node gets the
//! rate divided by those that serve the key or lately asked to, or what the others have left; when they have left
//! nothing it is told to ask again, and their leases are recalled. A share's burst is the same part of the burst,
//! but at least 1, so bursts may exceed the whole by one call a node.

use std::collections::{BTreeMap, HashMap};

use schemas::{KeyId, LeaseId, NodeId, RateLimits, Timestamp};

/// For how long a node that asked counts as one that serves. Unit: milliseconds.
const REMEMBERED_MS: i64 = 10_000;

/// Which nodes lately asked for leases of keys that have a rate. No part of the state: a new owner begins with none.
#[derive(Debug, Default)]
pub struct Demand(HashMap<KeyId, BTreeMap<NodeId, Timestamp>>);

impl Demand {
    /// Notes a question; returns how many nodes want leases of the key now.
    pub(crate) fn note(&mut self, key: KeyId, node: &NodeId, now: Timestamp) -> u64 {
        let nodes = self.0.entry(key).or_default();
        nodes.insert(node.clone(), now);
        nodes.retain(|_, asked| now.ms_since(*asked) < REMEMBERED_MS);
        nodes.len() as u64
    }

    /// Forgets keys that nobody asked for lately.
    pub fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, nodes| nodes.values().any(|asked| now.ms_since(*asked) < REMEMBERED_MS));
    }
}

/// The shares of one key's rate that are out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RatesOut(BTreeMap<(NodeId, LeaseId), RateLimits>);

impl RatesOut {
    pub(crate) fn add(&mut self, node: &NodeId, lease: LeaseId, rate: RateLimits) {
        self.0.insert((node.clone(), lease), rate);
    }

    pub(crate) fn remove(&mut self, node: &NodeId, lease: LeaseId) {
        self.0.remove(&(node.clone(), lease));
    }

    /// The part of other nodes: each counts with its largest share, since a node goes by one of them at a time.
    fn of_others(&self, node: &NodeId, part: impl Fn(&RateLimits) -> u32) -> u64 {
        let mut largest: BTreeMap<&NodeId, u32> = BTreeMap::new();
        for ((holder, _), rate) in self.0.iter().filter(|((holder, _), _)| holder != node) {
            let known = largest.entry(holder).or_default();
            *known = part(rate).max(*known);
        }
        largest.into_values().map(u64::from).sum()
    }

    fn holders_with(&self, node: &NodeId) -> u64 {
        let mut holders: Vec<&NodeId> = self.0.keys().map(|(holder, _)| holder).collect();
        holders.dedup(); // They are in order.
        holders.len() as u64 + u64::from(!holders.contains(&node))
    }

    /// This node's share; `None` = the others have it all.
    pub(crate) fn share(
        &self,
        whole: RateLimits,
        node: &NodeId,
        wanting: u64,
    ) -> Option<RateLimits> {
        let nodes = self.holders_with(node).max(wanting);
        let cut = |whole: u32, out: u64| {
            let left = u64::from(whole).saturating_sub(out);
            u32::try_from((u64::from(whole) / nodes).max(1).min(left)).unwrap_or(u32::MAX)
        };
        let per_minute = cut(whole.per_minute, self.of_others(node, |rate| rate.per_minute));
        let concurrent = whole
            .concurrent
            .map(|max| cut(max, self.of_others(node, |rate| rate.concurrent.unwrap_or_default())));
        if per_minute == 0 || concurrent == Some(0) {
            return None;
        }
        let burst =
            u64::from(whole.burst) * u64::from(per_minute) / u64::from(whole.per_minute.max(1));
        let burst = u32::try_from(burst).unwrap_or(u32::MAX).max(1);
        Some(RateLimits { per_minute, burst, concurrent })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn rate(per_minute: u32, burst: u32, concurrent: Option<u32>) -> RateLimits {
        RateLimits { per_minute, burst, concurrent }
    }

    #[test]
    fn shares() {
        let node = |n: u8| -> NodeId { format!("n{n}").parse().unwrap() };
        let lease = |n: u128| LeaseId(Uuid::from_u128(n));
        let whole = rate(60, 10, Some(4));
        let mut out = RatesOut::default();
        assert_eq!(out.share(whole, &node(1), 1), Some(whole), "alone: all of it");
        assert_eq!(out.share(whole, &node(1), 3), Some(rate(20, 3, Some(1))), "one of three");
        out.add(&node(1), lease(1), rate(40, 6, Some(3)));
        out.add(&node(1), lease(2), rate(60, 10, Some(3)));
        assert_eq!(out.share(whole, &node(2), 2), None, "the other has it all");
        assert_eq!(out.share(whole, &node(1), 1), Some(whole), "one's own is no hindrance");
        out.remove(&node(1), lease(2));
        assert_eq!(out.share(whole, &node(2), 2), Some(rate(20, 3, Some(1))), "what is left");
        assert_eq!(out.share(rate(60, 10, Some(3)), &node(2), 2), None, "no call more at a time");
    }
}
