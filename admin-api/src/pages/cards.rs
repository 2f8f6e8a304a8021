//! The numbers at the top of the page, and the line that says as of when. Pure.

use super::{
    format::{self, counted, percent, whole},
    view::Found,
};
use crate::read::usage::Counts;

/// One number.
pub struct Card {
    pub name: &'static str,
    pub number: String,
    /// Of all calls; empty = not said.
    pub share: String,
    pub note: String,
    /// A word on how it stands: `good`, `wait` or `bad`; empty = none.
    pub tone: &'static str,
}

/// As of when the page is true.
pub fn as_of(found: &Found) -> String {
    let Some(as_of) = found.as_of else { return "Nothing has been written yet".to_owned() };
    let day = if as_of.event_time.hour().0.div_euclid(24) == found.now.hour().0.div_euclid(24) {
        String::new()
    } else {
        format!("{}, ", format::date(as_of.event_time))
    };
    let lag = match found.lag {
        Some(0) => "up to date".to_owned(),
        Some(lag) => format!("{} behind", counted(lag, "message")),
        None => "the log cannot be asked now".to_owned(),
    };
    format!(
        "As of {day}{} UTC · log message {} · {lag}",
        format::clock(as_of.event_time),
        whole(as_of.stream_seq)
    )
}

/// The totals, and whether the ledger has the same.
pub fn cards(found: &Found, totals: Counts) -> Vec<Card> {
    let all = totals.calls + totals.free + totals.refused;
    let card = |name, count: u64, note: &str| {
        let share = if count > 0 { percent(count, all) } else { String::new() };
        Card { name, number: whole(count), share, note: note.to_owned(), tone: "" }
    };
    let billable =
        card("Billable calls", totals.calls, &format!("in the last {}", found.range.words));
    let (number, note, tone) = ledger_card(found, totals);
    vec![
        Card { share: String::new(), ..billable },
        card("Free", totals.free, "answered, not billed"),
        card("Refused", totals.refused, "never forwarded"),
        Card { name: "Ledger", number, share: String::new(), note, tone },
    ]
}

/// What the ledger counted, and whether it is the same. A difference is no news while something is on its way.
fn ledger_card(found: &Found, totals: Counts) -> (String, String, &'static str) {
    /// Both read the same log at their own pace; within this time of the last message one may be ahead. Unit: ms.
    const SETTLING_MS: i64 = 10_000;
    let Some(ledger) = found.ledger else {
        return ("–".to_owned(), "cannot be read now".to_owned(), "wait");
    };
    let settling = found.lag != Some(0)
        || found.as_of.is_none_or(|as_of| found.now.ms_since(as_of.event_time) < SETTLING_MS);
    let number = whole(ledger.calls);
    match ledger.calls.abs_diff(totals.calls) {
        0 => (number, "ties to the unit".to_owned(), "good"),
        off if settling => (number, format!("{} on the way", whole(off)), "wait"),
        off => (number, format!("differs by {}", whole(off)), "bad"),
    }
}
