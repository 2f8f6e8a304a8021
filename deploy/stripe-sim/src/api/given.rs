//! The parameters of a request as they came: nested form pairs for v1, JSON for v2.
//!
//! Forms hold text and get their types from the schema; JSON has types of its own, which must be the schema's.

use crate::error::{ApiError, Dialect};
use crate::form::{self, Branch};
use crate::schema::{Operation, coerce, spec};
use serde_json::{Value, json};

/// What a request carries.
pub enum Given {
    Form(Branch),
    Json(Value),
}

impl Given {
    /// Reads the query and the body. A v2 body is JSON; what stands in the query of any request are form pairs.
    ///
    /// # Errors
    /// 400 for names that do not nest, or a v2 body that is not a JSON object.
    pub fn read(dialect: Dialect, query: &str, body: &[u8]) -> Result<Self, ApiError> {
        match dialect {
            Dialect::V2 if !body.is_empty() => match serde_json::from_slice(body) {
                Ok(value @ Value::Object(_)) => Ok(Self::Json(value)),
                _ => Err(ApiError::invalid("", "The request body is not a JSON object.")),
            },
            _ => form::parse(query, body).map(Self::Form),
        }
    }

    /// For the journal.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Form(branch) => branch.to_json(),
            Self::Json(value) => value.clone(),
        }
    }

    /// A text that is equal for equal parameters in any order.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Form(branch) => form::fingerprint(branch),
            Self::Json(value) => sorted(value).to_string(),
        }
    }

    /// The parameters with their types, checked against the description.
    ///
    /// # Errors
    /// 400 for the first parameter that is unknown, missing or not of its type.
    pub fn typed(&self, operation: &Operation) -> Result<Value, ApiError> {
        let parameters = match self {
            Self::Form(branch) => Value::Object(coerce::coerce(&operation.parameters, branch)?),
            Self::Json(value) => value.clone(),
        };
        spec().check_parameters(operation, &parameters)?;
        let mut fields = parameters.as_object().into_iter().flatten();
        // A filter that is nothing would show everything.
        if operation.method == "GET"
            && let Some((name, _)) = fields.find(|(_, value)| **value == "")
        {
            return Err(ApiError::empty(name));
        }
        Ok(parameters)
    }
}

/// Hashes as sorted lists of pairs.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut pairs: Vec<_> =
                fields.iter().map(|(name, value)| (name, sorted(value))).collect();
            pairs.sort_by_key(|(name, _)| *name);
            json!(pairs)
        }
        Value::Array(rows) => rows.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_bodies_are_json_objects_and_their_order_is_nothing() {
        let of = |body: &str| Given::read(Dialect::V2, "", body.as_bytes()).ok();
        let print = |body: &str| of(body).unwrap().fingerprint();
        assert_eq!(
            print(r#"{"a":1,"b":{"c":2,"d":[3,4]}}"#),
            print(r#"{"b":{"d":[3,4],"c":2},"a":1}"#)
        );
        assert_ne!(print(r#"{"a":[1,2]}"#), print(r#"{"a":[2,1]}"#));
        assert_ne!(print(r#"{"a":1}"#), print(r#"{"a":"1"}"#));
        for wrong in ["[]", "a=1", "{", "1"] {
            assert!(of(wrong).is_none(), "{wrong}");
        }
        assert!(matches!(of(""), Some(Given::Form(_))), "an empty body has no parameters");
    }
}
