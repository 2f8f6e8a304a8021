//! Prefixes: how one name tells which server it is for, and what that server calls it.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest prefix. Unit: bytes.
pub const LONGEST_PREFIX: usize = 64;

/// Whether a text may be a prefix: what every client takes in the name of a tool. Empty = names stay as they are.
#[must_use]
pub fn is_prefix(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= LONGEST_PREFIX && text.bytes().all(plain)
}

/// Which of the servers with these prefixes, by their places, a name may be for: the longest prefix first, and of two
/// that are the same the first.
pub fn candidates<'a>(prefixes: impl Iterator<Item = &'a str>, name: &str) -> Vec<usize> {
    let all = prefixes.enumerate().filter(|(_, prefix)| name.starts_with(prefix));
    let mut fitting: Vec<(usize, usize)> = all.map(|(at, prefix)| (at, prefix.len())).collect();
    fitting.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    fitting.into_iter().map(|(at, _)| at).collect()
}

/// Whether one name can be for two of the servers with these prefixes.
#[must_use]
pub fn may_clash(prefixes: &[&str]) -> bool {
    let pair = |(at, one): (usize, &&str)| {
        prefixes.iter().enumerate().any(|(other, prefix)| at != other && one.starts_with(prefix))
    };
    prefixes.iter().enumerate().any(pair)
}

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    about: Option<&'a RawValue>,
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
}

/// The request with what its server calls the tool or prompt in the place of `params.name`.
#[must_use]
pub fn with_name(message: &[u8], name: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    edited(text, params(text)?.name?.get(), name)
}

/// As [`with_name`], in the place of `params.ref.name`.
#[must_use]
pub fn with_ref_name(message: &[u8], name: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let about: Params<'_> = serde_json::from_str(params(text)?.about?.get()).ok()?;
    edited(text, about.name?.get(), name)
}

/// The request with this `params.cursor`, be there one or not.
#[must_use]
pub fn with_cursor(message: &[u8], cursor: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(message).ok()?;
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    let said = top.params.map(|raw| serde_json::from_str::<Params<'_>>(raw.get()));
    match said.transpose().ok()?.and_then(|params| params.cursor) {
        Some(raw) => edited(text, raw.get(), cursor),
        None => {
            let member = format!(r#""cursor":{}"#, serde_json::Value::from(cursor));
            crate::splice::with_params(message, &member)
        }
    }
}

/// The cursor that a request says; `None` = none, `Some(None)` = one that is no text, or said twice.
#[must_use]
pub fn cursor(message: &[u8]) -> Option<Option<String>> {
    let Ok(top) = serde_json::from_slice::<Top<'_>>(message) else { return Some(None) };
    let params = top.params.map(|raw| serde_json::from_str::<Params<'_>>(raw.get()))?;
    let Ok(params) = params else { return Some(None) };
    let raw = params.cursor?.get();
    (raw != "null").then(|| serde_json::from_str(raw).ok())
}

fn params(text: &str) -> Option<Params<'_>> {
    let top: Top<'_> = serde_json::from_str(text).ok()?;
    serde_json::from_str(top.params?.get()).ok()
}

/// `text` with a JSON text in the place of `part`, which is a slice of it.
fn edited(text: &str, part: &str, with: &str) -> Option<Vec<u8>> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    let place: Range<usize> = start..start + part.len();
    let with = serde_json::Value::from(with).to_string();
    Some([&text[..place.start], &with, &text[place.end..]].concat().into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_longest_prefix_that_fits_is_first() {
        let of = |name: &str| candidates(["a_", "", "a_b_", "a_"].into_iter(), name);
        assert_eq!(of("a_b_c"), [2, 0, 3, 1]);
        assert_eq!(of("a_x"), [0, 3, 1]);
        assert_eq!(of("x"), [1]);
        assert_eq!(candidates(["a_", "b_"].into_iter(), "c_x"), [0usize; 0]);
        assert!(may_clash(&["a_", "a_b_"]) && may_clash(&["a_", "a_"]) && may_clash(&["x", ""]));
        assert!(!may_clash(&["a_", "b_"]) && !may_clash(&["a_"]) && !may_clash(&["a_b", "a_c"]));
    }

    #[test]
    fn a_prefix_is_plain() {
        assert!(["", "time_", "A.b-9"].iter().all(|text| is_prefix(text)));
        assert!(["a b", "é", "\"", "a/", &"x".repeat(65)].iter().all(|text| !is_prefix(text)));
    }

    #[track_caller]
    fn is(found: Option<Vec<u8>>, expected: &str) {
        assert_eq!(found.map(|bytes| String::from_utf8(bytes).unwrap()).as_deref(), Some(expected));
    }

    #[test]
    fn only_the_name_is_another() {
        is(
            with_name(
                br#" {"x":1.00,"params":{ "n\u0061me" : "a_\u0062","arguments":{"name":"a_b"}}} "#,
                "b\"",
            ),
            r#" {"x":1.00,"params":{ "n\u0061me" : "b\"","arguments":{"name":"a_b"}}} "#,
        );
        is(
            with_ref_name(
                br#"{"params":{"name":"a_p","ref":{"type":"ref/prompt","name":"a_p"}}}"#,
                "p",
            ),
            r#"{"params":{"name":"a_p","ref":{"type":"ref/prompt","name":"p"}}}"#,
        );
        assert_eq!(with_name(br#"{"params":{}}"#, "b"), None);
        assert_eq!(with_name(br#"{"params":{"name":"a","name":"b"}}"#, "b"), None);
    }

    #[test]
    fn a_cursor_is_put_where_one_is_or_none() {
        is(with_cursor(br#"{"params":{"cursor": "a" }}"#, "b"), r#"{"params":{"cursor": "b" }}"#);
        is(with_cursor(br#"{"params":{"x":1}}"#, "b"), r#"{"params":{"cursor":"b","x":1}}"#);
        is(with_cursor(br#"{"id":1}"#, "b"), r#"{"params":{"cursor":"b"},"id":1}"#);
        assert_eq!(cursor(br#"{"params":{"cursor":"a"}}"#), Some(Some("a".into())));
        assert_eq!(cursor(br#"{"params":{"cursor":null}}"#), None);
        assert_eq!(cursor(br#"{"params":{}}"#), None);
        assert_eq!(cursor(br#"{"id":1}"#), None);
        for odd in [r#"{"params":{"cursor":1}}"#, r#"{"params":{"cursor":"a","cursor":"b"}}"#] {
            assert_eq!(cursor(odd.as_bytes()), Some(None), "{odd}");
        }
    }

    proptest! {
        /// A call of any prefixed name becomes the same call of the name, and nothing else changes.
        #[test]
        fn a_call_keeps_all_but_its_prefix(name in ".{0,12}", other in ".{0,8}") {
            let call = |name: &str| json!({ "id": other, "params": { "name": name, "x": [other.as_str()] } });
            let cut = with_name(call(&format!("p_{name}")).to_string().as_bytes(), &name).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&cut).unwrap(), call(&name));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[{}\\[\\]\",:a-z0-9 ]{0,60}") {
            let _ = (with_name(text.as_bytes(), "a"), with_ref_name(text.as_bytes(), "a"));
            let _ = (with_cursor(text.as_bytes(), "a"), cursor(text.as_bytes()));
        }
    }
}
