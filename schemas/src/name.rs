//! Names that people choose and that become parts of subjects: checked once, at the door.

use std::{fmt, marker::PhantomData, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::{Parsed, Text};

/// The default meter: successful tool calls.
pub const TOOL_CALLS: &str = "tool_calls";

/// A text that cannot serve as a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a name: 1 to 64 of a-z, 0-9, `-` and `_`, beginning with a letter or digit"
)]
pub struct NameError {
    /// What was offered, cut to 80 characters.
    pub text: String,
}

fn check(text: &str) -> Result<(), NameError> {
    let fits = (1..=64).contains(&text.len());
    let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if fits && plain && begins {
        Ok(())
    } else {
        Err(NameError { text: text.chars().take(80).collect() })
    }
}

macro_rules! name {
    ($name:ident, $known:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let known: Option<&'static str> = $known;
                match known.filter(|known| *known == text) {
                    Some(known) => Ok(Self(Text::Known(known))),
                    None => check(text).map(|()| Self(Text::Shared(Arc::from(text)))),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed(PhantomData))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": $doc,
                    "pattern": r"^[a-z0-9][a-z0-9_-]{0,63}$",
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

name!(NodeId, None, "A node: one spool folder has one node id for ever.");
name!(MeterName, Some(TOOL_CALLS), "What is counted: `tool_calls`, `tokens`, ...");

impl MeterName {
    /// The default meter, `tool_calls`.
    #[must_use]
    pub fn tool_calls() -> Self {
        Self(Text::Known(TOOL_CALLS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_as_one_token_of_a_subject() {
        for good in ["tool_calls", "n1", "0", "a-b_c", &"x".repeat(64)] {
            assert!(good.parse::<NodeId>().is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a b", "*", ">", "-a", "_a", "A", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }
}
