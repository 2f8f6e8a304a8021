//! Stripe's OpenAPI description as the simulator uses it: routes, parameter schemas, and validators of both directions.
//!
//! Loaded once per process from the embedded `data/` files. Answers are held to a stricter schema than Stripe publishes: fields
//! that Stripe always sends must be there (null or not), and unknown fields are refused, so a slip of ours is found by any test.

pub mod coerce;
mod prepare;

use crate::error::ApiError;
use jsonschema::{Registry, Validator};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, OnceLock};

const OPENAPI: &str = include_str!("../../data/openapi.json");
/// What `openapi.json` lacks, and fields that it cuts to an id.
const MORE: &str = include_str!("../../data/openapi.more.json");
const EXTRAS: &str = include_str!("../../data/openapi.extras.json");
const DOCUMENT_URI: &str = "urn:stripe-sim:openapi";

static SPEC: LazyLock<Spec> = LazyLock::new(Spec::load);

/// The description. Get it with [`spec`].
pub struct Spec {
    pub operations: Vec<Operation>,
    components: Map<String, Value>,
    /// Beginnings of paths that Stripe has, also where the description has none of them.
    also_at_stripe: Vec<String>,
    always_present: HashMap<String, Vec<String>>,
    /// `component/field` (with `/items` for a list) where Stripe has an object and the description only its id.
    cut_to_id: HashSet<String>,
    registry: Registry<'static>,
    by_component: Mutex<HashMap<String, Arc<Validator>>>,
}

/// One method on one path.
pub struct Operation {
    pub method: String,
    /// The path with `{id}` in it.
    pub template: String,
    segments: Vec<String>,
    /// One object schema of all query and body parameters.
    pub parameters: Value,
    /// The schema of the answer with status 200.
    answer: Value,
    parameters_check: OnceLock<Validator>,
    answer_check: OnceLock<Validator>,
}

/// The one description of this process.
pub fn spec() -> &'static Spec {
    &SPEC
}

impl Spec {
    fn load() -> Self {
        let mut document: Value =
            serde_json::from_str(OPENAPI).expect("the embedded description is JSON");
        let extras: Value = serde_json::from_str(EXTRAS).expect("the embedded lists are JSON");
        let mut more: Value = serde_json::from_str(MORE).expect("the embedded supplement is JSON");
        let lists = |of: &Value| -> HashMap<String, Vec<String>> {
            serde_json::from_value(of["alwaysPresentNullable"].clone())
                .expect("a map of lists of names")
        };
        let mut always_present = lists(&extras);
        always_present.extend(lists(&more));
        let cut_to_id = [&extras, &more]
            .into_iter()
            .flat_map(|of| of["expansionsCutToId"].as_object().into_iter().flat_map(Map::keys))
            .cloned()
            .collect();
        let Value::Object(mut components) = document["components"]["schemas"].take() else {
            panic!("the embedded description has components.schemas");
        };
        prepare::supplement(&mut components, &mut more);
        for (name, schema) in &mut components {
            prepare::require(schema, always_present.get(name).map_or(&[], Vec::as_slice));
            prepare::strict(schema, DOCUMENT_URI);
        }
        let mut operations = operations(&document["paths"]);
        operations.extend(self::operations(&more["paths"]));
        let resource = json!({ "components": { "schemas": components } });
        let registry = Registry::new()
            .add(DOCUMENT_URI, resource)
            .and_then(jsonschema::RegistryBuilder::prepare)
            .expect("the embedded description has no broken reference");
        let also_at_stripe = serde_json::from_value(more["alsoAtStripe"].take())
            .expect("a list of beginnings of paths");
        Self {
            operations,
            components,
            also_at_stripe,
            always_present,
            cut_to_id,
            registry,
            by_component: Mutex::default(),
        }
    }

    /// The operation of a request, with the id in its path (empty when there is none; from the first to the last when there are two).
    pub fn route<'a>(
        &'static self,
        method: &str,
        path: &'a str,
    ) -> Option<(&'static Operation, &'a str)> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let matches =
            |operation: &&Operation| operation.method == method && operation.matches(&segments);
        // A literal segment wins over `{id}`: /v1/invoices/create_preview is not an invoice.
        let best =
            self.operations.iter().filter(matches).min_by_key(|operation| operation.holes())?;
        let first = best.segments.iter().position(|own| is_hole(own));
        let last = best.segments.iter().rposition(|own| is_hole(own));
        let length = |parts: &[&str]| parts.iter().map(|part| part.len() + 1).sum::<usize>();
        let id = match (first, last) {
            (Some(first), Some(last)) => {
                let from = 1 + length(&segments[..first]);
                &path[from..from + length(&segments[first..=last]) - 1]
            }
            _ => "",
        };
        Some((best, id))
    }

    /// True for a path that lies where Stripe has paths, and that the description does not know by any method.
    pub fn is_at_stripe(&self, path: &str) -> bool {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        if path.ends_with('/') || self.operations.iter().any(|own| own.matches(&segments)) {
            return false;
        }
        let lies = |start: &String| {
            path.strip_prefix(start.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.also_at_stripe.iter().any(lies)
    }

    /// An object of `component` with all its always-present nullable fields set to null.
    pub fn blank(&self, component: &str) -> Map<String, Value> {
        let names = self.always_present.get(component).map_or(&[][..], Vec::as_slice);
        names.iter().map(|name| (name.clone(), Value::Null)).collect()
    }

    /// The component that a field of a component holds, where it holds one.
    pub fn component_of(&self, component: &str, field: &str) -> Option<&str> {
        let property = &self.components.get(component)?["properties"][field];
        let property = property.get("items").unwrap_or(property); // Of a list: what its rows are.
        let reference = property["$ref"].as_str().or_else(|| {
            property["anyOf"].as_array()?.iter().find_map(|schema| schema["$ref"].as_str())
        })?;
        reference.rsplit('/').next()
    }

    /// True when Stripe can expand `field` of `component`.
    pub fn is_expandable(&self, component: &str, field: &str) -> bool {
        let property = &self.components.get(component).unwrap_or(&Value::Null)["properties"][field];
        !property["x-expansionResources"].is_null()
    }

    /// True when `field` of `component` holds hashes that Stripe takes in `expand`, expanded or not.
    pub fn is_listed(&self, component: &str, field: &str) -> bool {
        let listed = &self.components.get(component).unwrap_or(&Value::Null)["x-expandableFields"];
        listed.as_array().is_some_and(|names| names.iter().any(|name| name == field))
    }

    /// True when Stripe can expand `field` of `component` and the simulator has no such objects.
    pub fn is_cut_to_id(&self, component: &str, field: &str) -> bool {
        let path = format!("{component}/{field}");
        let is_cut =
            self.cut_to_id.contains(&path) || self.cut_to_id.contains(&format!("{path}/items"));
        is_cut && !self.is_expandable(component, field)
    }

    /// Checks parameters that were coerced already (lengths, enums and all else that JSON Schema knows).
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn check_parameters(
        &self,
        operation: &Operation,
        parameters: &Value,
    ) -> Result<(), ApiError> {
        let check = operation.parameters_check.get_or_init(|| self.compile(&operation.parameters));
        check.validate(parameters).map_err(|error| coerce::explain(&error))
    }

    /// Checks the answer of an operation.
    ///
    /// # Errors
    /// Says where the answer breaks the schema.
    pub fn check_answer(&self, operation: &Operation, answer: &Value) -> Result<(), String> {
        let check = operation.answer_check.get_or_init(|| self.compile(&operation.answer));
        complain(check, &format!("{} {}", operation.method, operation.template), answer)
    }

    /// Checks one object against the component that its `object` field (or `name`) names.
    ///
    /// # Errors
    /// Says where the object breaks the schema.
    pub fn check_component(&self, name: &str, value: &Value) -> Result<(), String> {
        if !self.components.contains_key(name) {
            return Err(format!("there is no schema `{name}`"));
        }
        let known = self.by_component.lock().get(name).cloned();
        let check = known.unwrap_or_else(|| {
            let reference = json!({ "$ref": format!("{DOCUMENT_URI}#/components/schemas/{name}") });
            let check = Arc::new(self.compile(&reference));
            self.by_component.lock().insert(name.to_owned(), Arc::clone(&check));
            check
        });
        complain(&check, name, value)
    }

    /// Checks an event, the object inside it, and that each previous attribute is a field of that object.
    ///
    /// # Errors
    /// Says where the event breaks the schema.
    pub fn check_event(&self, event: &Value) -> Result<(), String> {
        self.check_component("event", event)?;
        let object = &event["data"]["object"];
        let kind = object["object"].as_str().unwrap_or_default();
        let name = if object["deleted"] == json!(true) {
            format!("deleted_{kind}")
        } else {
            kind.to_owned()
        };
        self.check_component(&name, object)?;
        let previous = event["data"]["previous_attributes"].as_object();
        for field in previous.into_iter().flat_map(Map::keys) {
            if self.components[&name]["properties"].get(field).is_none() {
                return Err(format!(
                    "event {}: `{name}` has no attribute `{field}`",
                    event["type"]
                ));
            }
        }
        Ok(())
    }

    fn compile(&self, schema: &Value) -> Validator {
        jsonschema::options()
            .with_registry(&self.registry)
            .build(schema)
            .expect("the embedded schemas compile")
    }
}

impl Operation {
    fn matches(&self, segments: &[&str]) -> bool {
        self.segments.len() == segments.len()
            && self
                .segments
                .iter()
                .zip(segments)
                .all(|(own, asked)| if is_hole(own) { !asked.is_empty() } else { own == asked })
    }

    fn holes(&self) -> usize {
        self.segments.iter().filter(|segment| is_hole(segment)).count()
    }
}

fn is_hole(segment: &str) -> bool {
    segment.starts_with('{')
}

fn complain(check: &Validator, what: &str, value: &Value) -> Result<(), String> {
    check.validate(value).map_err(|error| format!("{what} at `{}`: {error}", error.instance_path()))
}

fn operations(paths: &Value) -> Vec<Operation> {
    let paths = paths.as_object().expect("the embedded description has paths");
    let mut operations = Vec::new();
    for (template, methods) in paths {
        for (method, operation) in methods.as_object().expect("a path has methods") {
            let mut answer =
                operation["responses"]["200"]["content"]["application/json"]["schema"].clone();
            if answer.is_null() {
                answer = json!({ "type": "object", "properties": {} }); // Nothing is said: nothing is sent.
            }
            prepare::strict(&mut answer, DOCUMENT_URI);
            operations.push(Operation {
                method: method.to_uppercase(),
                template: template.clone(),
                segments: template.trim_start_matches('/').split('/').map(str::to_owned).collect(),
                parameters: prepare::parameters(operation),
                answer,
                parameters_check: OnceLock::new(),
                answer_check: OnceLock::new(),
            });
        }
    }
    operations
}

#[cfg(test)]
mod tests;
