//! Names that people choose and that become parts of subjects: checked once, at the door.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(
            Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(#[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))] String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(NodeId, "A node: one spool folder has one node id for ever.");
name!(MeterName, "What is counted: `tool_calls`, `tokens`, ...");

impl MeterName {
    /// The default meter, `tool_calls`.
    #[must_use]
    pub fn tool_calls() -> Self {
        Self(TOOL_CALLS.to_owned())
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
