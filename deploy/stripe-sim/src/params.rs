//! Typed access to the parameters of one request, which must all be used.
//!
//! A parameter that Stripe knows and the simulator ignores would let a test believe in something that never happens. So every
//! reading takes its parameter out, and [`Params::finish`] refuses what is left. Call it before the first effect.

use crate::error::ApiError;
use serde_json::{Map, Value};

/// What is left to read of a request, or of one hash inside it.
#[derive(Debug, Default)]
pub struct Params {
    left: Map<String, Value>,
    path: String,
}

impl Params {
    pub fn new(parameters: Map<String, Value>) -> Self {
        Self { left: parameters, path: String::new() }
    }

    /// The fields of the hash called `path`.
    pub fn within(path: &str, fields: Map<String, Value>) -> Self {
        Self { left: fields, path: path.to_owned() }
    }

    /// The full name of a field, as errors show it.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}[{name}]", self.path) }
    }

    /// The value as it is; an empty text means "unset".
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    /// The value, with "unset" as null.
    pub fn take_nullable(&mut self, name: &str) -> Option<Value> {
        self.take(name).map(|value| if value == "" { Value::Null } else { value })
    }

    /// A text that is neither absent nor empty.
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A text that the schema requires.
    ///
    /// # Errors
    /// 400 `parameter_missing`, which only happens where the schema does not require it.
    pub fn required_text(&mut self, name: &str) -> Result<String, ApiError> {
        let path = self.path_of(name);
        self.text(name).ok_or_else(|| ApiError::missing(&path))
    }

    pub fn int(&mut self, name: &str) -> Option<i64> {
        self.take(name).and_then(|value| value.as_i64())
    }

    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name).and_then(|value| value.as_bool())
    }

    /// A hash, to be read and finished on its own.
    pub fn hash(&mut self, name: &str) -> Option<Self> {
        let path = self.path_of(name);
        match self.take(name) {
            Some(Value::Object(left)) => Some(Self { left, path }),
            _ => None,
        }
    }

    /// An array of hashes, each to be read and finished on its own.
    pub fn hashes(&mut self, name: &str) -> Option<Vec<Self>> {
        let path = self.path_of(name);
        let Some(Value::Array(rows)) = self.take(name) else { return None };
        let each = rows.into_iter().enumerate().filter_map(|(index, row)| match row {
            Value::Object(left) => Some(Self { left, path: format!("{path}[{index}]") }),
            _ => None,
        });
        Some(each.collect())
    }

    /// An array of texts.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let Some(Value::Array(rows)) = self.take(name) else { return None };
        Some(rows.into_iter().filter_map(|row| row.as_str().map(str::to_owned)).collect())
    }

    /// Accepts parameters that have no effect here and cannot mislead.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.left.remove(*name);
        }
    }

    /// Accepts a switch that is off; on, it is a thing that is not simulated.
    pub fn ignore_if_off(&mut self, name: &str, switch: &str) {
        let off = self.left.get(name).is_some_and(|hash| {
            hash.as_object().is_some_and(|hash| {
                hash.len() == 1 && hash.get(switch) == Some(&Value::Bool(false))
            })
        });
        if off {
            self.left.remove(name);
        }
    }

    /// Copies the named parameters into `document`, with "unset" as null.
    pub fn copy_into(&mut self, document: &mut Value, names: &[&str]) {
        for name in names {
            if let Some(value) = self.take_nullable(name) {
                document[*name] = value;
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// 501 that names the first parameter which nobody read.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::not_simulated(&format!(
                "the parameter `{}` of this endpoint",
                self.path_of(name)
            ))),
        }
    }
}

/// Applies a `metadata` parameter to what an object has: keys merge, an empty value unsets its key, an empty text unsets all.
///
/// # Errors
/// 400 past Stripe's limits: 50 keys, 40 characters a key, 500 a value.
pub fn merge_metadata(current: &mut Value, change: Option<Value>) -> Result<(), ApiError> {
    let mut merged = current.as_object().cloned().unwrap_or_default();
    match change {
        None => return Ok(()),
        Some(Value::Object(change)) => {
            for (key, value) in change {
                if key.chars().count() > 40 {
                    return Err(ApiError::invalid(
                        "metadata",
                        format!("Metadata keys must be at most 40 characters: {key}"),
                    ));
                }
                match value.as_str() {
                    None | Some("") => {
                        merged.remove(&key);
                    }
                    Some(text) if text.chars().count() > 500 => {
                        let message = format!(
                            "Metadata values can have up to 500 characters, but you passed in a longer one for `{key}`"
                        );
                        return Err(ApiError::invalid(&format!("metadata[{key}]"), message));
                    }
                    Some(_) => {
                        merged.insert(key, value);
                    }
                }
            }
        }
        Some(_) => merged.clear(),
    }
    if merged.len() > 50 {
        return Err(ApiError::invalid("metadata", "Metadata can have up to 50 keys."));
    }
    *current = Value::Object(merged);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn params(value: &Value) -> Params {
        Params::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_parameter_that_nobody_reads_is_refused() {
        let mut some = params(&json!({ "a": "x", "b": { "c": 1 } }));
        assert_eq!(some.text("a").as_deref(), Some("x"));
        let mut inner = some.hash("b").unwrap();
        some.finish().unwrap();
        assert_eq!(inner.int("d"), None);
        assert!(inner.finish().unwrap_err().message.contains("b[c]"));
    }

    #[test]
    fn metadata_merges_and_unsets() {
        let mut current = json!({ "a": "1", "b": "2" });
        merge_metadata(&mut current, Some(json!({ "b": "", "c": "3" }))).unwrap();
        assert_eq!(current, json!({ "a": "1", "c": "3" }));
        merge_metadata(&mut current, None).unwrap();
        assert_eq!(current, json!({ "a": "1", "c": "3" }));
        merge_metadata(&mut current, Some(json!(""))).unwrap();
        assert_eq!(current, json!({}));
    }

    #[test]
    fn metadata_has_limits() {
        let many: Map<String, Value> = (0..51).map(|n| (n.to_string(), json!("x"))).collect();
        assert!(merge_metadata(&mut json!({}), Some(Value::Object(many))).is_err());
        assert!(merge_metadata(&mut json!({}), Some(json!({ "x".repeat(41): "v" }))).is_err());
        assert!(merge_metadata(&mut json!({}), Some(json!({ "k": "v".repeat(501) }))).is_err());
    }
}
