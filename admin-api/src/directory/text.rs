//! What people may write: names, time zones, scopes, tools, limits. Pure; each rule says what it wants.

use schemas::{PeriodRule, Timestamp};

/// The largest whole number that every JSON reader keeps: 2^53 - 1.
pub const LARGEST: u64 = 9_007_199_254_740_991;
/// The first moment after what an expiry may name: 2100-01-01T00:00:00Z.
const LATEST: Timestamp = Timestamp(4_102_444_800_000);

/// What is wrong with a text, as the end of a sentence that begins with the field's name.
pub type Wrong = &'static str;

/// A name that people see: trimmed, 1 to 100 characters, none of them a control character.
///
/// # Errors
/// Says what a name must be.
pub fn name(text: &str) -> Result<String, Wrong> {
    let text = text.trim();
    let fits = (1..=100).contains(&text.chars().count());
    if fits && !text.chars().any(char::is_control) { Ok(text.to_owned()) } else { Err(NAME) }
}
const NAME: Wrong = "must be 1 to 100 characters without control characters";

/// A time zone of the IANA database, `Europe/Berlin`.
///
/// # Errors
/// There is no such zone.
pub fn time_zone(text: &str) -> Result<String, Wrong> {
    match PeriodRule::Month.period_at(Timestamp(0), text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be a time zone of the IANA database, as `Europe/Berlin` or `UTC`"),
    }
}

/// Scopes such as `context:read`, without repeats.
///
/// # Errors
/// Too many, or one that is no scope.
pub fn scopes(texts: Vec<String>) -> Result<Vec<String>, Wrong> {
    let plain = |b: u8| {
        b.is_ascii_lowercase()
            || b.is_ascii_digit()
            || matches!(b, b':' | b'.' | b'_' | b'-' | b'*')
    };
    let good = |text: &String| (1..=64).contains(&text.len()) && text.bytes().all(plain);
    if texts.len() <= 32 && texts.iter().all(good) {
        Ok(without_repeats(texts))
    } else {
        Err(SCOPES)
    }
}
const SCOPES: Wrong =
    "must be at most 32 scopes of 1 to 64 characters of a-z, 0-9, `:`, `.`, `_`, `-` and `*`";

/// The tools that a key may call, without repeats.
///
/// # Errors
/// None, too many, or one that is no tool's name.
pub fn tools(texts: Vec<String>) -> Result<Vec<String>, Wrong> {
    let good = |text: &String| {
        (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    };
    if (1..=500).contains(&texts.len()) && texts.iter().all(good) {
        Ok(without_repeats(texts))
    } else {
        Err(TOOLS)
    }
}
const TOOLS: Wrong =
    "must be 1 to 500 tool names of 1 to 128 characters; leave it out to allow all tools";

/// The end of a key's life, in RFC 3339.
///
/// # Errors
/// Not RFC 3339, or not before the year 2100.
pub fn expires_at(text: &str) -> Result<Timestamp, Wrong> {
    moment(text)
        .filter(|at| *at < LATEST)
        .ok_or("must be a time in RFC 3339, as `2027-01-31T00:00:00Z`, before 2100")
}

/// A moment in RFC 3339.
pub fn moment(text: &str) -> Option<Timestamp> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.to_utc().into())
}

/// A quota's limit.
///
/// # Errors
/// Past 2^53 - 1.
pub fn limit(number: u64) -> Result<u64, Wrong> {
    if number <= LARGEST {
        Ok(number)
    } else {
        Err("must be a whole number from 0 to 9007199254740991")
    }
}

fn without_repeats(texts: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts.into_iter().filter(|text| seen.insert(text.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded_in_characters_not_bytes() {
        assert_eq!(name("  Zürich & Söhne\t").as_deref(), Ok("Zürich & Söhne"));
        assert!(name(&"ü".repeat(100)).is_ok() && name(&"ü".repeat(101)).is_err());
        for bad in ["", "   ", "a\nb", "a\u{7f}b"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_zone_scope_tool_or_time_is_refused() {
        assert!(time_zone("Europe/Berlin").is_ok() && time_zone("UTC").is_ok());
        assert!(time_zone("Mars/Olympus").is_err() && time_zone("").is_err());
        assert_eq!(
            scopes(vec!["a:read".into(), "a:read".into(), "*".into()]),
            Ok(vec!["a:read".into(), "*".into()])
        );
        assert!(scopes(vec!["A".into()]).is_err() && scopes(vec![String::new()]).is_err());
        assert!(scopes(vec!["a".into(); 33]).is_err());
        assert!(tools(vec![]).is_err() && tools(vec!["a\0".into()]).is_err());
        assert_eq!(tools(vec!["Search It".into()]), Ok(vec!["Search It".into()]));
        assert_eq!(expires_at("2027-01-31T01:00:00+01:00"), Ok(Timestamp(1_801_353_600_000)));
        assert!(expires_at("2100-01-01T00:00:00Z").is_err() && expires_at("tomorrow").is_err());
        assert!(limit(LARGEST).is_ok() && limit(LARGEST + 1).is_err());
    }
}
