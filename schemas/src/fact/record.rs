//! Reads a [`Record`] in one pass: its `type` comes first, so the rest need not be kept until the type is known.
//!
//! A record whose `type` comes later means the same and is read too, by way of a tree.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::usage::{Record, RefusalReason, UsageEvent};
use crate::{KeyId, LeaseId, MeterName, ProjectId, Quantity, TenantId, Timestamp};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Usage,
    Refused,
    LeaseClosed,
    EpochEnded,
}

#[derive(Deserialize)]
struct Refused {
    at: Timestamp,
    tenant: TenantId,
    project: ProjectId,
    key: KeyId,
    tool: String,
    reason: RefusalReason,
    calls: Quantity,
}

#[derive(Deserialize)]
struct LeaseClosed {
    lease: LeaseId,
    tenant: TenantId,
    spent: BTreeMap<MeterName, Quantity>,
}

impl Kind {
    fn read<'de, D: Deserializer<'de>>(self, fields: D) -> Result<Record, D::Error> {
        match self {
            Self::Usage => UsageEvent::deserialize(fields).map(Record::Usage),
            Self::Refused => {
                let Refused { at, tenant, project, key, tool, reason, calls } =
                    Refused::deserialize(fields)?;
                Ok(Record::Refused { at, tenant, project, key, tool, reason, calls })
            }
            Self::LeaseClosed => {
                let LeaseClosed { lease, tenant, spent } = LeaseClosed::deserialize(fields)?;
                Ok(Record::LeaseClosed { lease, tenant, spent })
            }
            Self::EpochEnded => IgnoredAny::deserialize(fields).map(|_| Record::EpochEnded),
        }
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record with its `type`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        match map.next_key::<String>()? {
            Some(first) if first == "type" => {
                map.next_value::<Kind>()?.read(MapAccessDeserializer::new(map))
            }
            Some(first) => {
                let mut tree = serde_json::Map::from_iter([(first, map.next_value::<Value>()?)]);
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    tree.insert(name, value);
                }
                let kind = tree.remove("type").ok_or_else(|| Error::missing_field("type"))?;
                let kind = Kind::deserialize(kind).map_err(Error::custom)?;
                kind.read(Value::Object(tree)).map_err(Error::custom)
            }
            None => Err(Error::missing_field("type")),
        }
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_the_same_wherever_its_type_stands() {
        let ids = r#""tenant":"tnt_00000000000000000000000000000001","project":"prj_00000000000000000000000000000002","key":"key_00000000000000000000000000000003""#;
        let refused = format!(r#""at":5,{ids},"tool":"t","reason":"rate_limited","calls":2"#);
        let closed = r#""lease":"lease_00000000000000000000000000000004","tenant":"tnt_00000000000000000000000000000001","spent":{"tool_calls":3,"tokens":9}"#;
        let usage = format!(
            r#""at":5,{ids},"method":"m","tool":"t","outcome":"success","quantities":{{"tool_calls":1}},"duration_us":1,"bytes_in":2,"bytes_out":3,"new":[1]"#
        );
        for (kind, fields) in [("refused", &*refused), ("lease_closed", closed), ("usage", &usage)]
        {
            let first = format!(r#"{{"type":"{kind}",{fields}}}"#);
            let last = format!(r#"{{{fields},"type":"{kind}"}}"#);
            let read: Record = serde_json::from_str(&first).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&last).unwrap(), read, "{kind}");
            let again = serde_json::to_string(&read).unwrap();
            assert!(again.starts_with(r#"{"type":""#), "{again}");
        }
        let ended: Record = serde_json::from_str(r#"{"type":"epoch_ended","more":1}"#).unwrap();
        assert_eq!(ended, Record::EpochEnded);
        for bad in ["{}", r#"{"type":"x"}"#, r#"{"at":1}"#, r#"{"type":"usage"}"#, "[]", "1"] {
            assert!(serde_json::from_str::<Record>(bad).is_err(), "{bad}");
        }
    }
}
