//! Where a door will be: it opens when it is set, and may be replaced while requests go through the one before.

use std::sync::Arc;

use parking_lot::RwLock;

use super::Door;

/// A door that opens when it is set.
#[derive(Clone, Default)]
pub struct Doorway(Arc<RwLock<Option<Arc<Door>>>>);

impl Doorway {
    /// One that is open.
    #[must_use]
    pub fn open(door: Door) -> Self {
        Self(Arc::new(RwLock::new(Some(Arc::new(door)))))
    }

    /// The door for one request, which keeps it to its end.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Door>> {
        self.0.read().clone()
    }

    /// Opens it, or puts another door in its place; returns the one before.
    pub fn set(&self, door: Door) -> Option<Arc<Door>> {
        self.0.write().replace(Arc::new(door))
    }
}
