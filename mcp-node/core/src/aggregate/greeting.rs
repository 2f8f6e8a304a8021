//! What several servers say of themselves at the beginning, as one: what one of them can do, all can.

use serde_json::{Map, Value};

use super::{Unreadable, object::result};

/// What one server said, in an answer to `initialize` or `server/discover`.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    pub capabilities: Map<String, Value>,
    pub instructions: Option<String>,
    /// How long it may be kept. Unit: milliseconds.
    pub ttl_ms: u64,
    /// It is the same for every caller.
    pub public: bool,
}

/// Reads a greeting; `None` = it is an error.
///
/// # Errors
/// See [`Unreadable`].
pub fn read(message: &[u8]) -> Result<Option<Greeting>, Unreadable> {
    let Some(said) = result(message)? else { return Ok(None) };
    let capabilities = said.raw("capabilities")?.map(serde_json::from_str);
    Ok(Some(Greeting {
        capabilities: capabilities.transpose().map_err(|_| Unreadable)?.unwrap_or_default(),
        instructions: said.text("instructions")?.map(|text| text.into_owned()),
        ttl_ms: said.raw("ttlMs")?.and_then(|raw| raw.parse().ok()).unwrap_or(0),
        public: said.text("cacheScope")?.as_deref() == Some("public"),
    }))
}

/// All greetings as one, each with its server's name, in the servers' order.
#[must_use]
pub fn merged(greetings: &[(&str, Greeting)]) -> Greeting {
    let mut all = Greeting {
        ttl_ms: greetings.iter().map(|(_, said)| said.ttl_ms).min().unwrap_or(0),
        public: !greetings.is_empty() && greetings.iter().all(|(_, said)| said.public),
        ..Greeting::default()
    };
    let mut told = vec![];
    for (server, said) in greetings {
        unite(&mut all.capabilities, &said.capabilities);
        told.extend(said.instructions.as_ref().map(|text| format!("{server}: {text}")));
    }
    all.instructions = (!told.is_empty()).then(|| told.join("\n\n"));
    all
}

/// Puts `more` into `all`: objects and lists unite, true wins, else the first to speak does.
pub fn unite(all: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        match (all.get_mut(name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => unite(known, more),
            (Some(Value::Array(known)), Value::Array(more)) => {
                for value in more {
                    if !known.contains(value) {
                        known.push(value.clone());
                    }
                }
            }
            (Some(known @ (Value::Bool(false) | Value::Null)), more) => *known = more.clone(),
            (Some(_), _) => {}
            (None, value) => drop(all.insert(name.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_one_can_do_all_can() {
        let one = read(
            br#"{"id":1,"result":{"capabilities":{"tools":{"listChanged":false,"x":1,"y":[1,2]},"logging":{}},
                "instructions":"Ask \u0061way.","ttlMs":9,"cacheScope":"public"}}"#,
        );
        let two = read(
            br#"{"id":1,"result":{"capabilities":{"tools":{"listChanged":true,"x":2,"y":[2,3]},"prompts":{}},
                "ttlMs":7,"cacheScope":"public"}}"#,
        );
        let (one, two) = (one.unwrap().unwrap(), two.unwrap().unwrap());
        let three = Greeting { instructions: Some("Third.".into()), ..Greeting::default() };
        let both = merged(&[("one", one.clone()), ("two", two.clone())]);
        assert_eq!(
            Value::from(both.capabilities),
            json!({ "tools": { "listChanged": true, "x": 1, "y": [1, 2, 3] }, "logging": {}, "prompts": {} })
        );
        assert_eq!((both.ttl_ms, both.public), (7, true));
        assert_eq!(both.instructions.as_deref(), Some("one: Ask away."));
        let all = merged(&[("one", one), ("two", two), ("three", three)]);
        assert_eq!((all.ttl_ms, all.public), (0, false));
        assert_eq!(all.instructions.as_deref(), Some("one: Ask away.\n\nthree: Third."));
        assert!(merged(&[]).capabilities.is_empty());
    }

    #[test]
    fn an_error_is_no_greeting() {
        assert!(read(br#"{"id":1,"error":{"code":1}}"#).unwrap().is_none());
        for unreadable in [
            r#"{"result":{"capabilities":[]}}"#,
            r#"{"result":{"capabilities":{},"capabilities":{}}}"#,
            r#"{"result":[]}"#,
            "",
        ] {
            assert!(read(unreadable.as_bytes()).is_err(), "{unreadable}");
        }
    }
}
