//! Edits of JSON-RPC messages that leave every other byte as it was.
//!
//! A bridge between revisions must add what one of them has and the other has not; what it does not know it must not
//! touch. So a message is never rebuilt: pieces of text are put in, or in the place of others. Every function gives
//! `None` for what is no JSON object with the member that is edited. Absent on purpose: when to edit what.

use std::{collections::BTreeMap, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Fault<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
}

/// The message with another id.
#[must_use]
pub fn with_id(message: &[u8], id: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    Some(replaced(text, place(text, top.id?.get()), id))
}

/// The answer with `members` (`"a":1,"b":2`) before those that its result has.
#[must_use]
pub fn with_result(message: &[u8], members: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    put(text, top.result?.get(), members)
}

/// The answer with `members` before those that its result's `_meta` has; with one, if it has none. `None` too where the
/// `_meta` has a member `own` already: nothing may stand in it twice.
#[must_use]
pub fn with_result_meta(message: &[u8], own: &str, members: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let result = top.result?.get();
    let inside: Params<'_> = serde_json::from_str(result).ok()?;
    let Some(meta) = inside.meta else {
        return put(text, result, &format!(r#""_meta":{{{members}}}"#));
    };
    // Its name written in another way would be the same name.
    if meta.get().contains(own) || meta.get().contains('\\') {
        let named: BTreeMap<String, &RawValue> = serde_json::from_str(meta.get()).ok()?;
        if named.contains_key(own) {
            return None;
        }
    }
    put(text, meta.get(), members)
}

/// The request with `members` before those that its params have; with params, if it has none.
#[must_use]
pub fn with_params(message: &[u8], members: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    match top.params {
        Some(params) => put(text, params.get(), members),
        None => {
            let whole = text.trim_start();
            let open = text.len() - whole.len();
            let rest = whole.strip_prefix('{')?;
            Some(replaced(text, open..text.len(), &format!(r#"{{"params":{{{members}}},{rest}"#)))
        }
    }
}

/// The request with `members` before those that its `params._meta` has; with both, if it has none.
#[must_use]
pub fn with_meta(message: &[u8], members: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let params = top.params.map(|raw| serde_json::from_str::<Params<'_>>(raw.get()));
    match params.transpose().ok()?.and_then(|params| params.meta) {
        Some(meta) => put(text, meta.get(), members),
        None => with_params(message, &format!(r#""_meta":{{{members}}}"#)),
    }
}

/// The request without those members of its `params._meta` that `is_known` knows.
#[must_use]
pub fn without_meta(message: &[u8], is_known: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let params = top.params.map(|raw| serde_json::from_str::<Params<'_>>(raw.get()));
    let Some(meta) = params.transpose().ok()?.and_then(|params| params.meta) else {
        return Some(message.to_vec());
    };
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(meta.get()).ok()?;
    members.retain(|name, _| !is_known(name));
    let left = serde_json::to_string(&members).ok()?;
    Some(replaced(text, place(text, meta.get()), &left))
}

/// The notice of progress with another token.
#[must_use]
pub fn with_token(message: &[u8], token: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let params: Params<'_> = serde_json::from_str(top.params?.get()).ok()?;
    Some(replaced(text, place(text, params.token?.get()), token))
}

/// The notice that a request is not wanted any more, with another id of the request.
#[must_use]
pub fn with_cancelled(message: &[u8], id: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let params: Params<'_> = serde_json::from_str(top.params?.get()).ok()?;
    Some(replaced(text, place(text, params.request?.get()), id))
}

/// The error with another code.
#[must_use]
pub fn with_code(message: &[u8], code: i64) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let fault: Fault<'_> = serde_json::from_str(top.error?.get()).ok()?;
    Some(replaced(text, place(text, fault.code?.get()), &code.to_string()))
}

/// The error's code, if it has one that is a whole number.
#[must_use]
pub fn code(message: &[u8]) -> Option<i64> {
    let top: Top<'_> = serde_json::from_slice(message).ok()?;
    let fault: Fault<'_> = serde_json::from_str(top.error?.get()).ok()?;
    fault.code?.get().parse().ok()
}

/// Puts members at the head of an object that is a part of `text`.
fn put(text: &str, object: &str, members: &str) -> Option<Vec<u8>> {
    let inner = object.strip_prefix('{')?;
    let at = place(text, inner).start;
    let comma = if inner.trim_start().starts_with('}') || members.is_empty() { "" } else { "," };
    Some(replaced(text, at..at, &format!("{members}{comma}")))
}

/// Where `part`, a slice of `text`, lies in it.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn replaced(text: &str, place: Range<usize>, piece: &str) -> Vec<u8> {
    let (before, after) = (&text.as_bytes()[..place.start], &text.as_bytes()[place.end..]);
    [before, piece.as_bytes(), after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(found: Option<Vec<u8>>, expected: &str) {
        assert_eq!(found.map(|bytes| String::from_utf8(bytes).unwrap()).as_deref(), Some(expected));
    }

    #[test]
    fn every_other_byte_stays() {
        let request = br#" {"vendor":1.00, "id" : "a\u0041" ,"params":{"x":[ 1 ]}}"#;
        is(with_id(request, "7"), r#" {"vendor":1.00, "id" : 7 ,"params":{"x":[ 1 ]}}"#);
        is(
            with_params(request, r#""y":2"#),
            r#" {"vendor":1.00, "id" : "a\u0041" ,"params":{"y":2,"x":[ 1 ]}}"#,
        );
        is(
            with_meta(request, r#""v":1"#),
            r#" {"vendor":1.00, "id" : "a\u0041" ,"params":{"_meta":{"v":1},"x":[ 1 ]}}"#,
        );
        is(
            with_meta(br#"{"params":{"_meta":{ }}}"#, r#""v":1"#),
            r#"{"params":{"_meta":{"v":1 }}}"#,
        );
        is(with_meta(br#"{"id":1}"#, r#""v":1"#), r#"{"params":{"_meta":{"v":1}},"id":1}"#);
        is(with_result(br#"{"id":1,"result":{}}"#, r#""a":1"#), r#"{"id":1,"result":{"a":1}}"#);
        is(
            with_result(br#"{"id":1,"result":{"b":2}}"#, r#""a":1"#),
            r#"{"id":1,"result":{"a":1,"b":2}}"#,
        );
        is(
            with_code(br#"{"id":1,"error":{"message":"-1","code":-1}}"#, -2),
            r#"{"id":1,"error":{"message":"-1","code":-2}}"#,
        );
        let known = |name: &str| name == "b";
        is(
            without_meta(br#"{"params":{"_meta":{"b":[1], "a": 1.00},"x":1}}"#, known),
            r#"{"params":{"_meta":{"a":1.00},"x":1}}"#,
        );
        is(without_meta(br#"{"params":{"x": 1}}"#, known), r#"{"params":{"x": 1}}"#);
        is(
            with_token(br#"{"params":{ "progressToken": "a", "progress": 1.0 }}"#, "7"),
            r#"{"params":{ "progressToken": 7, "progress": 1.0 }}"#,
        );
        assert_eq!(code(br#"{"error":{"code":-32601}}"#), Some(-32601));
    }

    #[test]
    fn a_results_meta_takes_a_member_once() {
        let edit = |message: &str| with_result_meta(message.as_bytes(), "a/b", r#""a/b":1"#);
        is(
            edit(r#"{"id":1,"result":{"x": [1.0] }}"#),
            r#"{"id":1,"result":{"_meta":{"a/b":1},"x": [1.0] }}"#,
        );
        is(
            edit(r#"{"result":{"_meta": {"c":"\u0041 a/b"},"x":1},"id":1}"#),
            r#"{"result":{"_meta": {"a/b":1,"c":"\u0041 a/b"},"x":1},"id":1}"#,
        );
        is(edit(r#"{"result":{"_meta":{}}}"#), r#"{"result":{"_meta":{"a/b":1}}}"#);
        for stays in [
            r#"{"result":{"_meta":{"a/b":2}}}"#,
            r#"{"result":{"_meta":{"a\u002fb":2}}}"#,
            r#"{"result":{"_meta":{},"_meta":{}}}"#,
            r#"{"result":{"_meta":[]}}"#,
            r#"{"result":[],"id":1}"#,
            r#"{"error":{"code":1}}"#,
        ] {
            assert_eq!(edit(stays), None, "{stays}");
        }
    }

    #[test]
    fn what_has_not_the_member_is_not_edited() {
        assert_eq!(with_id(br#"{"method":"x"}"#, "1"), None);
        assert_eq!(with_id(br#"{"id":1,"id":2}"#, "1"), None);
        assert_eq!(with_result(br#"{"result":[]}"#, "x"), None);
        assert_eq!(with_params(br#"{"params":[]}"#, "x"), None);
        assert_eq!(with_id(b"[]", "1"), None);
        assert_eq!(with_token(br#"{"params":{}}"#, "1"), None);
        assert_eq!(with_code(br#"{"result":{}}"#, 1), None);
    }
}
