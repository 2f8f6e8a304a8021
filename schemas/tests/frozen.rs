//! What was written once is read for ever, and the published JSON Schemas are those of the code.
//!
//! `golden/<type>.v<version>/*.json` are stored messages: they are only ever added. `json/*.schema.json` are
//! generated: `TOLLBOOK_BLESS=1 cargo test -p schemas` writes them anew.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test may look at its environment.

use std::path::{Path, PathBuf};

use schemas::{Decision, KeyState, LeaseReply, LeaseRequest, LedgerBatch, UsageBatch, Watermark};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn room(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Every sample of a type decodes, and encodes to the same content: no field is lost or renamed.
fn frozen<T: DeserializeOwned + Serialize>(folder: &str) {
    let mut samples = 0;
    for file in std::fs::read_dir(room("golden").join(folder)).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let decoded: T = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let stored: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&decoded).unwrap(), stored, "{}", path.display());
        samples += 1;
    }
    assert!(samples > 0, "no sample of {folder}");
}

#[test]
fn stored_messages_decode_for_ever() {
    frozen::<Decision>("decision.v1");
    frozen::<UsageBatch>("usage_batch.v1");
    frozen::<LedgerBatch>("ledger_batch.v1");
}

#[test]
fn entries_and_questions_keep_their_form() {
    frozen::<KeyState>("key_state.v1");
    frozen::<Watermark>("watermark.v1");
    frozen::<LeaseRequest>("lease_request.v1");
    frozen::<LeaseReply>("lease_reply.v1");
}

#[test]
fn the_published_schemas_are_those_of_the_code() {
    let schemas = [
        ("decision", schemars::schema_for!(Decision)),
        ("usage_batch", schemars::schema_for!(UsageBatch)),
        ("ledger_batch", schemars::schema_for!(LedgerBatch)),
        ("key_state", schemars::schema_for!(KeyState)),
        ("watermark", schemars::schema_for!(Watermark)),
        ("lease_request", schemars::schema_for!(LeaseRequest)),
        ("lease_reply", schemars::schema_for!(LeaseReply)),
    ];
    for (name, schema) in schemas {
        let path = room("json").join(format!("{name}.schema.json"));
        let wanted = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var("TOLLBOOK_BLESS").is_ok() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        let stale = path.display();
        assert!(published == wanted, "{stale} is stale: TOLLBOOK_BLESS=1 cargo test -p schemas");
    }
}
