//! Ids that say which server they come from: of what servers ask clients, and of the events of streams.
//!
//! Nothing is remembered: the id itself holds the server's name and the server's own id, and a client brings it back.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Unreadable, cursor::Places, object::Object};
use crate::{
    message::{Message, read, text},
    splice,
};

/// The id of a question, as the client sees it: JSON text. `raw` = the server's own, as it was written.
#[must_use]
pub fn id(server: &str, raw: &str) -> String {
    serde_json::Value::from(format!("{server}:{raw}")).to_string()
}

/// The server whose question has this id, and its own id of it; `None` = it is none of ours.
#[must_use]
pub fn id_of(raw: &str) -> Option<(String, String)> {
    let text = text(raw)?;
    let (server, own) = text.split_once(':')?;
    let plain = own.starts_with(['"', '-']) || own.starts_with(|c: char| c.is_ascii_digit());
    let is_one = plain && serde_json::from_str::<&RawValue>(own).is_ok_and(|raw| raw.get() == own);
    is_one.then(|| (server.to_owned(), own.to_owned()))
}

/// A message of a server on its way to the client: what it asks, or does not want to know any more, under an id that
/// finds the server again; anything else as it was.
#[must_use]
pub fn message<'a>(server: &str, message: &'a [u8]) -> Cow<'a, [u8]> {
    let tagged = match read(message) {
        Ok(Message::Request { id: own, .. }) => splice::with_id(message, &id(server, own.raw)),
        Ok(Message::Notification { cancels: Some(own), .. }) => {
            splice::with_cancelled(message, &id(server, own.raw))
        }
        _ => None,
    };
    tagged.map_or(Cow::Borrowed(message), Cow::Owned)
}

/// Where a stream of events stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventId {
    /// One server's answer to one request: its name, and its own id of the event.
    Of(String, String),
    /// A session's own stream: the last event of each server.
    All(Places),
}

impl EventId {
    /// What stands behind `id:`.
    #[must_use]
    pub fn written(&self) -> String {
        match self {
            Self::Of(server, own) => {
                format!("of.{server}.{}", URL_SAFE_NO_PAD.encode(own))
            }
            Self::All(places) => {
                let text = serde_json::to_vec(places).unwrap_or_default();
                format!("all.{}", URL_SAFE_NO_PAD.encode(text))
            }
        }
    }

    /// What a client brings back as `Last-Event-ID`; `None` = it is none of ours.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        if let Some(rest) = text.strip_prefix("of.") {
            let (server, own) = rest.rsplit_once('.')?;
            return Some(Self::Of(server.to_owned(), String::from_utf8(decoded(own)?).ok()?));
        }
        let places = decoded(text.strip_prefix("all.")?)?;
        serde_json::from_slice(&places).ok().map(Self::All)
    }
}

#[derive(Deserialize)]
struct Asks<'a> {
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// What a request for completion is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Prompt(String),
    /// The template of an address, or an address.
    Resource(String),
}

/// What a request for completion is about; `None` = something else, or nothing.
///
/// # Errors
/// It is said twice.
pub fn completes(message: &[u8]) -> Result<Option<About>, Unreadable> {
    let asks: Asks<'_> = serde_json::from_slice(message).map_err(|_| Unreadable)?;
    let params = asks.params.and_then(|params| Object::of(params.get())).unwrap_or_default();
    let Some(about) = params.object("ref")? else { return Ok(None) };
    Ok(match about.text("type")?.as_deref() {
        Some("ref/prompt") => about.text("name")?.map(|name| About::Prompt(name.into_owned())),
        Some("ref/resource") => about.text("uri")?.map(|uri| About::Resource(uri.into_owned())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_finds_its_server_again() {
        for own in ["7", "-1.5", r#""a""#, r#""a\"b\u0041:""#] {
            let tagged = id("time-1", own);
            assert_eq!(id_of(&tagged), Some(("time-1".to_owned(), own.to_owned())), "{tagged}");
        }
        assert_eq!(id("a", "7"), r#""a:7""#);
        // However the client writes it.
        assert_eq!(id_of(r#""\u0061:7""#), Some(("a".to_owned(), "7".to_owned())));
        for none in
            ["7", r#""a""#, r#""a:""#, r#""a:x""#, r#""a:7 ""#, r#""a:\"""#, r#""a:7,1""#, "null"]
        {
            assert_eq!(id_of(none), None, "{none}");
        }
    }

    #[test]
    fn only_what_a_server_asks_gets_another_id() {
        #[track_caller]
        fn check(said: &str, expected: &str) {
            assert_eq!(String::from_utf8_lossy(&message("a", said.as_bytes())), expected);
        }
        check(
            r#"{"jsonrpc":"2.0", "id" : 7,"method":"roots/list","x":1.00}"#,
            r#"{"jsonrpc":"2.0", "id" : "a:7","method":"roots/list","x":1.00}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q","reason":"r"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a:\"q\"","reason":"r"}}"#,
        );
        for same in [
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7}}"#,
            "not a message",
        ] {
            check(same, same);
        }
    }

    #[test]
    fn an_event_is_found_again() {
        let places =
            Places::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x/é".to_owned())]);
        for event in [
            EventId::Of("a".into(), "_GET_stream:7".into()),
            EventId::Of("a".into(), String::new()),
            EventId::All(places),
            EventId::All(Places::new()),
        ] {
            let text = event.written();
            assert!(text.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{text}");
            assert_eq!(EventId::read(&text), Some(event), "{text}");
        }
        for none in ["", "7", "of.a", "of.a.?", "all.?", "all.W10", "OF.a.MQ"] {
            assert_eq!(EventId::read(none), None, "{none}");
        }
    }

    #[test]
    fn a_completion_names_a_prompt_or_a_resource() {
        let of = |about: &str| {
            completes(
                format!(r#"{{"method":"completion/complete","params":{{"ref":{about}}}}}"#)
                    .as_bytes(),
            )
        };
        assert_eq!(of(r#"{"type":"ref/prompt","name":"p"}"#), Ok(Some(About::Prompt("p".into()))));
        let resource = of(r#"{"uri":"x://{id}","type":"ref/resource"}"#);
        assert_eq!(resource, Ok(Some(About::Resource("x://{id}".into()))));
        assert_eq!(of(r#"{"type":"ref/other","name":"p"}"#), Ok(None));
        assert_eq!(of(r#"{"type":"ref/prompt","name":"p","name":"q"}"#), Err(Unreadable));
        assert_eq!(completes(br#"{"method":"x"}"#), Ok(None));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[{}\\[\\]\",:.a-z0-9 ]{0,60}") {
            let _ = (id_of(&text), EventId::read(&text), completes(text.as_bytes()));
            let _ = message("a", text.as_bytes());
        }

        /// Whatever a client answers, the server sees an id that is one.
        #[test]
        fn an_id_that_is_found_is_one(text in ".{0,20}") {
            if let Some((_, own)) = id_of(&serde_json::Value::from(text).to_string()) {
                let id: serde_json::Value = serde_json::from_str(&own).unwrap();
                prop_assert!(id.is_string() || id.is_number());
            }
        }
    }
}
