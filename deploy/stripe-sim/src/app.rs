//! The parts that requests share, and the one way to act on the world.

use crate::clock::Clock;
use crate::config::Config;
use crate::deliver::Courier;
use crate::resource::{Call, Origin};
use crate::store::World;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// One running simulator.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    /// `http://ADDRESS:PORT`, as bound.
    pub base_url: String,
    /// Moves when all orders are cleared: held requests go on then.
    pub cleared: watch::Sender<u64>,
    world: Mutex<World>,
    courier: Courier,
}

impl App {
    pub fn new(config: Config, base_url: String, courier: Courier) -> Self {
        let clock = Clock::new(config.freeze_at);
        let world = Mutex::new(World::new(config.seed));
        Self { config, clock, base_url, cleared: watch::Sender::new(0), world, courier }
    }

    /// The state, for reading and for small changes that emit nothing.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Does one piece of work at one instant; the webhooks that it caused leave afterwards.
    pub fn act<T>(&self, origin: Origin, work: impl FnOnce(&mut Call<'_>) -> T) -> T {
        let mut world = self.world.lock();
        let summary_lag_ms = i64::from(self.config.summary_lag_s) * 1000;
        let mut call =
            Call::new(&mut world, origin, self.clock.now_ms(), &self.base_url, summary_lag_ms);
        let result = work(&mut call);
        let outbox = call.into_outbox();
        drop(world);
        self.courier.send(outbox);
        result
    }
}
