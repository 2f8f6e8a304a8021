//! Cursor paging, as all of Stripe's v1 lists do it.
//!
//! Rows come newest first. A cursor is looked up among all rows and the filter applies after it, so a cursor stays good when its
//! own row no longer passes the filter.

use crate::error::ApiError;
use crate::params::Params;
use serde_json::{Value, json};

const DEFAULT_LIMIT: usize = 10;
const MAX_LIMIT: i64 = 100;

/// The page that a request asks for.
#[derive(Debug)]
pub struct Page {
    limit: usize,
    cursor: Cursor,
}

#[derive(Debug)]
enum Cursor {
    Start,
    After(String),
    Before(String),
}

impl Page {
    /// Takes `limit`, `starting_after` and `ending_before`.
    ///
    /// # Errors
    /// 400 for a limit outside 1..=100 or two cursors at once.
    pub fn take(params: &mut Params) -> Result<Self, ApiError> {
        let limit = match params.int("limit") {
            None => DEFAULT_LIMIT,
            Some(limit) if limit > MAX_LIMIT => return Err(out_of_range("less", MAX_LIMIT, limit)),
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| out_of_range("greater", 1, limit))?,
        };
        let cursor = match (params.text("starting_after"), params.text("ending_before")) {
            (None, None) => Cursor::Start,
            (Some(id), None) => Cursor::After(id),
            (None, Some(id)) => Cursor::Before(id),
            (Some(_), Some(_)) => {
                let message = "Received both ending_before and starting_after parameters. Please pass in only one.";
                return Err(ApiError::invalid("ending_before", message));
            }
        };
        Ok(Self { limit, cursor })
    }

    /// Takes `limit` and `page`, as v2 lists have them: a page's token is the last row before it.
    ///
    /// # Errors
    /// 400 for a limit outside 1..=100.
    pub fn take_v2(params: &mut Params) -> Result<Self, ApiError> {
        let cursor = params.text("page").map_or(Cursor::Start, Cursor::After);
        Ok(Self { cursor, ..Self::take(params)? })
    }

    /// Cuts the page out of `rows` (newest first) and says whether more follow in the direction of travel.
    ///
    /// # Errors
    /// 400 when the cursor names no row.
    pub fn cut<'a>(
        &self,
        noun: &str,
        rows: impl Iterator<Item = &'a Value>,
        keep: impl Fn(&Value) -> bool,
    ) -> Result<(Vec<&'a Value>, bool), ApiError> {
        let rows: Vec<&Value> = rows.collect();
        let find = |id: &str, param: &str| {
            rows.iter()
                .position(|row| row["id"] == id)
                .ok_or_else(|| ApiError::no_such(noun, id, param))
        };
        let kept =
            |range: &[&'a Value]| range.iter().copied().filter(|row| keep(row)).collect::<Vec<_>>();
        let mut found = match &self.cursor {
            Cursor::Start => kept(&rows),
            Cursor::After(id) => kept(&rows[find(id, "starting_after")? + 1..]),
            Cursor::Before(id) => {
                let mut before = kept(&rows[..find(id, "ending_before")?]);
                let more = before.len() > self.limit;
                before.drain(..before.len().saturating_sub(self.limit));
                return Ok((before, more));
            }
        };
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        Ok((found, more))
    }
}

/// The list object around a page.
pub fn object(url: &str, data: Vec<Value>, has_more: bool) -> Value {
    let mut list = json!({ "object": "list", "url": url, "has_more": has_more });
    list["data"] = Value::Array(data);
    list
}

fn out_of_range(which: &str, bound: i64, limit: i64) -> ApiError {
    let message =
        format!("This value must be {which} than or equal to {bound} (it currently is '{limit}').");
    ApiError::invalid_code("parameter_invalid_integer", "limit", message)
}

/// A filter on a time: an exact second, or bounds.
#[derive(Debug, Default)]
pub struct Range {
    gt: Option<i64>,
    gte: Option<i64>,
    lt: Option<i64>,
    lte: Option<i64>,
}

impl Range {
    /// Takes a parameter like `created`.
    ///
    /// # Errors
    /// 501 for a bound that nobody reads, which the schema excludes.
    pub fn take(params: &mut Params, name: &str) -> Result<Self, ApiError> {
        let path = params.path_of(name);
        match params.take(name) {
            Some(Value::Object(bounds)) => {
                let mut bounds = Params::within(&path, bounds);
                let range = Self {
                    gt: bounds.int("gt"),
                    gte: bounds.int("gte"),
                    lt: bounds.int("lt"),
                    lte: bounds.int("lte"),
                };
                bounds.finish()?;
                Ok(range)
            }
            exact => {
                let at = exact.and_then(|value| value.as_i64());
                Ok(Self { gte: at, lte: at, ..Self::default() })
            }
        }
    }

    /// As [`Range::contains`], for a time that may be absent: without bounds everything passes.
    pub fn contains_if_bound(&self, at: Option<i64>) -> bool {
        match at {
            Some(at) => self.contains(at),
            None => [self.gt, self.gte, self.lt, self.lte].iter().all(Option::is_none),
        }
    }

    pub fn contains(&self, at: i64) -> bool {
        self.gt.is_none_or(|bound| at > bound)
            && self.gte.is_none_or(|bound| at >= bound)
            && self.lt.is_none_or(|bound| at < bound)
            && self.lte.is_none_or(|bound| at <= bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(parameters: &Value) -> Result<Page, ApiError> {
        Page::take(&mut Params::new(parameters.as_object().unwrap().clone()))
    }

    #[track_caller]
    fn check(parameters: &Value, expect: &[u64], more: bool) {
        let rows: Vec<Value> = (0..5).map(|n| json!({ "id": format!("x{n}"), "n": n })).collect();
        let (found, has_more) =
            page(parameters).unwrap().cut("x", rows.iter(), |row| row["n"] != 2).unwrap();
        let found: Vec<u64> = found.iter().map(|row| row["n"].as_u64().unwrap()).collect();
        assert_eq!((found.as_slice(), has_more), (expect, more), "{parameters}");
    }

    #[test]
    fn cursors_walk_both_ways_and_survive_the_filter() {
        check(&json!({}), &[0, 1, 3, 4], false);
        check(&json!({ "limit": 2 }), &[0, 1], true);
        check(&json!({ "limit": 2, "starting_after": "x1" }), &[3, 4], false);
        check(&json!({ "limit": 1, "starting_after": "x2" }), &[3], true);
        check(&json!({ "limit": 1, "ending_before": "x4" }), &[3], true);
        check(&json!({ "limit": 9, "ending_before": "x3" }), &[0, 1], false);
    }

    #[test]
    fn limits_and_cursors_are_checked() {
        assert!(page(&json!({ "limit": 0 })).is_err());
        assert!(page(&json!({ "limit": 101 })).is_err());
        assert!(page(&json!({ "starting_after": "a", "ending_before": "b" })).is_err());
        let rows = [json!({ "id": "a" })];
        assert!(
            page(&json!({ "starting_after": "gone" }))
                .unwrap()
                .cut("x", rows.iter(), |_| true)
                .is_err()
        );
    }

    #[test]
    fn a_time_filter_takes_a_second_or_bounds() {
        let range = |value: Value| {
            Range::take(
                &mut Params::new([("created".to_owned(), value)].into_iter().collect()),
                "created",
            )
            .unwrap()
        };
        assert!(range(json!(5)).contains(5) && !range(json!(5)).contains(6));
        assert!(
            range(json!({ "gt": 5, "lte": 7 })).contains(7)
                && !range(json!({ "gt": 5 })).contains(5)
        );
    }
}
