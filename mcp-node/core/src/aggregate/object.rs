//! The members of a JSON object, in their order and as they were written.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::Unreadable;
use crate::message::text;

/// An object; a member that stands twice in it stands here twice too.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a str)>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = vec![];
                while let Some((Key(name), value)) = map.next_entry::<_, &'de RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'a> Object<'a> {
    /// The members of `text`, if it is an object.
    pub fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// A member as it was written; `null` is none.
    ///
    /// # Errors
    /// It stands twice.
    pub fn raw(&self, name: &str) -> Result<Option<&'a str>, Unreadable> {
        let mut found = self.0.iter().filter(|(member, _)| member == name).map(|(_, raw)| *raw);
        let first = found.next();
        if found.next().is_some() {
            Err(Unreadable)
        } else {
            Ok(first.filter(|raw| *raw != "null"))
        }
    }

    /// A member that is a text; what is there and is no text is none.
    ///
    /// # Errors
    /// It stands twice.
    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Unreadable> {
        Ok(self.raw(name)?.and_then(text))
    }

    /// A member that is an object.
    ///
    /// # Errors
    /// It stands twice, or is none.
    pub fn object(&self, name: &str) -> Result<Option<Self>, Unreadable> {
        self.raw(name)?.map(|raw| Self::of(raw).ok_or(Unreadable)).transpose()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, raw)| (&**name, *raw))
    }
}

/// The `result` of an answer; `None` = it is an error.
///
/// # Errors
/// It is no answer that can be read for certain.
pub fn result(message: &[u8]) -> Result<Option<Object<'_>>, Unreadable> {
    let text = std::str::from_utf8(message).map_err(|_| Unreadable)?;
    Object::of(text).ok_or(Unreadable)?.object("result")
}
