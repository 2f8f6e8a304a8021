//! Settings that are on or off: `true`, `1` and `on`, or `false`, `0` and `off`.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch(pub bool);

/// A text that is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither on nor off")]
pub struct Neither;

impl FromStr for Switch {
    type Err = Neither;

    fn from_str(text: &str) -> Result<Self, Neither> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" => Ok(Self(true)),
            "false" | "0" | "off" | "" => Ok(Self(false)),
            _ => Err(Neither),
        }
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spoken;
        impl Visitor<'_> for Spoken {
            type Value = Switch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }
            fn visit_bool<E: Error>(self, on: bool) -> Result<Switch, E> {
                Ok(Switch(on))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Switch, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Switch, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Switch, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Spoken)
    }
}
