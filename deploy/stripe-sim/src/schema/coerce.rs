//! Gives form text its types by the schema of the parameters, and says what is wrong in Stripe's words.
//!
//! An empty text stays an empty text where the schema lets a parameter be unset (an enum with `""`, a nullable, or an optional
//! text); elsewhere it is refused, as Stripe does. Invariant: what comes out passes the schema, lengths and ranges aside.

use crate::error::ApiError;
use crate::form::{Branch, Node};
use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value, json};

/// Types all parameters of one request.
///
/// # Errors
/// 400 for the first parameter that is unknown, missing or not of its type.
pub fn coerce(schema: &Value, root: &Branch) -> Result<Map<String, Value>, ApiError> {
    object(schema, root, "")
}

fn object(schema: &Value, branch: &Branch, path: &str) -> Result<Map<String, Value>, ApiError> {
    let mut out = Map::new();
    let properties = &schema["properties"];
    let open = &schema["additionalProperties"];
    for (name, node) in &branch.0 {
        let path = join(path, name);
        let inner = match properties.get(name) {
            Some(inner) => inner,
            None if open.is_object() => open,
            None => return Err(ApiError::unknown(&path)),
        };
        out.insert(name.clone(), value(inner, node, &path)?);
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let path = join(path, name);
        match out.get(name) {
            None => return Err(ApiError::missing(&path)),
            Some(Value::String(text)) if text.is_empty() => return Err(ApiError::empty(&path)),
            Some(_) => {}
        }
    }
    Ok(out)
}

fn value(schema: &Value, node: &Node, path: &str) -> Result<Value, ApiError> {
    let alternatives = alternatives(schema);
    match node {
        Node::Text(text) => scalar(&alternatives, text, path),
        Node::Parts(branch) => {
            let list = alternatives.iter().find(|schema| is(schema, "array"));
            let hash = alternatives.iter().find(|schema| is(schema, "object"));
            match (list, hash) {
                (Some(schema), _) if branch.is_list() => elements(schema, branch, path),
                (_, Some(schema)) => object(schema, branch, path).map(Value::Object),
                (Some(_), None) => Err(ApiError::invalid(path, "Invalid array")),
                (None, None) => {
                    Err(ApiError::invalid(path, format!("Invalid string: {}", branch.to_json())))
                }
            }
        }
    }
}

fn elements(schema: &Value, branch: &Branch, path: &str) -> Result<Value, ApiError> {
    let rows = branch.elements().into_iter().enumerate();
    rows.map(|(index, node)| value(&schema["items"], node, &join(path, &index.to_string())))
        .collect()
}

/// Tries the alternatives from the narrowest to the widest: a listed word, free text, integer, number, boolean.
fn scalar(alternatives: &[&Value], text: &str, path: &str) -> Result<Value, ApiError> {
    let listed = |schema: &&&Value| {
        schema["enum"].as_array().is_some_and(|words| words.contains(&json!(text)))
    };
    if alternatives.iter().any(|schema| listed(&schema)) {
        return Ok(json!(text));
    }
    let free = alternatives.iter().any(|schema| is(schema, "string") && schema["enum"].is_null());
    let nullable = alternatives.iter().any(|schema| is(schema, "null"));
    if free || (text.is_empty() && nullable) {
        return Ok(json!(text));
    }
    if text.is_empty() {
        return Err(ApiError::empty(path));
    }
    let mut wanted = "";
    for kind in ["integer", "number", "boolean"] {
        if !alternatives.iter().any(|schema| is(schema, kind)) {
            continue;
        }
        match read(kind, text) {
            Some(value) => return Ok(value),
            None => wanted = kind,
        }
    }
    Err(misfit(alternatives, wanted, text, path))
}

fn read(kind: &str, text: &str) -> Option<Value> {
    match kind {
        "integer" => text.parse::<i64>().ok().map(Value::from),
        "number" => serde_json::from_str(text).ok().filter(Value::is_number),
        _ => text.parse::<bool>().ok().map(Value::from),
    }
}

fn misfit(alternatives: &[&Value], wanted: &str, text: &str, path: &str) -> ApiError {
    match wanted {
        "integer" => ApiError::invalid_code(
            "parameter_invalid_integer",
            path,
            format!("Invalid integer: {text}"),
        ),
        "number" => ApiError::invalid(path, format!("Invalid decimal: {text}")),
        "boolean" => ApiError::invalid(path, format!("Invalid boolean: {text}")),
        _ => match alternatives
            .iter()
            .find_map(|schema| schema["enum"].as_array())
            .map(|words| list(words))
        {
            Some(words) if !words.is_empty() => {
                ApiError::invalid(path, format!("Invalid {path}: must be one of {words}"))
            }
            _ if alternatives.iter().any(|schema| is(schema, "array")) => {
                ApiError::invalid(path, "Invalid array")
            }
            _ => ApiError::invalid(path, "Invalid object"),
        },
    }
}

/// `a, b, or c`, without the empty word.
fn list(words: &[Value]) -> String {
    let words: Vec<&str> =
        words.iter().filter_map(Value::as_str).filter(|word| !word.is_empty()).collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, [first])) => format!("{first} or {last}"),
        Some((last, rest)) => format!("{}, or {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema["anyOf"].as_array() {
        Some(list) => list.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

fn is(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(own) => own == kind,
        Value::Array(own) => own.iter().any(|own| own == kind),
        _ => false,
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}[{name}]") }
}

/// What JSON Schema found wrong with typed parameters, in Stripe's envelope.
pub fn explain(error: &ValidationError<'_>) -> ApiError {
    let pointer = error.instance_path().to_string();
    let path = pointer.split('/').skip(1).fold(String::new(), |path, name| join(&path, name));
    match error.kind() {
        ValidationErrorKind::MaxLength { limit } => {
            let text = error.instance().as_str().unwrap_or_default();
            let shown: String = text.chars().take(20).collect();
            ApiError::invalid(
                &path,
                format!("Invalid string: {shown}...; must be at most {limit} characters"),
            )
        }
        ValidationErrorKind::Required { property } => {
            ApiError::missing(&join(&path, property.as_str().unwrap_or_default()))
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let name = unexpected.first().map_or("", String::as_str);
            ApiError::unknown(&join(&path, name))
        }
        _ => ApiError::invalid(&path, format!("Invalid {path}: {error}")),
    }
}
