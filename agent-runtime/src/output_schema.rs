//! Answers that have to be JSON of a given schema.
//!
//! Each provider is asked in its own way (`providers/`), as far as it takes the schema; where it does not, the schema stands behind the system
//! prompt. Whoever answers, the last answer of a turn is checked here: one that does not fit is asked for once more, with what was wrong.

use crate::tools::{compiled, problems_of};
use serde_json::Value;
use session_store::Profile;
use std::borrow::Cow;

/// What no provider takes in a schema that it enforces.
const NEVER_ENFORCED: [&str; 14] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "patternProperties",
    "not",
    "if",
    "oneOf",
];

/// Whether `schema` is a JSON Schema that an answer can be held to. References to other documents are none: nothing is fetched.
///
/// # Errors
/// What is wrong with it.
pub fn check_output_schema(schema: &Value) -> Result<(), String> {
    if !schema.is_object() {
        return Err("it is no JSON object".to_owned());
    }
    compiled(schema).map(drop)
}

/// What is wrong with `text` as an answer; nothing where it is JSON that fits `schema`.
pub(crate) fn misfit(schema: &Value, text: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(text.trim()) {
        Ok(value) => value,
        Err(error) => return Some(format!("it is not valid JSON: {error}")),
    };
    match compiled(schema) {
        Ok(validator) => {
            let problems = problems_of(&validator, &value);
            (!problems.is_empty()).then(|| format!("it does not fit the schema: {}", problems.join("; ")))
        }
        Err(why) => Some(format!("the schema cannot be used: {why}")),
    }
}

/// What a model is told whose answer did not fit.
pub(crate) fn ask_again(schema: &Value, why: &str) -> String {
    format!(
        "Your answer cannot be used: {why}. Answer again, with nothing but JSON that fits this JSON Schema, and no code fence: {schema}"
    )
}

/// Whether a provider can be asked to enforce `schema`: all its objects are closed, and nothing is in it that none of them takes.
pub(crate) fn is_enforceable(schema: &Value) -> bool {
    every(schema, &|object| {
        let is_closed = object["type"] != "object" || object["additionalProperties"] == false;
        is_closed && NEVER_ENFORCED.iter().all(|word| object.get(*word).is_none())
    })
}

/// Whether OpenAI's strict mode takes it: as [`is_enforceable`], and each property is required.
pub(crate) fn is_strict(schema: &Value) -> bool {
    let is_required = |object: &Value| {
        let required = object["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        object["properties"].as_object().is_none_or(|known| known.keys().all(|name| required.iter().any(|word| word == name)))
    };
    is_enforceable(schema) && every(schema, &is_required)
}

/// The system prompt of `profile`, with the schema of its answers behind it where the provider does not get that in its own way.
pub(crate) fn system_text(profile: &Profile, is_asked_natively: bool) -> Cow<'_, str> {
    match &profile.parameters.output_schema {
        Some(schema) if !is_asked_natively => Cow::Owned(format!(
            "{}\n\nYour last answer has to be nothing but JSON that fits this JSON Schema, without a code fence: {schema}",
            profile.system
        )),
        _ => Cow::Borrowed(&profile.system),
    }
}

/// Whether `holds` for every schema in `schema`.
fn every(schema: &Value, holds: &impl Fn(&Value) -> bool) -> bool {
    match schema {
        Value::Object(fields) => {
            let below = |(name, value): (&String, &Value)| match (name.as_str(), value) {
                // Values and names of properties are no schemas.
                ("enum" | "const" | "default" | "examples" | "required", _) => true,
                ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                    named.values().all(|schema| every(schema, holds))
                }
                (_, value) => every(value, holds),
            };
            holds(schema) && fields.iter().all(below)
        }
        Value::Array(schemas) => schemas.iter().all(|schema| every(schema, holds)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_fits_or_it_is_said_what_is_wrong() {
        let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
        assert_eq!(misfit(&schema, " {\"age\": 7}\n"), None);
        for (text, why) in
            [("seven", "not valid JSON"), ("```json\n{\"age\":7}\n```", "not valid JSON"), ("{\"age\":\"7\"}", "at `/age`")]
        {
            assert!(misfit(&schema, text).is_some_and(|said| said.contains(why)), "{text}");
        }
        assert!(check_output_schema(&json!({"type": "nothing"})).is_err());
        assert!(check_output_schema(&json!([])).is_err());
        assert!(check_output_schema(&json!({"$ref": "http://127.0.0.1:1/schema.json"})).is_err(), "nothing is fetched");
    }

    #[test]
    fn only_what_a_provider_takes_is_left_to_it() {
        let closed = |properties: Value| json!({"type": "object", "properties": properties, "required": ["a"], "additionalProperties": false});
        assert!(is_strict(&closed(json!({"a": {"type": "string", "enum": ["minimum"]}}))));
        assert!(!is_strict(&closed(json!({"a": {"type": "string"}, "b": {"type": "string"}}))), "`b` is not required");
        assert!(is_enforceable(&closed(json!({"minimum": {"type": "string"}}))), "a property of that name");
        for open in [
            json!({"type": "object"}),
            closed(json!({"a": {"type": "object"}})),
            closed(json!({"a": {"type": "integer", "minimum": 1}})),
        ] {
            assert!(!is_enforceable(&open), "{open}");
        }
    }
}
