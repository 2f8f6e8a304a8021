//! Where a door will be: it opens when it is set, and may be replaced while requests go through the one before.
//!
//! What outlives a door stays here: the channels of the transports that hold a connection open for a whole session.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{GatewayState, channel::Channels};

/// A door that opens when it is set.
#[derive(Clone, Default)]
pub struct SharedGateway {
    door: Arc<RwLock<Option<Arc<GatewayState>>>>,
    pub(super) channels: Arc<Channels>,
}

impl SharedGateway {
    /// One that is open.
    #[must_use]
    pub fn open(door: GatewayState) -> Self {
        let door = Arc::new(RwLock::new(Some(Arc::new(door))));
        Self { door, channels: Arc::default() }
    }

    /// The door for one request, which keeps it to its end.
    #[must_use]
    pub fn get(&self) -> Option<Arc<GatewayState>> {
        self.door.read().clone()
    }

    /// Opens it, or puts another door in its place; returns the one before.
    pub fn set(&self, door: GatewayState) -> Option<Arc<GatewayState>> {
        self.door.write().replace(Arc::new(door))
    }

    /// Ends the channels of clients as soon as no request of theirs runs: the node stops.
    pub fn end_channels(&self) {
        self.channels.end();
    }
}
