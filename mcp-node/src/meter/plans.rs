//! What each tool counts for, worked out once and kept.
//!
//! Bounded: a client may name any tool, so beyond so many the plan of one is worked out for each call.

use std::{collections::HashMap, sync::Arc};

use mcp_node_core::metering::{Metering, Plan};
use parking_lot::RwLock;

/// The most plans that are kept.
const MAX: usize = 4_096;

/// The plans of a node.
pub struct Plans {
    metering: Metering,
    kept: RwLock<HashMap<String, Arc<Plan>>>,
}

impl Plans {
    pub fn new(metering: Metering) -> Self {
        Self { metering, kept: RwLock::default() }
    }

    /// What a tool counts for.
    pub fn of(&self, tool: &str) -> Arc<Plan> {
        if self.metering.is_plain() {
            return self.metering.plain().clone();
        }
        if let Some(plan) = self.kept.read().get(tool) {
            return plan.clone();
        }
        let plan = self.metering.plan(tool);
        let mut kept = self.kept.write();
        if kept.len() < MAX {
            kept.insert(tool.to_owned(), plan.clone());
        }
        plan
    }
}
