//! Where a client stands in the lists of several servers: one opaque text of their own cursors.
//!
//! A server that is not in it has said all. It proves nothing: whatever a client makes up it could ask a server itself.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// The servers that have more to say, by name, and where each goes on.
pub type Places = BTreeMap<String, String>;

/// The text of these places; `None` = nobody has more.
#[must_use]
pub fn written(places: &Places) -> Option<String> {
    let text = serde_json::to_vec(places).ok().filter(|_| !places.is_empty())?;
    Some(URL_SAFE_NO_PAD.encode(text))
}

/// The places that a text says; `None` = it is none of ours.
#[must_use]
pub fn read(text: &str) -> Option<Places> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let places: Places = serde_json::from_slice(&bytes).ok()?;
    (written(&places)? == text).then_some(places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_we_wrote_is_read() {
        let places =
            Places::from([("a".to_owned(), "x\"é".to_owned()), ("b".to_owned(), String::new())]);
        let text = written(&places).unwrap();
        assert_eq!(read(&text), Some(places));
        assert_eq!(written(&Places::new()), None);
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for wrong in [
            String::new(),
            "?".to_owned(),
            encoded("{}"),
            encoded("[]"),
            encoded(r#"{"a":1}"#),
            encoded(r#"{"a":"1","a":"2"}"#),
            encoded(r#"{ "a":"1"}"#),
            format!("{text}="),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(places: BTreeMap<String, String>) {
            let read = written(&places).and_then(|text| read(&text));
            prop_assert_eq!(read.unwrap_or_default(), places);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[A-Za-z0-9_=-]{0,40}") {
            let _ = read(&text);
        }
    }
}
