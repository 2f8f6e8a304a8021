//! The end of the year: the play's own model, the simulated Stripe's books and billing's statements, side by side.
//!
//! Nothing here believes billing: use comes from the play, sums and invoices from Stripe's side, and only what billing
//! says that it carried and rated is taken from its statements and held against those.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    path::Path,
};

use billing::store::statement::{Key, bill, look};
use schemas::{Hour, Period, TenantId, Timestamp};
use serde_json::Value;

use crate::{
    rig::{Broke, Rig, text},
    run::Played,
};

/// What came of it.
pub struct Result {
    tenants: usize,
    months: usize,
    ledger: u64,
    stripe: u64,
    carried: u64,
    cents: u64,
    pub differences: Vec<String>,
}

impl Result {
    /// The last line of the output.
    pub fn line(&self) -> String {
        // In this order, which a JSON object of ours would not keep.
        format!(
            "{{\"tenants\":{},\"months\":{},\"ledger\":{},\"stripe\":{},\"carried\":{},\"cent_differences\":{}}}",
            self.tenants, self.months, self.ledger, self.stripe, self.carried, self.cents
        )
    }
}

/// What Stripe's side asks for one period of one subscription.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    units: u64,
    minor: i64,
}

/// One line of the table.
struct Row {
    tenant: TenantId,
    name: String,
    period: Period,
    subscription: String,
    ledger: u64,
    stripe: u64,
    invoiced: u64,
    carried: u64,
    expected: i64,
    asked: i64,
    corrected: i64,
    collected: i64,
    verdict: String,
}

/// Lays all books together and writes the table.
pub async fn lay_together(
    rig: &Rig,
    played: &Played,
    csv: &Path,
) -> std::result::Result<Result, Broke> {
    let sums = stripe_sums(rig).await?;
    let (invoices, corrections) = stripe_money(rig).await?;
    let mut differences = Vec::new();
    let mut rows = Vec::new();
    let mut seen: BTreeSet<(TenantId, Hour)> = BTreeSet::new();
    let mut after = (i64::MIN, String::new(), String::new());
    loop {
        let page = look::all(&rig.pool, (after.0, &after.1, &after.2), 500).await?;
        let Some(last) = page.last() else { break };
        after = (last.from_ms, last.tenant_id.clone(), last.subscription.clone());
        for shown in page {
            let row = row(rig, played, &shown, &sums, &invoices, &corrections, &mut seen).await?;
            differences.extend(row.differences());
            rows.push(row);
        }
    }
    for ((tenant, hour), units) in &played.used {
        if !seen.contains(&(*tenant, *hour)) {
            differences
                .push(format!("{units} units of {tenant} at {} are on no statement", hour.start()));
        }
    }
    let ledger: u64 = played.used.values().sum();
    let stripe: u64 = sums.values().sum();
    if ledger != stripe {
        differences.push(format!("the ledger has {ledger} units, Stripe {stripe}"));
    }
    self_check(rig, &mut differences).await?;
    let months: BTreeSet<String> = rows
        .iter()
        .filter(|row| row.period.from < played.script.ends)
        .map(|row| row.period.from.to_utc().format("%Y-%m").to_string())
        .collect();
    if let Some(folder) = csv.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(csv, table(&rows))?;
    Ok(Result {
        tenants: played.script.players.len(),
        months: months.len(),
        ledger,
        stripe,
        carried: rows.iter().map(|row| row.carried).sum(),
        cents: rows
            .iter()
            .map(|row| row.expected.abs_diff(row.asked) + row.corrected.abs_diff(row.collected))
            .sum(),
        differences,
    })
}

/// What Stripe counted, by customer and hour.
async fn stripe_sums(rig: &Rig) -> std::result::Result<HashMap<(String, Hour), u64>, Broke> {
    let totals = rig.sim_get("/_sim/meters/totals").await?;
    let mut sums = HashMap::new();
    for hour in totals["hours"].as_array().into_iter().flatten() {
        let start = hour["hour"].as_i64().ok_or_else(|| format!("no hour: {hour}"))?;
        let units: u64 = text(&hour["sum"])?.parse()?;
        *sums.entry((text(&hour["customer"])?, Hour(start.div_euclid(3600)))).or_default() += units;
    }
    Ok(sums)
}

/// What invoices ask, by subscription and the start of what a line is for; and what corrections collect, by key.
type Money = (BTreeMap<(String, i64), Asked>, HashMap<String, i64>);

async fn stripe_money(rig: &Rig) -> std::result::Result<Money, Broke> {
    let (mut invoices, mut corrections): Money = Default::default();
    let prices = rig.list("/v1/prices?").await?;
    let metered: BTreeSet<String> = prices
        .iter()
        .filter(|price| price["recurring"]["usage_type"] == "metered")
        .map(|price| text(&price["id"]))
        .collect::<std::result::Result<_, _>>()?;
    for invoice in rig.list("/v1/invoices?").await? {
        if invoice["status"] == "draft" {
            continue;
        }
        let id = text(&invoice["id"])?;
        for line in rig.list(&format!("/v1/invoices/{id}/lines?")).await? {
            let amount = line["amount"].as_i64().ok_or("a line without an amount")?;
            if line["metadata"]["tollbook_correction"].is_string() {
                continue; // Counted as an item below, whether it is invoiced yet or not.
            }
            let Some(subscription) = line["subscription"].as_str() else { continue };
            let from = line["period"]["start"].as_i64().ok_or("a line without a period")?;
            let asked = invoices.entry((subscription.to_owned(), from)).or_insert(Asked::default());
            asked.minor += amount;
            let price = line["pricing"]["price_details"]["price"].as_str().unwrap_or_default();
            if metered.contains(price) {
                asked.units +=
                    line["quantity"].as_u64().ok_or("a metered line without a quantity")?;
            }
        }
    }
    for (path, sign) in [("/v1/invoiceitems?", 1), ("/v1/credit_notes?", -1)] {
        for one in rig.list(path).await? {
            if let Some(key) = one["metadata"]["tollbook_correction"].as_str() {
                let amount = one["amount"].as_i64().ok_or("a correction without an amount")?;
                *corrections.entry(key.to_owned()).or_default() += sign * amount;
            }
        }
    }
    Ok((invoices, corrections))
}

async fn row(
    rig: &Rig,
    played: &Played,
    shown: &look::Shown,
    sums: &HashMap<(String, Hour), u64>,
    invoices: &BTreeMap<(String, i64), Asked>,
    corrections: &HashMap<String, i64>,
    seen: &mut BTreeSet<(TenantId, Hour)>,
) -> std::result::Result<Row, Broke> {
    let tenant: TenantId = shown.tenant_id.parse()?;
    let number = played
        .script
        .players
        .iter()
        .position(|player| player.tenant == tenant)
        .ok_or("a stranger")?;
    let (player, known) = (&played.script.players[number], &played.known[number]);
    let period = Period { from: Timestamp(shown.from_ms), to: Timestamp(shown.to_ms) };
    let (mut ledger, mut stripe) = (0, 0);
    for hour in period.from.hour().0..=period.to.hour().0 {
        let hour = Hour(hour);
        // In the hour in which a subscription begins, use is dated behind its beginning.
        let began = known.began.iter().find(|began| began.hour() == hour);
        let dated = began.copied().unwrap_or(hour.start());
        if period.contains(dated) {
            if let Some(units) = played.used.get(&(tenant, hour)) {
                ledger += units;
                seen.insert((tenant, hour));
            }
            stripe += sums.get(&(known.customer.clone(), hour)).copied().unwrap_or(0);
        }
    }
    // What is given back of a month after a subscription's end is for the rest of that month.
    let until = next_month(period.from);
    let inside = (shown.subscription.clone(), period.from.0 / 1000)
        ..(shown.subscription.clone(), until.0 / 1000);
    let asked = invoices.range(inside).fold(Asked::default(), |sum, (_, one)| Asked {
        units: sum.units + one.units,
        minor: sum.minor + one.minor,
    });
    let key = Key { tenant, subscription: shown.subscription.clone(), from: period.from };
    let bills = bill::all(&rig.pool, &key).await?;
    let units = |place: Option<&bill::Stored>| place.map_or(0, |bill| bill.units.0);
    let (first, last) = (bills.first(), bills.last());
    let later = || bills.iter().skip(1);
    Ok(Row {
        tenant,
        name: player.name.clone(),
        period,
        subscription: shown.subscription.clone(),
        ledger,
        stripe,
        invoiced: asked.units,
        carried: units(last) - units(first),
        expected: first.map_or(0, |bill| bill.total.units()),
        asked: asked.minor,
        corrected: later().map(|bill| bill.difference.units()).sum(),
        collected: later().filter_map(|bill| corrections.get(&bill.correction_key())).sum(),
        verdict: shown.verdict.clone(),
    })
}

/// When the month ends that a moment lies in.
fn next_month(at: Timestamp) -> Timestamp {
    let first = (0..).map(crate::script::month).find(|first| *first > at);
    first.expect("months do not end")
}

impl Row {
    fn differences(&self) -> Vec<String> {
        let whose = format!("{} {} from {}", self.name, self.subscription, self.period.from);
        let mut found = Vec::new();
        let mut differ = |what: &str, one: i128, other: i128| {
            if one != other {
                found.push(format!("{whose}: {what}: {one} and {other}"));
            }
        };
        differ("ledger and Stripe's sums", self.ledger.into(), self.stripe.into());
        let billed = i128::from(self.invoiced) + i128::from(self.carried);
        differ("ledger and invoiced with carried", self.ledger.into(), billed);
        differ("rated and invoiced cents", self.expected.into(), self.asked.into());
        differ("corrections and what collects them", self.corrected.into(), self.collected.into());
        if self.verdict != "ties" {
            found.push(format!("{whose}: billing's own verdict is `{}`", self.verdict));
        }
        found
    }
}

/// Stripe's side found every request and answer to be as its API describes.
async fn self_check(rig: &Rig, differences: &mut Vec<String>) -> std::result::Result<(), Broke> {
    let health: Value = rig.sim_get("/_sim/health").await?;
    for count in ["unvalidated_paths", "invalid_responses", "not_simulated"] {
        if health[count] != 0 {
            differences.push(format!("the simulated Stripe complains: {health}"));
        }
    }
    let quarantined: i64 =
        sqlx::query_scalar("select count(*) from quarantine").fetch_one(&rig.pool).await?;
    if quarantined > 0 {
        differences.push(format!("{quarantined} messages are in quarantine"));
    }
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut text = "tenant,name,month,from,to,subscription,ledger_units,stripe_units,invoiced_units,carried_units,\
        rated_minor,invoiced_minor,corrected_minor,collected_minor,unit_difference,cent_difference,verdict\r\n"
        .to_owned();
    for row in rows {
        let units = i128::from(row.ledger) - i128::from(row.invoiced) - i128::from(row.carried);
        let cents = row.expected - row.asked + row.corrected - row.collected;
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{units},{cents},{}\r\n",
            row.tenant,
            row.name,
            row.period.from.to_utc().format("%Y-%m"),
            row.period.from,
            row.period.to,
            row.subscription,
            row.ledger,
            row.stripe,
            row.invoiced,
            row.carried,
            row.expected,
            row.asked,
            row.corrected,
            row.collected,
            row.verdict,
        );
    }
    text
}
