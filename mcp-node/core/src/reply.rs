//! What a message of a server is to the client of a call.
//!
//! A client may be able to read what the node cannot: an id in another spelling, a member twice, a number that JSON
//! does not have. So only what is certainly a request or a notification passes as such; everything else that may hold
//! an answer is the answer to the call, or cannot be told ([`ServerMessage::Unclear`]) and must not be delivered. Absent on
//! purpose: what an answer counts for (`billable`).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message::{Answer, Id, IdKey, Members, Message, members, read, text};

/// The deepest nesting of an answer that is delivered: some clients read no more than about 200 levels.
const MAX_DEPTH: usize = 128;

/// A message of a server, as far as the client of one call is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// Certainly a request or a notification of the server.
    Message,
    /// Certainly no answer, and no message that every client can read either: some give the call up at it.
    NoMessage,
    /// An answer.
    Answer { to: AnswerTo, answer: Answer<'a>, envelope: Envelope },
    /// It cannot be told what a client would read.
    Unclear,
}

/// Which request an answer is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerTo {
    /// This call.
    Call,
    /// This call, by another spelling of its id: `"3"` for `3`, or `3.0`.
    CallRespelled,
    /// No request is named: the server could not read the id of the one that it refuses.
    Nobody,
    /// Another request.
    Other(IdKey),
}

/// What is known of an answer around its result or error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// Every client reads it, and as the answer to this call: JSON-RPC's members alone, with the call's id.
    Plain,
    /// Some client might not; or nobody has looked.
    Unchecked,
}

/// Reads a message on the stream of the call `asked`, or the body of its answer.
#[must_use]
pub fn classify<'a>(bytes: &'a [u8], asked: &IdKey) -> ServerMessage<'a> {
    let members = members(bytes);
    let has_others = members.as_ref().is_ok_and(|members| members.has_others);
    match members.and_then(Members::into_message) {
        Ok(Message::Request { .. } | Message::Notification { .. }) => ServerMessage::Message,
        Ok(Message::Answer { id, answer }) => {
            let to = match id {
                None if answer != Answer::Error => return ServerMessage::Unclear,
                None => AnswerTo::Nobody,
                Some(id) if id.key() == *asked => AnswerTo::Call,
                Some(id) if is_respelled(&id, asked) => AnswerTo::CallRespelled,
                Some(id) => AnswerTo::Other(id.key()),
            };
            let is_plain = to == AnswerTo::Call && !has_others;
            let envelope = if is_plain { Envelope::Plain } else { Envelope::Unchecked };
            ServerMessage::Answer { to, answer, envelope }
        }
        Err(_) => match without_answer(bytes) {
            Some(true) => ServerMessage::Message,
            Some(false) => ServerMessage::NoMessage,
            None => oddly_addressed(bytes, asked),
        },
    }
}

/// A message of a server that came on no request's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsolicitedMessage<'a> {
    /// Certainly no answer, or an error that names no request.
    Message,
    /// Certainly no answer, and no message that every client can read either.
    NoMessage,
    /// The answer to the request of this id.
    Answer(IdKey, Answer<'a>),
    /// It cannot be told what a client would read.
    Unclear,
}

/// Reads a message on a session's own stream.
#[must_use]
pub fn read_unasked(bytes: &[u8]) -> UnsolicitedMessage<'_> {
    match read(bytes) {
        Ok(Message::Request { .. } | Message::Notification { .. }) => UnsolicitedMessage::Message,
        Ok(Message::Answer { id: Some(id), answer }) => {
            UnsolicitedMessage::Answer(id.key(), answer)
        }
        Ok(Message::Answer { id: None, answer: Answer::Error }) => UnsolicitedMessage::Message,
        Ok(Message::Answer { id: None, .. }) => UnsolicitedMessage::Unclear,
        Err(_) => match without_answer(bytes) {
            Some(true) => UnsolicitedMessage::Message,
            Some(false) => UnsolicitedMessage::NoMessage,
            None => UnsolicitedMessage::Unclear,
        },
    }
}

/// Whether no client could read a result in the body of a response that failed: it holds no object at all, or is
/// one without a result that is read in one way only.
#[must_use]
pub fn certainly_has_no_result(body: &[u8]) -> bool {
    !body.contains(&b'{')
        || members(body).is_ok_and(|members| !members.is_ambiguous() && !members.has_result())
}

/// Why an answer cannot be delivered as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undeliverable {
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("it cannot be written for every client")]
    Unwritable,
}

/// The answer as every client can read it: with the request's own spelling of its id (`raw_id`), without members that
/// JSON-RPC does not know (typed clients drop such a message), and with U+FFFD for each half of a surrogate pair (which
/// no UTF-8 can hold). Borrowed where nothing is to be changed.
///
/// # Errors
/// Some clients would read nothing in it.
pub fn for_every_client<'a>(
    message: &'a [u8],
    envelope: Envelope,
    raw_id: &str,
) -> Result<Cow<'a, [u8]>, Undeliverable> {
    let looks = look_through(message);
    if looks.depth > MAX_DEPTH {
        return Err(Undeliverable::TooDeep);
    }
    let whole = if envelope == Envelope::Plain || is_plain(message, raw_id)? {
        Cow::Borrowed(message)
    } else {
        Cow::Owned(rewritten(message, raw_id, false).ok_or(Undeliverable::Unwritable)?)
    };
    if looks.has_surrogates {
        let repaired = with_whole_characters(&whole);
        if *repaired != *whole {
            return Ok(Cow::Owned(repaired));
        }
    }
    Ok(whole)
}

/// Whether it has the members of an answer alone, and the request's own spelling of its id, or names no request.
fn is_plain(message: &[u8], raw_id: &str) -> Result<bool, Undeliverable> {
    let members = members(message).map_err(|_| Undeliverable::Unwritable)?;
    let is_named = members.id.is_none_or(|id| id.get() == raw_id || id.get() == "null");
    Ok(!members.has_others && is_named)
}

/// An error that names no request, addressed to the one of this id.
#[must_use]
pub fn addressed(message: &[u8], raw_id: &str) -> Option<Vec<u8>> {
    rewritten(message, raw_id, true)
}

/// The answer with nothing but what an answer has. `named` = it gets the id even if it had none.
fn rewritten(message: &[u8], raw_id: &str, named: bool) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let parts: Parts<'_> = serde_json::from_slice(message).ok()?;
    let (name, value) = match (parts.result, parts.error) {
        (Some(result), None) => ("result", result),
        (None, Some(error)) => ("error", error),
        _ => return None,
    };
    let id = if named || parts.id.is_some() { raw_id } else { "null" };
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"{name}":{}}}"#, value.get()).into_bytes())
}

#[derive(Default)]
struct JsonShape {
    depth: usize,
    /// It has an escape that may be half of a surrogate pair.
    has_surrogates: bool,
}

/// Looks through valid JSON: how deep it is nested, and whether it escapes surrogates.
fn look_through(json: &[u8]) -> JsonShape {
    let (mut looks, mut depth, mut at) = (JsonShape::default(), 0_usize, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = behind_text(json, at, &mut looks),
            b'[' | b'{' => {
                depth += 1;
                looks.depth = looks.depth.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    looks
}

/// The place behind a text that begins at `at`.
fn behind_text(json: &[u8], mut at: usize, looks: &mut JsonShape) -> usize {
    while let Some(place) = memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        at += place + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        let digits = json.get(at + 1..at + 3).unwrap_or_default();
        looks.has_surrogates |= json.get(at) == Some(&b'u') && is_surrogate(digits);
        at += 1; // What is escaped ends nothing.
    }
    json.len()
}

/// Whether the first two of four digits say that the escape is half of a pair.
fn is_surrogate(digits: &[u8]) -> bool {
    matches!(digits, [b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F'])
}

/// Valid JSON with U+FFFD in the place of each escaped half of a pair that stands alone.
fn with_whole_characters(json: &[u8]) -> Vec<u8> {
    const UNKNOWN: &[u8] = b"\\ufffd";
    let half = |at: usize| -> Option<bool> {
        let escape = json.get(at..at + 6)?;
        let digits = escape
            .strip_prefix(b"\\u")
            .filter(|digits| is_surrogate(digits.get(..2).unwrap_or_default()))?;
        Some(matches!(digits[1], b'8' | b'9' | b'a' | b'A' | b'b' | b'B'))
    };
    let (mut written, mut at) = (Vec::with_capacity(json.len()), 0);
    while at < json.len() {
        if json[at] != b'\\' {
            written.push(json[at]);
            at += 1;
            continue;
        }
        match (half(at), half(at + 6)) {
            (Some(true), Some(false)) => {
                written.extend_from_slice(&json[at..at + 12]);
                at += 12;
            }
            (Some(_), _) => {
                written.extend_from_slice(UNKNOWN);
                at += 6;
            }
            (None, _) => {
                written.extend_from_slice(&json[at..(at + 2).min(json.len())]);
                at += 2;
            }
        }
    }
    written
}

/// Whether a message that [`read`] refuses can be read by every client, where none could read an answer in it (it has a
/// method, and neither result nor error); `None` = one might.
fn without_answer(bytes: &[u8]) -> Option<bool> {
    let members = members(bytes).ok()?;
    let names_method = members.method.is_some_and(|raw| text(raw.get()).is_some());
    let has_none = names_method && !members.is_ambiguous() && !members.may_answer();
    // A notification of any name, `vendor/x` say.
    has_none.then(|| members.is_version_2() && members.id.is_none() && !members.has_others)
}

/// An answer whose id is none that a request may have, such as `3.0`.
fn oddly_addressed<'a>(bytes: &'a [u8], asked: &IdKey) -> ServerMessage<'a> {
    let Ok(members) = members(bytes) else { return ServerMessage::Unclear };
    let Some(raw) = members.id.map(|id| id.get()).filter(|_| members.method.is_none()) else {
        return ServerMessage::Unclear;
    };
    if members.is_ambiguous() || !members.is_version_2() || !is_respelled(&Id { raw }, asked) {
        return ServerMessage::Unclear;
    }
    let answer = members.into_answer();
    answer.map_or(ServerMessage::Unclear, |answer| ServerMessage::Answer {
        to: AnswerTo::CallRespelled,
        answer,
        envelope: Envelope::Unchecked,
    })
}

/// Whether two ids that differ are one to a reader that holds numbers as doubles, or takes texts of digits for numbers.
fn is_respelled(found: &Id<'_>, asked: &IdKey) -> bool {
    let plain = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    let found = match text(found.raw) {
        Some(text) => text.into_owned(),
        None => found.raw.to_owned(),
    };
    let asked = match asked {
        IdKey::Text(text) | IdKey::Number(text) => text,
    };
    found == *asked
        || matches!((plain(&found), plain(asked)), (Some(found), Some(asked)) if found.to_bits() == asked.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(raw: &str) -> IdKey {
        Id { raw }.key()
    }

    #[track_caller]
    fn check(asked_raw: &str, message: &str, expected: &str) {
        let found = match classify(message.as_bytes(), &asked(asked_raw)) {
            ServerMessage::Message => "message",
            ServerMessage::NoMessage => "no message",
            ServerMessage::Unclear => "unclear",
            ServerMessage::Answer { to: AnswerTo::Call, .. } => "call",
            ServerMessage::Answer { to: AnswerTo::CallRespelled, .. } => "respelled",
            ServerMessage::Answer { to: AnswerTo::Nobody, .. } => "nobody",
            ServerMessage::Answer { to: AnswerTo::Other(_), .. } => "other",
        };
        assert_eq!(found, expected, "{asked_raw}: {message}");
    }

    #[test]
    fn only_what_is_certainly_no_answer_passes_as_a_message() {
        check("3", r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#, "message");
        check("3", r#"{"jsonrpc":"2.0","method":"vendor/notice"}"#, "message");
        check("3", r#"{"jsonrpc":"2.0","id":3,"method":"roots/list"}"#, "message");
        check("3", r#"{"id":null,"method":"x","jsonrpc":"2.0"}"#, "no message");
        check("3", r#"{"method":"notifications/x"}"#, "no message");
        check("3", r#"{"method":"x","result":{},"id":3,"jsonrpc":"2.0"}"#, "unclear");
        check("3", r#"{"method":7,"id":3,"jsonrpc":"2.0"}"#, "unclear");
        check("3", r#"{"method":"x","Result":{},"id":3,"jsonrpc":"2.0"}"#, "unclear");
        for unreadable in [
            "nonsense",
            r#"{"jsonrpc":"2.0","id":3,"result":{"structuredContent":{"a":NaN}}}"#,
            r#"{"id":3,"result":{}}"#,
            r#"{"jsonrpc":"1.0","id":3,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":3,"result":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":3,"id":3,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":3,"ID":4,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":3,"result":{},"error":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"[{"jsonrpc":"2.0","id":3,"result":{}}]"#,
            r#"{"jsonrpc":"2.0","id":true,"result":{}}"#,
        ] {
            check("3", unreadable, "unclear");
        }
    }

    #[test]
    fn an_answer_is_written_so_that_every_client_can_read_it() {
        #[track_caller]
        fn check(message: &str, expected: &str) {
            let found = for_every_client(message.as_bytes(), Envelope::Unchecked, "3").unwrap();
            assert_eq!(std::str::from_utf8(&found).unwrap(), expected);
            assert_eq!(matches!(found, Cow::Borrowed(_)), message == expected, "{message}");
        }
        let same = |message: &str| check(message, message);
        same(r#" {"id":3, "jsonrpc":"2.0","result":{"a":"\ud83d\ude00 \\ud83d \n"}}"#);
        same(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#);
        check(
            r#"{"jsonrpc":"2.0","more":1,"id":3,"result":{"a": 1.0}}"#,
            r#"{"jsonrpc":"2.0","id":3,"result":{"a": 1.0}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","params":{},"id":"3","error":{"code":1}}"#,
            r#"{"jsonrpc":"2.0","id":3,"error":{"code":1}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":3,"result":{"a":"\uD800x\udc00\ud83d\ude00\\\ud800"}}"#,
            r#"{"jsonrpc":"2.0","id":3,"result":{"a":"\ufffdx\ufffd\ud83d\ude00\\\ufffd"}}"#,
        );
    }

    #[test]
    fn an_envelope_that_is_plain_needs_no_second_look() {
        #[track_caller]
        fn check(message: &str, expected: Envelope) {
            let ServerMessage::Answer { envelope, .. } = classify(message.as_bytes(), &asked("3"))
            else {
                panic!("{message} is no answer");
            };
            assert_eq!(envelope, expected, "{message}");
            let with = |envelope| for_every_client(message.as_bytes(), envelope, "3").unwrap();
            assert_eq!(with(envelope), with(Envelope::Unchecked), "{message}");
        }
        check(r#"{"jsonrpc":"2.0","id":3,"result":{"a":"\ud800"}}"#, Envelope::Plain);
        check(r#"{"error":{"code":1},"id":3,"jsonrpc":"2.0"}"#, Envelope::Plain);
        check(r#"{"jsonrpc":"2.0","id":"3","result":{}}"#, Envelope::Unchecked);
        check(r#"{"jsonrpc":"2.0","id":3,"result":{},"more":1}"#, Envelope::Unchecked);
        check(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#, Envelope::Unchecked);
    }

    #[test]
    fn a_response_that_failed_passes_only_if_it_holds_no_result() {
        let check = |body: &str| certainly_has_no_result(body.as_bytes());
        assert!(check("<p>Bad gateway</p>") && check("") && check("no"));
        assert!(check(r#" {"error":"too many requests"}"#));
        for unclear in [
            r#"{"jsonrpc":"2.0","id":3,"result":{}}"#,
            r#" {"result":{"a":NaN}}"#,
            r#"{"error":1,"Result":{}}"#,
            r#"[{"result":{}}]"#,
            "\u{0}{\"result\":{}}",
        ] {
            assert!(!check(unclear), "{unclear}");
        }
    }

    #[test]
    fn an_answer_that_is_nested_too_deep_is_not_delivered() {
        let nested = |depth: usize| {
            let (open, shut) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"jsonrpc":"2.0","id":3,"result":{{"a":{open}"]]["{shut}}}}}"#)
        };
        assert!(for_every_client(nested(MAX_DEPTH - 2).as_bytes(), Envelope::Plain, "3").is_ok());
        let too_deep = nested(MAX_DEPTH - 1);
        let found = for_every_client(too_deep.as_bytes(), Envelope::Plain, "3");
        assert_eq!(found, Err(Undeliverable::TooDeep));
    }

    #[test]
    fn an_answer_is_the_calls_however_its_id_is_spelled() {
        check("3", r#"{"jsonrpc":"2.0","id":3,"result":{}}"#, "call");
        check("\"a\"", r#"{"jsonrpc":"2.0","id":"\u0061","result":{}}"#, "call");
        for respelled in ["\"3\"", "3.0", "3e0", "\"3.0\"", "\" 3\"", "\"0x3\""] {
            let expected =
                if matches!(respelled, "\" 3\"" | "\"0x3\"") { "other" } else { "respelled" };
            let message = format!(r#"{{"jsonrpc":"2.0","id":{respelled},"result":{{}}}}"#);
            check("3", &message, expected);
        }
        check("\"3\"", r#"{"jsonrpc":"2.0","id":3,"result":{}}"#, "respelled");
        check("3", r#"{"jsonrpc":"2.0","id":4,"result":{}}"#, "other");
        check("3", r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#, "nobody");
        check("3", r#"{"jsonrpc":"2.0","id":4.5,"result":{}}"#, "unclear");
    }
}
