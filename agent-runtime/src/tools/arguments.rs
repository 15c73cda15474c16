//! The arguments of a tool call: raw text of a model's, checked against the tool's schema before anything sees them.
//!
//! Broken JSON is never repaired: the model is told what is wrong, and calls again.

use crate::tokens::floor_char_boundary;
use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value};
use session_store::ToolSpec;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// More tools than any program has; past it the compiled schemas are thrown away and made anew.
const CACHED_SCHEMAS_MAX: usize = 1024;
/// More problems than these do not help a model.
const PROBLEMS_MAX: usize = 5;
/// Of one problem's text, which may quote a long value.
const PROBLEM_BYTES_MAX: usize = 300;

/// Reads `arguments` as JSON and checks them against the schema of `spec`; empty text counts as `{}`. Schemas are compiled once.
///
/// # Errors
/// What is wrong, in words that a model can act on.
pub fn check(spec: &ToolSpec, arguments: &str) -> Result<Value, String> {
    let value = parse(spec, arguments)?;
    let validator = compiled(&spec.parameters)
        .map_err(|why| format!("the tool `{}` cannot be called, its own schema is wrong: {why}", spec.name))?;
    let problems = problems_of(&validator, &value);
    if problems.is_empty() {
        return Ok(value);
    }
    Err(format!("the arguments of `{}` do not fit its schema: {}. {}", spec.name, problems.join("; "), known_arguments(spec)))
}

fn parse(spec: &ToolSpec, arguments: &str) -> Result<Value, String> {
    if arguments.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    // serde_json refuses what is nested deeper than 128 levels.
    match serde_json::from_str(arguments) {
        Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
        Ok(_) => Err(format!("the arguments of `{}` are not a JSON object. {}", spec.name, known_arguments(spec))),
        Err(error) => Err(format!("the arguments of `{}` are not valid JSON: {error}. Call again with a JSON object", spec.name)),
    }
}

/// What is wrong with `value`, in a few short texts; none where it fits.
pub(crate) fn problems_of(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).take(PROBLEMS_MAX).map(|error| describe(&error)).collect()
}

/// The schema, compiled once.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compiled(schema: &Value) -> Result<Arc<Validator>, String> {
    static SCHEMAS: LazyLock<RwLock<HashMap<String, Arc<Validator>>>> = LazyLock::new(RwLock::default);
    let text = schema.to_string();
    // The map is whole between any two of its calls: a panic elsewhere does not spoil it.
    if let Some(validator) = SCHEMAS.read().unwrap_or_else(PoisonError::into_inner).get(&text) {
        return Ok(Arc::clone(validator));
    }
    let validator = Validator::new(schema).map_err(|error| error.to_string())?;
    let validator = Arc::new(validator);
    let mut schemas = SCHEMAS.write().unwrap_or_else(PoisonError::into_inner);
    if schemas.len() >= CACHED_SCHEMAS_MAX {
        schemas.clear();
    }
    schemas.insert(text, Arc::clone(&validator));
    Ok(validator)
}

fn describe(error: &ValidationError<'_>) -> String {
    let mut problem = error.to_string();
    if problem.len() > PROBLEM_BYTES_MAX {
        problem.truncate(floor_char_boundary(&problem, PROBLEM_BYTES_MAX));
        problem.push_str("...");
    }
    let place = error.instance_path().to_string();
    if place.is_empty() { problem } else { format!("at `{place}`: {problem}") }
}

/// The names that the schema knows, so that a model that guessed one finds the right one.
fn known_arguments(spec: &ToolSpec) -> String {
    let required: Vec<&str> = spec.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let names =
        spec.parameters["properties"].as_object().into_iter().flatten().map(|(name, _)| {
            if required.contains(&name.as_str()) { format!("`{name}` (required)") } else { format!("`{name}`") }
        });
    let names: Vec<String> = names.collect();
    if names.is_empty() { "It takes no arguments".into() } else { format!("It takes {}", names.join(", ")) }
}
