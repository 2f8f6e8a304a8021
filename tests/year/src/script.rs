//! What happens to whom and when: a function of the seed and the number of tenants and months.
//!
//! Every tenant has a size, a zone and a first plan. What befalls it follows from its number, so that each kind of
//! life occurs several times; the moments, to the second, come from the seed.

use chrono::{Months, NaiveDate, NaiveTime};
use schemas::{TenantId, Timestamp};
use uuid::Uuid;

use crate::random::Random;

/// The year begins here.
const FIRST_DAY: (i32, u32, u32) = (2028, 1, 1);
const HOUR_MS: i64 = 3_600_000;

/// The plans that tenants are on; the last is the price of billing's own settings.
pub const PLANS: [&str; 6] = ["starter@1", "growth@1", "scale@1", "packs@1", "free@1", ""];
const ZONES: [&str; 4] = ["UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata"];

/// A tenant of the play.
#[derive(Clone, Debug)]
pub struct Player {
    pub tenant: TenantId,
    pub name: String,
    pub zone: &'static str,
    /// About how many units an hour of use has.
    pub size: u64,
    /// Of 1,000 hours, how many see any use.
    pub busy: u64,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Subscribes, for the first time or again, to a plan by its place.
    Subscribe(usize),
    /// Moves to another plan.
    Change(usize),
    /// The card answers so, this many times; 0 = until it is changed.
    Card(&'static str, u32),
    /// Collection is paused: invoices are voided meanwhile.
    Pause,
    Resume,
    /// Ends with the period.
    CancelAtEnd,
    /// Ends now, with a final invoice.
    CancelNow,
    /// Some use of the past weeks is told of only now.
    Late,
}

/// An act of one tenant at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Cue {
    pub at: Timestamp,
    pub player: usize,
    pub act: Act,
}

/// The whole play.
pub struct Script {
    pub players: Vec<Player>,
    /// In order of time.
    pub cues: Vec<Cue>,
    pub begins: Timestamp,
    /// From here on nobody uses anything.
    pub ends: Timestamp,
}

/// The first moment of a month, counted from the year's first.
pub fn month(number: u32) -> Timestamp {
    let (year, month, day) = FIRST_DAY;
    let first = NaiveDate::from_ymd_opt(year, month, day).expect("a date of the calendar");
    let day = first.checked_add_months(Months::new(number)).expect("within the calendar");
    day.and_time(NaiveTime::MIN).and_utc().into()
}

/// Writes the play.
pub fn write(seed: u64, tenants: usize, months: u32) -> Script {
    let mut dice = Random::new(seed);
    let players = (0..tenants).map(|number| player(number, &mut dice)).collect();
    let mut cues = Vec::new();
    for number in 0..tenants {
        let mut life = Life { number, months, dice: &mut dice, cues: &mut cues };
        life.write();
    }
    cues.retain(|cue: &Cue| cue.at < month(months) || cue.act == Act::Late);
    cues.sort_by_key(|cue| (cue.at, cue.player));
    Script { players, cues, begins: month(0), ends: month(months) }
}

fn player(number: usize, dice: &mut Random) -> Player {
    // One of them is large, some are small, most in between.
    let size = [40, 120, 300, 700, 1500][number % 5] + dice.below(50);
    Player {
        tenant: TenantId(Uuid::from_u128(
            0x0192_0000_0000_7000_8000_0000_0000_0000 | dice.id() >> 68,
        )),
        name: format!("Tenant {number:02}"),
        zone: ZONES[number % ZONES.len()],
        size,
        busy: 50 + dice.below(60),
    }
}

/// Writes what befalls one tenant.
struct Life<'a> {
    number: usize,
    months: u32,
    dice: &'a mut Random,
    cues: &'a mut Vec<Cue>,
}

impl Life<'_> {
    fn write(&mut self) {
        let plan = self.number % PLANS.len();
        let joined = match self.number {
            7 => self.at(1, 29), // On the leap day.
            number if number >= 40 => self.between(1, 3, 26),
            _ => self.between(0, 2, 28),
        };
        self.cue(joined, Act::Subscribe(plan));
        match self.number % 10 {
            0 => self.changes(&[(3, (plan + 1) % 4), (8, plan % 4)]),
            1 => self.changes(&[(2, (plan + 2) % 4), (2, (plan + 3) % 4), (10, plan)]),
            2 => self.changes(&[(5, 4), (9, 2)]),
            3 if self.number == 13 => self.broke(plan),
            3 => {
                let before = month(3).plus_ms(-2 * HOUR_MS);
                self.cue(before, Act::Card("decline", 2));
            }
            4 => {
                let (from, to) = (self.at(4, 28), self.at(5, 20));
                self.cue(from, Act::Pause);
                self.cue(to, Act::Resume);
            }
            5 => {
                let at = self.between(7, 3, 25);
                self.cue(at, Act::CancelAtEnd);
                if self.number % 20 == 5 {
                    let at = self.between(9, 3, 20);
                    self.cue(at, Act::Subscribe((plan + 1) % PLANS.len()));
                }
            }
            6 => {
                let at = self.between(8, 5, 25);
                self.cue(at, Act::CancelNow);
                if self.number % 20 == 6 {
                    let at = self.between(10, 3, 20);
                    self.cue(at, Act::Subscribe(plan));
                }
            }
            _ => {}
        }
        if self.number.is_multiple_of(3) || plan == 2 {
            for month in 2..=self.months {
                let at = self.between(month, 3, 9);
                self.cue(at, Act::Late);
            }
        }
    }

    /// A card that fails for good: suspended when the grace is over, canceled then, and back with another card.
    fn broke(&mut self, plan: usize) {
        self.cue(month(4).plus_ms(-2 * HOUR_MS), Act::Card("decline", 0));
        let given_up = self.at(4, 13);
        self.cue(given_up, Act::CancelNow);
        let at = self.between(5, 10, 20);
        self.cue(at, Act::Card("ok", 0));
        self.cue(at.plus_ms(60_000), Act::Subscribe(plan));
    }

    fn changes(&mut self, moves: &[(u32, usize)]) {
        let mut last = Timestamp(0);
        for &(month, plan) in moves {
            let (from, to) = if last < crate::script::month(month) { (3, 14) } else { (16, 27) };
            last = self.between(month, from, to);
            self.cue(last, Act::Change(plan));
        }
    }

    fn cue(&mut self, at: Timestamp, act: Act) {
        self.cues.push(Cue { at, player: self.number, act });
    }

    /// A moment of that day of the month, to the second, between 6:00 and 22:00.
    fn at(&mut self, month_number: u32, day: i64) -> Timestamp {
        let second =
            i64::try_from(self.dice.between(6 * 3600, 22 * 3600)).expect("less than a day");
        month(month_number).plus_ms((day - 1) * 24 * HOUR_MS + second * 1000)
    }

    fn between(&mut self, month: u32, from: i64, to: i64) -> Timestamp {
        let days = u64::try_from(to - from).expect("from lies before to");
        let day = from + i64::try_from(self.dice.below(days + 1)).expect("a day of a month");
        self.at(month, day)
    }
}
