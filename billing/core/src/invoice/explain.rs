//! A bill in words, for people: every line says by which rule it came to its amount.
//!
//! Absent on purpose: other languages than English, and layout; the bill itself is the data to build those from.

use std::fmt::Write;

use super::{Bill, BilledTerm, Line};
use crate::{
    currency::Currency,
    money::Minor,
    rate::{Part, Rule},
};

impl Bill {
    /// One text for each line, in the order of the lines, such as
    /// `tool-calls: 12500 tool_calls: 10000 included, 2500 at 0.8 per 1000 = 2.00 usd`.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let lines = self.lines.iter().map(|line| {
            let term = usize::try_from(line.term).ok().and_then(|place| self.terms.get(place));
            term.map_or_else(String::new, |term| explain_line(line, term, self.currency))
        });
        lines.collect()
    }
}

fn explain_line(line: &Line, term: &BilledTerm, currency: Currency) -> String {
    let mut text = format!("{}: ", line.charge);
    if let Some(meter) = &line.meter {
        // Writing to a text cannot fail; the same holds below.
        let _ = write!(text, "{} {meter}: ", line.quantity.0);
    }
    let mut reasons: Vec<String> = Vec::new();
    if term.trial {
        reasons.push("trial".to_owned());
    } else if let Some(fee) = line.fee {
        let share = term.share;
        let whole = share.from == 0 && share.to == share.of;
        let part = if whole {
            String::new()
        } else {
            format!(" for {}/{} of the period", share.to - share.from, share.of)
        };
        reasons.push(format!("fee of {fee}{part}"));
    }
    if line.granted.0 > 0 {
        reasons.push(format!("{} covered by credits", line.granted.0));
    }
    reasons.extend(line.parts.iter().map(explain_part));
    if reasons.is_empty() {
        reasons.push("no use".to_owned());
    }
    text += &reasons.join(", ");
    if line.adjustment != Minor::ZERO {
        let limit = if line.adjustment > Minor::ZERO { "minimum" } else { "maximum" };
        let _ = write!(text, ", {limit} {}", show(line.adjustment, currency));
    }
    text + &format!(" = {} {currency}", show(line.amount, currency))
}

fn explain_part(part: &Part) -> String {
    let units = part.quantity.0;
    let per = |per: u64| if per == 1 { String::new() } else { format!(" per {per}") };
    match part.rule {
        Rule::Fee { price } => format!("fee of {price}"),
        Rule::Included => format!("{units} included"),
        Rule::Units { price, per: of } => format!("{units} at {price}{}", per(of)),
        Rule::TierUnits { tier, price, per: of } => {
            format!("{units} at {price}{} in tier {tier}", per(of))
        }
        Rule::TierFee { tier, price } => format!("fee of {price} for tier {tier}"),
        Rule::Packs { packs, size, price } => {
            format!("{units} in {packs} packs of {size} at {price}")
        }
    }
}

/// An amount with as many decimals as its currency has, such as `2.00`.
fn show(amount: Minor, currency: Currency) -> String {
    let decimals = usize::from(currency.decimals());
    let sign = if amount < Minor::ZERO { "-" } else { "" };
    let digits = format!("{:0>width$}", amount.units().unsigned_abs(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let point = if decimals == 0 { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_show_the_decimals_of_their_currency() {
        #[track_caller]
        fn check(units: i64, currency: &str, text: &str) {
            assert_eq!(show(Minor::try_new(units).unwrap(), currency.parse().unwrap()), text);
        }
        check(200, "usd", "2.00");
        check(5, "usd", "0.05");
        check(-105, "usd", "-1.05");
        check(200, "jpy", "200");
        check(0, "jpy", "0");
        check(5, "kwd", "0.005");
    }
}
