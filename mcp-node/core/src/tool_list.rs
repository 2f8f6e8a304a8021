//! The answer to `tools/list` for a caller that may not call every tool: what it may not call does not show.
//!
//! The tools that stay are the server's bytes, in the server's order, and so is everything around them: the cursor of
//! the next page, what we do not know. An entry whose name cannot be read for certain does not stay. Absent on purpose:
//! who may call what (`gate`).

use std::{borrow::Cow, ops::Range};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The answer cannot be read without a doubt, so nobody knows what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a list of tools that two readers could read in two ways")]
pub struct Unreadable;

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "cacheScope", deserialize_with = "present")]
    cache_scope: Option<&'a RawValue>,
}

/// A member that is there, be it `null`.
fn present<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// The answer without the tools that the caller may not call; borrowed where nothing changes, as an error does not.
///
/// `private` = the answer is one of the revision that has `cacheScope`: no cache may show it to others then.
///
/// # Errors
/// See [`Unreadable`].
pub fn filtered<'a>(
    message: &'a [u8],
    may: impl Fn(&str) -> bool,
    private: bool,
) -> Result<Cow<'a, [u8]>, Unreadable> {
    let text = std::str::from_utf8(message).map_err(|_| Unreadable)?;
    let top: Top<'_> = object(text).ok_or(Unreadable)?;
    let Some(result) = top.result else { return Ok(Cow::Borrowed(message)) };
    let listed: Listed<'_> = object(result.get()).ok_or(Unreadable)?;
    let mut edits = vec![];
    if let Some(tools) = listed.tools {
        let all: Vec<&RawValue> = serde_json::from_str(tools.get()).map_err(|_| Unreadable)?;
        let kept: Vec<&str> =
            all.iter().map(|tool| tool.get()).filter(|tool| shows(tool, &may)).collect();
        if kept.len() < all.len() {
            edits.push((place(text, tools.get()), format!("[{}]", kept.join(","))));
        }
    }
    if private {
        match listed.cache_scope {
            Some(scope) if scope.get() == PRIVATE => {}
            Some(scope) => edits.push((place(text, scope.get()), PRIVATE.to_owned())),
            None => edits.push(added(text, result.get())),
        }
    }
    Ok(if edits.is_empty() { Cow::Borrowed(message) } else { Cow::Owned(spliced(text, edits)) })
}

const PRIVATE: &str = r#""private""#;

fn shows(tool: &str, may: impl Fn(&str) -> bool) -> bool {
    object::<Tool<'_>>(tool).is_some_and(|tool| may(&tool.name))
}

/// Members of an object; arrays, which the parser would take for one too, are none.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten()
}

/// The member `cacheScope` at the head of a result that has none.
fn added(text: &str, result: &str) -> (Range<usize>, String) {
    let inner = &result[1..];
    let at = place(text, inner).start;
    let comma = if inner.trim_start().starts_with('}') { "" } else { "," };
    (at..at, format!(r#""cacheScope":{PRIVATE}{comma}"#))
}

/// Where `part`, a slice of `text`, lies in it.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn spliced(text: &str, mut edits: Vec<(Range<usize>, String)>) -> Vec<u8> {
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = text.to_owned();
    for (place, piece) in edits {
        text.replace_range(place, &piece);
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(message: &str, private: bool, expected: Result<&str, Unreadable>) {
        let found = filtered(message.as_bytes(), |name| name.starts_with('m'), private);
        let found = found.map(|bytes| String::from_utf8(bytes.into_owned()).unwrap());
        assert_eq!(found.as_deref(), expected.as_ref().map(|text| *text), "{message}");
    }

    #[test]
    fn what_may_not_be_called_does_not_show_and_the_rest_keeps_its_bytes() {
        check(
            r#" {"vendor":1.00,"result":{ "tools": [ {"name":"x"} , { "x":1.0, "name" : "m\u0061" }, {"name":"me"}], "nextCursor":"c" },"id":"\u0061"} "#,
            false,
            Ok(
                r#" {"vendor":1.00,"result":{ "tools": [{ "x":1.0, "name" : "m\u0061" },{"name":"me"}], "nextCursor":"c" },"id":"\u0061"} "#,
            ),
        );
        let same = r#"{"id":1,"result":{"tools":[ {"name":"me"} ],"nextCursor":"c"}}"#;
        check(same, false, Ok(same));
        check(r#"{"result":{"tools":[{"name":"x"}]}}"#, false, Ok(r#"{"result":{"tools":[]}}"#));
        let error = r#"{"id":1,"error":{"code":-1,"message":"tools"}}"#;
        check(error, true, Ok(error));
    }

    #[test]
    fn a_filtered_list_is_the_callers_alone() {
        check(
            r#"{"result":{"cacheScope" : "public","tools":[{"name":"x"},{"name":"m"}],"ttlMs":9}}"#,
            true,
            Ok(r#"{"result":{"cacheScope" : "private","tools":[{"name":"m"}],"ttlMs":9}}"#),
        );
        check(
            r#"{"result":{"tools":[{"name":"x"}],"cacheScope":"public"}}"#,
            true,
            Ok(r#"{"result":{"tools":[],"cacheScope":"private"}}"#),
        );
        check(
            r#"{"result":{"tools":[{"name":"m"}]}}"#,
            true,
            Ok(r#"{"result":{"cacheScope":"private","tools":[{"name":"m"}]}}"#),
        );
        check(
            r#"{"result":{"cacheScope":null}}"#,
            true,
            Ok(r#"{"result":{"cacheScope":"private"}}"#),
        );
        check(r#"{"result":{ }}"#, true, Ok(r#"{"result":{"cacheScope":"private" }}"#));
        let same = r#"{"result":{"tools":[{"name":"m"}],"cacheScope":"private"}}"#;
        check(same, true, Ok(same));
    }

    #[test]
    fn a_tool_without_a_certain_name_does_not_show() {
        for tool in ["1", "null", "{}", r#"{"name":1}"#, r#"{"name":"m","name":"x"}"#, r#"["m"]"#] {
            let message = format!(r#"{{"result":{{"tools":[{{"name":"m"}},{tool}]}}}}"#);
            check(&message, false, Ok(r#"{"result":{"tools":[{"name":"m"}]}}"#));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_shown_at_all() {
        for message in [
            r#"{"result":{"tools":[]},"result":{"tools":[{"name":"x"}]}}"#,
            r#"{"result":{"tools":[],"tools":[{"name":"x"}]}}"#,
            r#"{"result":{"tools":{"name":"x"}}}"#,
            r#"{"result":{"tools":[{"name":"x"}]}"#,
            r#"{"result":[{"tools":[{"name":"x"}]}]}"#,
            r#"{"result":[[{"name":"x"}],"public"]}"#,
            r#"{"result":"tools"}"#,
            "",
        ] {
            check(message, false, Err(Unreadable));
        }
    }

    proptest! {
        /// The list is the server's, less what may not be called; everything else is the same value.
        #[test]
        fn a_filtered_list_is_a_part_of_the_list(
            names in proptest::collection::vec("[mx\"\\\\é]{0,3}", 0..8),
            cursor in "[a-z\"]{0,4}",
        ) {
            let tools: Vec<Value> = names.iter().map(|name| json!({ "d": [1], "name": name })).collect();
            let message = json!({ "id": 1, "result": { "tools": tools, "nextCursor": cursor } });
            let text = message.to_string();
            let may = |name: &str| name.starts_with('m');
            let found = filtered(text.as_bytes(), may, false).unwrap();
            let mut expected = message;
            let kept: Vec<Value> =
                tools.into_iter().filter(|tool| may(tool["name"].as_str().unwrap())).collect();
            expected["result"]["tools"] = kept.into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&found).unwrap(), expected);
        }

        /// Whatever a server says, it is read or refused.
        #[test]
        fn nothing_makes_it_panic(text in "[{}\\[\\]\",:a-z0-9 ]{0,60}") {
            let _ = filtered(text.as_bytes(), |_| true, true);
            let _ = filtered(format!(r#"{{"result":{text}}}"#).as_bytes(), |_| false, true);
            let _ = filtered(format!(r#"{{"result":{{"tools":{text}}}}}"#).as_bytes(), |_| false, true);
        }
    }
}
