//! Ids: each kind is its own type and shows as `<prefix>_<uuid>`.
//!
//! The shells mint them (UUIDv7); nothing here makes one up.

use std::{fmt, marker::PhantomData, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::text::Parsed;

/// A text that is no id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form `{prefix}_<32 hexadecimal digits>`")]
pub struct IdError {
    /// What the id should begin with.
    pub prefix: &'static str,
}

macro_rules! id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let refused = IdError { prefix: $prefix };
                let hex = text.strip_prefix(concat!($prefix, "_")).ok_or(refused.clone())?;
                match Uuid::try_parse(hex) {
                    // One spelling only: an id is compared as text in subjects and SQL.
                    Ok(uuid) if hex.len() == 32 && !hex.bytes().any(|b| b.is_ascii_uppercase()) => Ok(Self(uuid)),
                    _ => Err(refused),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
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
                    "pattern": concat!("^", $prefix, "_[0-9a-f]{32}$"),
                })
            }
        }
    };
}

id!(TenantId, "tnt", "The customer: owns projects, keys, quotas and a subscription.");
id!(ProjectId, "prj", "A part of a tenant that its usage and quotas can be told apart by.");
id!(KeyId, "key", "An API key; the id is public, the secret is not.");
id!(
    LeaseId,
    "lease",
    "Leave to spend units; minted by the node that asks, so asking twice is asking once."
);
id!(DecisionId, "dec", "One decision of a command: one message on the control log.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_shows_and_no_other_kind() {
        let tenant = TenantId(Uuid::from_u128(7));
        assert_eq!(tenant.to_string().parse(), Ok(tenant));
        assert!(tenant.to_string().parse::<ProjectId>().is_err());
        assert!(
            "tnt_00000000-0000-0000-0000-000000000007".parse::<TenantId>().is_err(),
            "one spelling only"
        );
        assert!(
            "tnt_0000000000000000000000000000000A".parse::<TenantId>().is_err(),
            "lower case only"
        );
    }
}
