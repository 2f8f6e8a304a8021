//! The parts that requests share, and the one way to act on the world.

use crate::clock::Clock;
use crate::config::Config;
use crate::deliver::Courier;
use crate::life;
use crate::resource::{Call, Origin, thin_event};
use crate::store::World;
use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// How often a running clock is looked at, in real time.
const TICK: Duration = Duration::from_millis(200);

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

    /// Does one piece of work at one instant, after all that was due before it; the webhooks that it caused leave afterwards.
    pub fn act<T>(&self, origin: Origin, work: impl FnOnce(&mut Call<'_>) -> T) -> T {
        let mut world = self.world.lock();
        let now_ms = self.clock.now_ms();
        let mut outbox =
            self.pass(&mut world, now_ms, |call| life::run(call, None, now_ms.div_euclid(1000)));
        let mut call = self.call(&mut world, origin, now_ms);
        let result = work(&mut call);
        outbox.extend(call.into_outbox());
        outbox.extend(self.pass(&mut world, now_ms, life::run_test_clocks));
        outbox.extend(self.pass(&mut world, now_ms, |call| thin_event::flush(call, now_ms)));
        life::refresh(&mut world);
        drop(world);
        self.courier.send(outbox);
        result
    }

    /// Lets time do what is due; its events are checked like any others. Answers the deliveries that it owes.
    fn pass(
        &self,
        world: &mut World,
        now_ms: i64,
        time: impl FnOnce(&mut Call<'_>),
    ) -> Vec<String> {
        let mut call = self.call(world, Origin::default(), now_ms);
        time(&mut call);
        if let Err(complaint) = call.check_events() {
            call.world.tally.invalid_responses += 1;
            call.world.tally.complain(complaint);
        }
        call.into_outbox()
    }

    fn call<'a>(&'a self, world: &'a mut World, origin: Origin, now_ms: i64) -> Call<'a> {
        let summary_lag_ms = i64::from(self.config.summary_lag_s) * 1000;
        Call::new(world, origin, now_ms, &self.base_url, summary_lag_ms)
    }

    /// Lets time pass while nobody asks, so that a running clock sends its webhooks. Never ends.
    pub async fn tick(&self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            if !self.clock.is_frozen() {
                self.act(Origin::default(), |_| ());
            }
        }
    }
}
