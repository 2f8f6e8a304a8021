//! Rows of one resource, in the order of their creation.
//!
//! A row is the resource's JSON document. Deleted rows go; what Stripe still shows of them is the resource's own matter.

use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// The id of a stored document.
pub fn id_of(document: &Value) -> &str {
    document["id"].as_str().expect("every stored document has an id")
}

/// Documents by id. Lists show the newest first, as Stripe's do.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<u64, Value>,
    by_id: HashMap<String, u64>,
    next: u64,
    touched: Vec<String>,
}

impl Table {
    /// Adds a document; its `id` must be new.
    pub fn insert(&mut self, document: Value) {
        let id = id_of(&document).to_owned();
        self.next += 1;
        let taken = self.by_id.insert(id, self.next);
        assert!(taken.is_none(), "ids are minted once");
        self.touched.push(id_of(&document).to_owned());
        self.rows.insert(self.next, document);
    }

    pub fn get(&self, id: &str) -> Option<&Value> {
        self.by_id.get(id).and_then(|seq| self.rows.get(seq))
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Value> {
        let seq = self.by_id.get(id)?;
        self.touched.push(id.to_owned());
        self.rows.get_mut(seq)
    }

    /// Says that something beside the row has changed, on which its next step depends.
    pub fn touch(&mut self, id: &str) {
        self.touched.push(id.to_owned());
    }

    /// As [`Table::touch`], for every row.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.rows.values().map(|row| id_of(row).to_owned()));
    }

    /// The ids of the rows that changed since the last call, each as often as it changed.
    pub fn take_touched(&mut self) -> Vec<String> {
        std::mem::take(&mut self.touched)
    }

    /// The place of a row in the order of creation.
    pub fn place(&self, id: &str) -> Option<u64> {
        self.by_id.get(id).copied()
    }

    /// Puts a changed document in the place of the one with its id.
    pub fn replace(&mut self, document: Value) {
        let id = id_of(&document);
        let row = self.get_mut(id).expect("only stored documents are replaced");
        *row = document;
    }

    pub fn remove(&mut self, id: &str) -> Option<Value> {
        self.touched.push(id.to_owned());
        self.by_id.remove(id).and_then(|seq| self.rows.remove(&seq))
    }

    pub fn newest_first(&self) -> impl Iterator<Item = &Value> {
        self.rows.values().rev()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }
}
