//! Turns OpenAPI 3.0 schemas into JSON Schema that a validator reads, and tightens those of answers.
//!
//! Walks only where schemas can stand, so a property that happens to be called `nullable` or `properties` is left alone.

use serde_json::{Map, Value, json};

/// Adds the components of the supplement, and puts its properties into the components that they belong to.
pub fn supplement(components: &mut Map<String, Value>, more: &mut Value) {
    if let Value::Object(own) = more["components"]["schemas"].take() {
        components.extend(own);
    }
    for (name, properties) in more["patches"].as_object().into_iter().flatten() {
        let schema = components.get_mut(name).expect("a patch is of a component that exists");
        for (property, own) in properties.as_object().into_iter().flatten() {
            schema["properties"][property] = own.clone();
        }
    }
}

/// Adds fields to the `required` list of an object schema.
pub fn require(schema: &mut Value, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let object = schema.as_object_mut().expect("a component is a schema object");
    let required = object.entry("required").or_insert_with(|| json!([]));
    let list = required.as_array_mut().expect("`required` is a list");
    list.extend(names.iter().map(|name| json!(name)));
}

/// Prepares a schema of an answer: nullability, absolute references, and no fields beyond the named ones.
pub fn strict(schema: &mut Value, document_uri: &str) {
    walk(schema, &|schema| {
        absolute(schema, document_uri);
        nullable(schema);
        if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
            schema.insert("additionalProperties".to_owned(), json!(false));
        }
    });
}

/// One object schema of all parameters that an operation takes in its query and in its form or JSON body.
pub fn parameters(operation: &Value) -> Value {
    let body = operation["requestBody"]["content"].as_object();
    let form = body.and_then(|kinds| kinds.values().next()).unwrap_or(&Value::Null);
    let form = &form["schema"];
    let mut properties = form["properties"].as_object().cloned().unwrap_or_default();
    let mut required = form["required"].as_array().cloned().unwrap_or_default();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] != "query" {
            continue;
        }
        if parameter["required"] == json!(true) {
            required.push(parameter["name"].clone());
        }
        let name = parameter["name"].as_str().expect("a parameter has a name").to_owned();
        properties.insert(name, parameter["schema"].clone());
    }
    let mut schema = json!({ "type": "object", "properties": properties, "required": required });
    walk(&mut schema, &|schema| {
        nullable(schema);
        // The description leaves nested hashes open; Stripe refuses unknown names there as well.
        if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
            schema.insert("additionalProperties".to_owned(), json!(false));
        }
    });
    schema
}

fn walk(schema: &mut Value, change: &dyn Fn(&mut Map<String, Value>)) {
    let Some(object) = schema.as_object_mut() else { return };
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(name) {
            walk(inner, change);
        }
    }
    for name in ["anyOf", "oneOf", "allOf"] {
        for inner in object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            walk(inner, change);
        }
    }
    for inner in object
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        walk(inner, change);
    }
    change(object);
}

fn absolute(schema: &mut Map<String, Value>, document_uri: &str) {
    if let Some(Value::String(reference)) = schema.get_mut("$ref") {
        *reference = format!("{document_uri}{reference}");
    }
}

fn nullable(schema: &mut Map<String, Value>) {
    if schema.remove("nullable") != Some(json!(true)) {
        return;
    }
    if let Some(list) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        list.push(json!({ "type": "null" }));
        return;
    }
    if let Some(kind) = schema.get("type").cloned() {
        schema.insert("type".to_owned(), json!([kind, "null"]));
    }
    if let Some(list) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        list.push(Value::Null);
    }
}
