//! The play: time goes from cue to cue and from night to night, and after each all must come to rest.

use std::{collections::HashMap, path::Path};

use http::Method;
use schemas::{Access, ControlFact, Decision, Hour, TenantId, Timestamp};
use serde_json::json;

use crate::{
    books::{self, Result as Outcome},
    ledger::{Calls, Ledger},
    random::Random,
    rig::{Broke, Rig, text},
    script::{self, Act, Cue, PLANS, Player, Script},
};

const HOUR_MS: i64 = 3_600_000;
/// When the day's use is counted: after midnight, and before Stripe finalizes the invoices of a period that ended then.
const NIGHT_MS: i64 = 30 * 60_000;

/// What the play knows of a tenant.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub customer: String,
    /// The latest subscription, and when it began.
    pub subscription: String,
    pub began: Vec<Timestamp>,
    active: bool,
}

/// Everything that was played.
pub struct Played {
    pub script: Script,
    pub known: Vec<Known>,
    /// What was used: the model that all books are held against.
    pub used: HashMap<(TenantId, Hour), u64>,
}

struct Play {
    rig: Rig,
    ledger: Ledger,
    played: Played,
    dice: Random,
    /// All hours before this one are counted.
    counted_to: Hour,
    /// Recent calls, for what is told of late.
    recent: Vec<Calls>,
}

/// Plays the year and lays the books together.
pub async fn year(seed: u64, tenants: usize, months: u32, csv: &Path) -> Result<Outcome, Broke> {
    let script = script::write(seed, tenants, months);
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let sell = PLANS.into_iter().filter(|plan| !plan.is_empty()).collect::<Vec<_>>().join(",");
    let rig = Rig::start(&plans, &sell, script.begins).await?;
    let ledger = Ledger::new(&rig.nats);
    let known = vec![Known::default(); script.players.len()];
    let counted_to = script.begins.hour();
    let played = Played { script, known, used: HashMap::new() };
    let dice = Random::new(seed ^ 0x5eed);
    let mut play = Play { rig, ledger, played, dice, counted_to, recent: Vec::new() };
    let played = match play.run(months).await {
        Ok(()) => books::lay_together(&play.rig, &play.played, csv).await,
        Err(broke) => Err(broke),
    };
    let stopped = play.rig.stop().await;
    let outcome = played?;
    stopped?;
    Ok(outcome)
}

impl Play {
    async fn run(&mut self, months: u32) -> Result<(), Broke> {
        for player in self.played.script.players.clone() {
            self.rig.create_tenant(player.tenant, &player.name, player.zone).await?;
        }
        self.rest().await?;
        let mut cues = std::mem::take(&mut self.played.script.cues).into_iter().peekable();
        // Two months more, in which nobody uses anything, until the last corrections are invoiced.
        let last = script::month(months + 1).plus_ms(3 * 24 * HOUR_MS);
        let mut night = self.played.script.begins.plus_ms(24 * HOUR_MS + NIGHT_MS);
        while night <= last {
            while let Some(cue) = cues.next_if(|cue| cue.at < night) {
                self.go_to(cue.at).await?;
                self.act(cue).await?;
                self.rest().await?;
            }
            self.go_to(night).await?;
            night = night.plus_ms(24 * HOUR_MS);
        }
        Ok(())
    }

    /// Moves time on, counts what was used meanwhile, and waits until all is at rest.
    async fn go_to(&mut self, at: Timestamp) -> Result<(), Broke> {
        self.rig.advance(at).await?;
        self.rig.settle(self.ledger.published).await?;
        let to = at.hour().min(self.played.script.ends.hour());
        let calls = self.calls(to);
        self.count(calls).await?;
        self.rest().await
    }

    async fn count(&mut self, calls: Vec<Calls>) -> Result<(), Broke> {
        for one in &calls {
            *self.played.used.entry((one.tenant, one.at.hour())).or_default() += one.units;
        }
        self.ledger.count(&calls, self.rig.now).await?;
        let old = self.rig.now.plus_ms(-20 * 24 * HOUR_MS);
        self.recent.extend(calls);
        self.recent.retain(|one| one.at >= old);
        self.rig.settle(self.ledger.published).await
    }

    /// Waits until nothing happens any more, and takes in what was decided.
    async fn rest(&mut self) -> Result<(), Broke> {
        self.rig.settle(self.ledger.published).await?;
        for decision in self.ledger.take_control(self.rig.now).await? {
            self.take(&decision);
        }
        self.rig.settle(self.ledger.published).await
    }

    fn take(&mut self, decision: &Decision) {
        for fact in &decision.facts {
            let ControlFact::AccessChanged { tenant, access, .. } = fact else { continue };
            let players = &self.played.script.players;
            let number = players.iter().position(|player| player.tenant == *tenant);
            if let Some(number) = number {
                self.played.known[number].active = *access == Access::Active;
            }
        }
    }

    /// What active tenants use from where we counted to up to an hour.
    fn calls(&mut self, to: Hour) -> Vec<Calls> {
        let mut calls = Vec::new();
        for hour in self.counted_to.0..to.0 {
            let hour = Hour(hour);
            for (player, known) in self.played.script.players.iter().zip(&self.played.known) {
                let Some(began) = known.began.last().filter(|_| known.active) else { continue };
                let is_busy = self.dice.below(1000) < player.busy || is_marked(player, hour);
                let minute = i64::try_from(self.dice.between(1, 59)).unwrap_or(1);
                let units = 1 + self.dice.below(2 * player.size);
                let at = hour.start().plus_ms(minute * 60_000).max(began.plus_ms(1000));
                if is_busy && at.hour() == hour {
                    calls.push(Calls { tenant: player.tenant, at, units });
                }
            }
        }
        self.counted_to = self.counted_to.max(to);
        calls
    }

    async fn act(&mut self, cue: Cue) -> Result<(), Broke> {
        let Known { customer, subscription, .. } = self.played.known[cue.player].clone();
        let path = format!("/v1/subscriptions/{subscription}");
        match cue.act {
            Act::Subscribe(plan) => return self.subscribe(cue.player, PLANS[plan]).await,
            Act::Change(plan) => return self.change(&path, PLANS[plan]).await,
            Act::Late => return self.late(cue.player).await,
            Act::Card(outcome, times) => {
                let card = match times {
                    0 => json!({ "outcome": outcome }),
                    times => json!({ "outcome": outcome, "times": times }),
                };
                self.rig.sim_post(&format!("/_sim/customers/{customer}/card"), &card).await?;
            }
            Act::Pause => {
                let fields = [("pause_collection[behavior]", "void")];
                self.rig.stripe(Method::POST, &path, &fields).await?;
            }
            Act::Resume => {
                self.rig.stripe(Method::POST, &path, &[("pause_collection", "")]).await?;
            }
            Act::CancelAtEnd => {
                let fields = [("cancel_at_period_end", "true")];
                self.rig.stripe(Method::POST, &path, &fields).await?;
            }
            Act::CancelNow => {
                let fields = [("invoice_now", "true"), ("prorate", "true")];
                self.rig.stripe(Method::DELETE, &path, &fields).await?;
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, player: usize, plan: &str) -> Result<(), Broke> {
        let tenant = self.played.script.players[player].tenant;
        let plan = (!plan.is_empty()).then_some(plan);
        let (customer, subscription) = self.rig.subscribe(tenant, plan).await?;
        let known = &mut self.played.known[player];
        (known.customer, known.subscription) = (customer, subscription);
        known.began.push(self.rig.now);
        Ok(())
    }

    /// Moves a subscription's items to the prices of another plan, as an operator does in Stripe's Dashboard.
    async fn change(&self, path: &str, plan: &str) -> Result<(), Broke> {
        let items = self.rig.sim_get(path).await?["items"]["data"].clone();
        let items = items.as_array().cloned().unwrap_or_default();
        let is_metered =
            |item: &serde_json::Value| item["price"]["recurring"]["usage_type"] == "metered";
        let calls = items.iter().find(|item| is_metered(item)).ok_or("no metered item")?;
        let base = items.iter().find(|item| !is_metered(item));
        let calls_key = if plan.is_empty() {
            "tollbook_tool_calls".to_owned()
        } else {
            format!("{plan}/tool-calls/usd")
        };
        let new_calls = self.price(&calls_key).await?.ok_or("no such price")?;
        let new_base = self.price(&format!("{plan}/base/usd")).await?;
        let mut fields =
            vec![("items[0][id]", text(&calls["id"])?), ("items[0][price]", new_calls)];
        match (base, new_base) {
            (Some(old), Some(new)) => {
                fields.extend([("items[1][id]", text(&old["id"])?), ("items[1][price]", new)]);
            }
            (Some(old), None) => {
                fields.extend([
                    ("items[1][id]", text(&old["id"])?),
                    ("items[1][deleted]", "true".to_owned()),
                ]);
            }
            (None, Some(new)) => {
                fields.extend([("items[1][price]", new), ("items[1][quantity]", "1".to_owned())]);
            }
            (None, None) => {}
        }
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.rig.stripe(Method::POST, path, &fields).await?;
        Ok(())
    }

    async fn price(&self, key: &str) -> Result<Option<String>, Broke> {
        let key = key.replace('@', "%40").replace('/', "%2F");
        let found = self.rig.sim_get(&format!("/v1/prices?lookup_keys[0]={key}&limit=1")).await?;
        Ok(found["data"][0]["id"].as_str().map(str::to_owned))
    }

    /// Some of what a tenant used in the past weeks comes again as more: a node was away.
    async fn late(&mut self, player: usize) -> Result<(), Broke> {
        let tenant = self.played.script.players[player].tenant;
        let edge = self.rig.now.plus_ms(-10 * 24 * HOUR_MS);
        let mut of_tenant: Vec<Calls> = self
            .recent
            .iter()
            .filter(|one| one.tenant == tenant && one.at >= edge)
            .copied()
            .collect();
        let mut late = Vec::new();
        for _ in 0..3.min(of_tenant.len()) {
            let one = of_tenant.swap_remove(self.dice.index(of_tenant.len()));
            late.push(Calls { units: 1 + self.dice.below(one.units), ..one });
        }
        self.count(late).await
    }
}

/// Hours that must see some use: of the leap day, and those that a clock which is put back shows twice.
fn is_marked(player: &Player, hour: Hour) -> bool {
    let at = |text: &str| {
        text.parse::<chrono::DateTime<chrono::Utc>>().map(|at| Timestamp::from(at).hour())
    };
    let marked: &[&str] = match player.zone {
        "America/New_York" => &["2028-11-05T05:00:00Z", "2028-11-05T06:00:00Z"],
        "Europe/Berlin" => &["2028-10-29T00:00:00Z", "2028-10-29T01:00:00Z"],
        _ => &["2028-02-29T12:00:00Z"],
    };
    marked.iter().any(|text| at(text) == Ok(hour))
}
