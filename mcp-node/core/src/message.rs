//! One borrowed pass over a JSON-RPC message: what the node must know of it, and nothing else.
//!
//! The original bytes go on, so what was read here must be what any reader after us reads: members that decide
//! something may stand only once, and no member may look like one of them to a reader that ignores case (some
//! servers do). Nesting costs no stack. Absent on purpose: typed MCP structs, which lose what they do not know.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Refusal;

/// The longest method or tool name that is taken. Unit: bytes.
pub const LONGEST_NAME: usize = 512;

/// The methods whose requests are admitted, filtered or counted: none may pass under a name that a server takes for one of
/// them.
const METHODS: [&str; 5] =
    ["tools/call", "tools/list", "tasks/get", "tasks/result", "subscriptions/listen"];

/// Where a request of 2026-07-28 says its revision, and what its client can do.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Wants an answer. `tool` is `params.name` of a `tools/call`, and always there then.
    Request { id: Id<'a>, method: Cow<'a, str>, tool: Option<Cow<'a, str>>, about: About<'a> },
    /// `cancels` is the id that a `notifications/cancelled` names.
    Notification { method: Cow<'a, str>, cancels: Option<Id<'a>> },
    /// A result or an error. `id` is missing where the sender could not read the request's.
    Answer { id: Option<Id<'a>>, answer: Answer<'a> },
}

/// What else of a request decides where it may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About<'a> {
    /// What the header `Mcp-Name` repeats: the name of a tool or prompt, the address of a resource, the id of a task.
    pub target: Option<Cow<'a, str>>,
    pub meta: Meta<'a>,
}

/// What `params._meta` says of the revision 2026-07-28.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    /// The revision that the request is written in.
    pub version: Option<Cow<'a, str>>,
    /// What the client can do, as it was written; always an object.
    pub capabilities: Option<&'a str>,
    /// Where the request lies in a trace, as its client says.
    pub traceparent: Option<Cow<'a, str>>,
    twice: bool,
}

/// What an answer holds, as far as it decides what the call counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    Error,
    /// A result that is an object.
    Result {
        is_error: Option<&'a str>,
        result_type: Option<&'a str>,
        has_task: bool,
        has_content: bool,
    },
    /// A result that is no object, or one that says the same thing twice.
    Unclear,
}

/// A request's id, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// The JSON text: a string or a number.
    pub raw: &'a str,
}

/// An id by its value: `"a"` and `"\u0061"` are the same, `0` and `-0` too, `1` and `"1"` are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdKey {
    Text(String),
    Number(String),
}

impl Id<'_> {
    /// The id's value, to find a call by.
    #[must_use]
    pub fn key(&self) -> IdKey {
        match text(self.raw) {
            Some(text) => IdKey::Text(text.into_owned()),
            None => IdKey::Number(match self.raw.parse::<i64>() {
                Ok(number) => number.to_string(),
                // Only what is cancelled may be named so: `6.0` is 6 to most readers.
                Err(_) => {
                    self.raw.parse::<f64>().map_or(self.raw.to_owned(), |number| number.to_string())
                }
            }),
        }
    }
}

/// Reads a message.
///
/// # Errors
/// `NotJson`, or `InvalidRequest`/`InvalidParams` that say what is wrong; a batch is one of them, a method other than
/// `notifications/*` without an id another: many servers would run it as a request.
pub fn read(bytes: &[u8]) -> Result<Message<'_>, Refusal> {
    members(bytes)?.into_message()
}

/// The id of a message that [`read`] refuses, if it stands there once and is one that can be answered to.
#[must_use]
pub fn readable_id_of(bytes: &[u8]) -> Option<Id<'_>> {
    let members = members(bytes).ok()?;
    members.id.filter(|_| !members.id_twice).and_then(readable_id)
}

pub(crate) fn members(bytes: &[u8]) -> Result<Members<'_>, Refusal> {
    // Strings that we skip are not checked by the parser: all of the body is, here.
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotJson)?;
    serde_json::from_str(text).map_err(|_| Refusal::NotJson)
}

/// What a result holds, as far as it decides what a call counts for; `raw` = its JSON.
#[must_use]
pub fn result(raw: &str) -> Answer<'_> {
    serde_json::from_str::<ResultMembers<'_>>(raw)
        .map_or(Answer::Unclear, ResultMembers::into_answer)
}

/// The text of a JSON string, borrowed where nothing is escaped; `None` = it is no string.
#[must_use]
pub fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str::<String>(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// The members of the top level that matter.
#[derive(Default)]
pub(crate) struct Members<'a> {
    jsonrpc: Option<&'a RawValue>,
    pub(crate) id: Option<&'a RawValue>,
    id_twice: bool,
    pub(crate) method: Option<&'a RawValue>,
    params: Option<Params<'a>>,
    result: Option<ResultMembers<'a>>,
    error: Option<IgnoredAny>,
    /// It has members that a message of its kind does not have.
    pub(crate) has_others: bool,
    problem: Option<&'static str>,
}

const EITHER: &str = "A message has a method, or a result or an error.";
const BAD_ID: &str =
    "`id` must be a whole number within 2^53 - 1 on either side of 0, or a well-formed string.";
const BATCH: &str = "Batches are not supported: send one message a request.";
const NO_OBJECT: &str = "A message is a JSON object.";
const TWICE: &str = "A member that decides what is done stands more than once.";
const LOOKALIKE: &str = "A member differs from a known one only in case or in what surrounds it.";
const LIKE_METHOD: &str = "`method` differs from a known one only in case or in what surrounds it.";

impl<'a> Members<'a> {
    pub(crate) fn into_message(self) -> Result<Message<'a>, Refusal> {
        if let Some(problem) = self.problem {
            return Err(Refusal::InvalidRequest(problem));
        }
        if !self.is_version_2() {
            return Err(Refusal::InvalidRequest("The member `jsonrpc` must be \"2.0\"."));
        }
        match self.method {
            Some(_) if self.may_answer() => Err(Refusal::InvalidRequest(EITHER)),
            Some(method) => call(self.id, method, &self.params.unwrap_or_default()),
            None => answer(self.id, self.result, self.error.is_some()),
        }
    }

    /// What is wrong with it as a whole, whatever it is: then two readers may take it for two things.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.problem.is_some()
    }

    /// Whether it says that it is JSON-RPC 2.0.
    pub(crate) fn is_version_2(&self) -> bool {
        self.jsonrpc.and_then(|raw| text(raw.get())).as_deref() == Some("2.0")
    }

    /// What it answers, whatever its id; `None` = it has not either a result or an error.
    pub(crate) fn into_answer(self) -> Option<Answer<'a>> {
        match (self.result, self.error) {
            (Some(result), None) => Some(result.into_answer()),
            (None, Some(_)) => Some(Answer::Error),
            _ => None,
        }
    }

    /// Whether it holds a result.
    pub(crate) fn has_result(&self) -> bool {
        self.result.is_some()
    }

    /// Whether it holds a member that only answers hold.
    pub(crate) fn may_answer(&self) -> bool {
        self.result.is_some() || self.error.is_some()
    }
}

fn call<'a>(
    id: Option<&'a RawValue>,
    method: &'a RawValue,
    params: &Params<'a>,
) -> Result<Message<'a>, Refusal> {
    let name = |raw: &'a RawValue| {
        text(raw.get()).filter(|text| !text.is_empty() && text.len() <= LONGEST_NAME)
    };
    let method = name(method)
        .ok_or(Refusal::InvalidRequest("`method` must be a text of 1 to 512 bytes."))?;
    if METHODS.iter().any(|known| method != *known && folds_to(&method, known)) {
        return Err(Refusal::InvalidRequest(LIKE_METHOD));
    }
    let Some(id) = id else {
        if !method.starts_with("notifications/") {
            return Err(Refusal::InvalidRequest(
                "Only `notifications/*` may come without an `id`.",
            ));
        }
        let cancels = params.request_id.filter(|_| method == "notifications/cancelled");
        let cancels = cancels.map(RawValue::get).filter(|raw| raw.len() <= LONGEST_NAME);
        return Ok(Message::Notification { method, cancels: cancels.map(|raw| Id { raw }) });
    };
    let id = readable_id(id).ok_or(Refusal::InvalidRequest(BAD_ID))?;
    if params.meta.twice {
        return Err(Refusal::InvalidRequest(TWICE));
    }
    let target = match &*method {
        "tools/call" | "prompts/get" => params.name.and_then(name),
        "resources/read" => params.uri.and_then(|raw| text(raw.get())),
        tasks if tasks.starts_with("tasks/") => params.task_id.and_then(name),
        _ => None,
    };
    let mut tool = None;
    if method == "tools/call" {
        if let Some(problem) = params.problem {
            return Err(Refusal::InvalidRequest(problem));
        }
        let missing = Refusal::InvalidParams("`params.name` must be a text of 1 to 512 bytes.");
        tool = Some(target.clone().ok_or(missing)?);
    }
    Ok(Message::Request { id, method, tool, about: About { target, meta: params.meta.clone() } })
}

fn answer<'a>(
    id: Option<&'a RawValue>,
    result: Option<ResultMembers<'a>>,
    error: bool,
) -> Result<Message<'a>, Refusal> {
    let answer = match (result, error) {
        (Some(result), false) => result.into_answer(),
        (None, true) => Answer::Error,
        _ => {
            return Err(Refusal::InvalidRequest(EITHER));
        }
    };
    let id = id.filter(|raw| raw.get() != "null");
    match id.map(readable_id) {
        Some(None) => Err(Refusal::InvalidRequest(BAD_ID)),
        id => Ok(Message::Answer { id: id.flatten(), answer }),
    }
}

/// An id that every reader writes back as the same value: a server that holds numbers as doubles, or texts as UTF-16,
/// would answer another one to anything else, and its answer would be nobody's.
fn readable_id(raw: &RawValue) -> Option<Id<'_>> {
    const LARGEST: u64 = (1 << 53) - 1;
    let raw = raw.get();
    let is_same = match raw.as_bytes().first()? {
        b'"' => text(raw).is_some(),
        _ => raw.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= LARGEST),
    };
    (is_same && raw.len() <= LONGEST_NAME).then_some(Id { raw })
}

/// The members of `params` that matter.
#[derive(Default)]
struct Params<'a> {
    name: Option<&'a RawValue>,
    uri: Option<&'a RawValue>,
    task_id: Option<&'a RawValue>,
    request_id: Option<&'a RawValue>,
    meta: Meta<'a>,
    problem: Option<&'static str>,
}

/// The members of `result` that matter.
#[derive(Default)]
struct ResultMembers<'a> {
    is_error: Option<&'a RawValue>,
    result_type: Option<&'a RawValue>,
    has_task: bool,
    has_content: bool,
    unclear: bool,
}

impl<'a> ResultMembers<'a> {
    fn into_answer(self) -> Answer<'a> {
        if self.unclear {
            return Answer::Unclear;
        }
        let raw = |value: &'a RawValue| value.get();
        Answer::Result {
            is_error: self.is_error.map(raw),
            result_type: self.result_type.map(raw),
            has_task: self.has_task,
            has_content: self.has_content,
        }
    }
}

/// A member's name, borrowed where nothing is escaped.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Whether a reader that ignores case, white space around a name, or what stands behind a NUL would take `key` for one of
/// `known`.
fn is_lookalike(key: &str, known: &[&str]) -> bool {
    known.iter().any(|known| folds_to(key, known))
}

/// Whether `text` is `known` to such a reader. Two letters beyond ASCII fold into it: the long s and the Kelvin sign.
fn folds_to(text: &str, known: &str) -> bool {
    let folded = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    let text = text.trim_matches(is_blank);
    let text = text.split('\0').next().unwrap_or_default().trim_end_matches(is_blank);
    text.chars().map(folded).eq(known.chars().map(folded))
}

/// Puts a value where it belongs; a second one is a problem.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    place: &mut Option<T>,
    twice: &mut bool,
    map: &mut A,
) -> Result<(), A::Error> {
    *twice |= place.is_some();
    *place = Some(map.next_value()?);
    Ok(())
}

/// Writes `Deserialize` for a type read from an object: `$object` reads its members, anything else is `$other`.
macro_rules! from_object {
    ($type:ident, $object:expr, $array:expr, $other:expr) => {
        impl<'de> Deserialize<'de> for $type<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct AnyJson;
                impl<'de> Visitor<'de> for AnyJson {
                    type Value = $type<'de>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("JSON")
                    }
                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                        $object(map)
                    }
                    fn visit_seq<A: SeqAccess<'de>>(
                        self,
                        mut seq: A,
                    ) -> Result<Self::Value, A::Error> {
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        Ok($array)
                    }
                    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                        Ok($other)
                    }
                    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                        Ok($other)
                    }
                    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                        Ok($other)
                    }
                    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                        Ok($other)
                    }
                    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                        Ok($other)
                    }
                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok($other)
                    }
                }
                deserializer.deserialize_any(AnyJson)
            }
        }
    };
}

from_object!(
    Members,
    read_members,
    Members { problem: Some(BATCH), ..Default::default() },
    Members { problem: Some(NO_OBJECT), ..Default::default() }
);
from_object!(Params, read_params, Params::default(), Params::default());
from_object!(Meta, read_meta, Meta::default(), Meta::default());
from_object!(
    ResultMembers,
    read_result,
    ResultMembers { unclear: true, ..Default::default() },
    ResultMembers { unclear: true, ..Default::default() }
);

fn read_members<'de, A: MapAccess<'de>>(mut map: A) -> Result<Members<'de>, A::Error> {
    const KNOWN: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
    let (mut members, mut twice, mut lookalike) = (Members::default(), false, false);
    while let Some(Key(key)) = map.next_key()? {
        match &*key {
            "jsonrpc" => once(&mut members.jsonrpc, &mut twice, &mut map)?,
            "id" => once(&mut members.id, &mut members.id_twice, &mut map)?,
            "method" => once(&mut members.method, &mut twice, &mut map)?,
            "params" => once(&mut members.params, &mut twice, &mut map)?,
            "result" => once(&mut members.result, &mut twice, &mut map)?,
            "error" => once(&mut members.error, &mut twice, &mut map)?,
            other => {
                lookalike |= is_lookalike(other, &KNOWN);
                members.has_others = true;
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    members.has_others |= members.params.is_some() && members.method.is_none();
    twice |= members.id_twice;
    members.problem = if twice { Some(TWICE) } else { lookalike.then_some(LOOKALIKE) };
    Ok(members)
}

fn read_params<'de, A: MapAccess<'de>>(mut map: A) -> Result<Params<'de>, A::Error> {
    const KNOWN: [&str; 3] = ["name", "arguments", "_meta"];
    let (mut params, mut twice, mut lookalike) = (Params::default(), false, false);
    let (mut arguments, mut meta) = (None::<IgnoredAny>, None::<Meta<'de>>);
    while let Some(Key(key)) = map.next_key()? {
        match &*key {
            "name" => once(&mut params.name, &mut twice, &mut map)?,
            "arguments" => once(&mut arguments, &mut twice, &mut map)?,
            "_meta" => once(&mut meta, &mut twice, &mut map)?,
            "requestId" => once(&mut params.request_id, &mut twice, &mut map)?,
            "uri" => once(&mut params.uri, &mut twice, &mut map)?,
            "taskId" => once(&mut params.task_id, &mut twice, &mut map)?,
            other => {
                lookalike |= is_lookalike(other, &KNOWN);
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    params.problem = if twice { Some(TWICE) } else { lookalike.then_some(LOOKALIKE) };
    params.meta = meta.unwrap_or_default();
    Ok(params)
}

fn read_meta<'de, A: MapAccess<'de>>(mut map: A) -> Result<Meta<'de>, A::Error> {
    let (mut version, mut capabilities) = (None::<&RawValue>, None::<&RawValue>);
    let mut traceparent = None::<&RawValue>;
    let mut meta = Meta::default();
    while let Some(Key(key)) = map.next_key()? {
        match &*key {
            META_VERSION => once(&mut version, &mut meta.twice, &mut map)?,
            META_CAPABILITIES => once(&mut capabilities, &mut meta.twice, &mut map)?,
            // It decides nothing: of several the last is as good as any.
            "traceparent" => traceparent = Some(map.next_value()?),
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    meta.traceparent = traceparent.and_then(|raw| text(raw.get()));
    meta.version = version.and_then(|raw| text(raw.get()));
    meta.capabilities = capabilities.map(RawValue::get).filter(|raw| raw.starts_with('{'));
    Ok(meta)
}

fn read_result<'de, A: MapAccess<'de>>(mut map: A) -> Result<ResultMembers<'de>, A::Error> {
    let (mut result, mut twice) = (ResultMembers::default(), false);
    let (mut content, mut structured, mut meta) =
        (None::<&RawValue>, None::<&RawValue>, None::<&RawValue>);
    while let Some(Key(key)) = map.next_key()? {
        match &*key {
            "isError" => once(&mut result.is_error, &mut twice, &mut map)?,
            "resultType" => once(&mut result.result_type, &mut twice, &mut map)?,
            "content" => once(&mut content, &mut twice, &mut map)?,
            "structuredContent" => once(&mut structured, &mut twice, &mut map)?,
            "_meta" => once(&mut meta, &mut twice, &mut map)?,
            other => {
                result.has_task |= other == "task";
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    result.has_content = content.is_some();
    // Typed clients refuse the whole result where one of these is of another kind.
    let is_other = |member: Option<&RawValue>, begins: char| {
        member.is_some_and(|raw| !raw.get().starts_with(begins) && raw.get() != "null")
    };
    result.unclear =
        twice || is_other(content, '[') || is_other(structured, '{') || is_other(meta, '{');
    Ok(result)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
