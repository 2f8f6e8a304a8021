//! Settings that are a table: in the file as one, in a variable or flag as `name=value,name=value`.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

/// Names and values, in the order in which they were written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub Vec<(String, String)>);

/// Values may be secrets.
impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// A part of the text that is no pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("part {0} is not of the form `name=value`")]
pub struct NotAPair(usize);

impl FromStr for Pairs {
    type Err = NotAPair;

    fn from_str(text: &str) -> Result<Self, NotAPair> {
        let parts = text.split(',').map(str::trim).enumerate().filter(|(_, part)| !part.is_empty());
        let pair = |(number, part): (usize, &str)| {
            let (name, value) = part.split_once('=').ok_or(NotAPair(number + 1))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        parts.map(pair).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TableOrText;
        impl<'de> Visitor<'de> for TableOrText {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table, or `name=value,name=value`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Pairs, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = vec![];
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_any(TableOrText)
    }
}
