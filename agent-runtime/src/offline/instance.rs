//! JSON that fits a schema, for answers that have to be such: made by the schema alone, and checked like any answer.

use crate::output_schema;
use serde_json::{Map, Value, json};
use std::cell::Cell;

/// What stands where any text fits.
const TEXT: &str = "offline";
/// How many schemas may be inside one another, and how many are looked at: one that needs itself has no end.
const DEPTH_MAX: usize = 16;
const LOOKS_MAX: u32 = 10_000;
const TOO_MUCH: &str = "it is too large, or needs itself";
/// What need not be there is left out below this.
const OPTIONAL_DEPTH_MAX: usize = 3;
/// How far a text is filled up to its least length.
const TEXT_MAX: u64 = 10_000;

/// A value that fits `schema`, always the same one.
///
/// # Errors
/// Why none was found, in words: the schema says more than is understood here, or nothing fits it.
pub(super) fn instance(schema: &Value) -> Result<Value, String> {
    let value = Maker { root: schema, looks: Cell::new(0) }.value(schema, 0, 0)?;
    output_schema::misfit(schema, &value.to_string()).map_or(Ok(value), Err)
}

struct Maker<'a> {
    root: &'a Value,
    looks: Cell<u32>,
}

impl Maker<'_> {
    /// The value number `nth` of those that fit: in a list whose items have to differ, another one for each.
    fn value(&self, schema: &Value, nth: u64, depth: usize) -> Result<Value, String> {
        if *schema == Value::Bool(false) {
            return Err("nothing may stand in a place that is required".to_owned());
        }
        let schema = &self.resolved(schema, depth)?;
        for word in ["anyOf", "oneOf"] {
            let Some(branches) = schema[word].as_array() else { continue };
            let mut rest = schema.clone();
            rest.as_object_mut().map(|rest| rest.remove(word));
            let made = branches.iter().map(|branch| self.value(&both(rest.clone(), branch), nth, depth + 1));
            return first_ok(made).unwrap_or_else(|| Err(format!("`{word}` is empty")));
        }
        if let Some(value) = schema.get("const") {
            return Ok(value.clone());
        }
        if let Some(values) = schema["enum"].as_array().filter(|values| !values.is_empty()) {
            return Ok(values[nth as usize % values.len()].clone());
        }
        match kind(schema) {
            "object" => self.object(schema, nth, depth),
            "array" => self.array(schema, depth),
            "integer" => Ok(integer(schema, nth)),
            "number" => Ok(number(schema, nth)),
            "boolean" => Ok(json!(nth.is_multiple_of(2))),
            "null" => Ok(Value::Null),
            _ => Ok(json!(text(schema, nth))),
        }
    }

    /// The schema without references at its top, and with what `allOf` adds.
    fn resolved(&self, schema: &Value, depth: usize) -> Result<Value, String> {
        self.looks.set(self.looks.get() + 1);
        if depth > DEPTH_MAX || self.looks.get() > LOOKS_MAX {
            return Err(TOO_MUCH.to_owned());
        }
        let mut schema = schema.clone();
        let Some(fields) = schema.as_object_mut() else { return Ok(schema) };
        let mut more = Vec::new();
        if let Some(reference) = fields.remove("$ref") {
            let found = reference.as_str().and_then(|place| self.root.pointer(place.strip_prefix('#')?));
            more.push(found.cloned().ok_or_else(|| format!("the reference {reference} cannot be followed"))?);
        }
        if let Some(Value::Array(all)) = fields.remove("allOf") {
            more.extend(all);
        }
        more.iter().try_fold(schema, |schema, more| Ok(both(schema, &self.resolved(more, depth + 1)?)))
    }

    fn object(&self, schema: &Value, nth: u64, depth: usize) -> Result<Value, String> {
        let mut fields = Map::new();
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let is_required = required.contains(&name.as_str());
            if !is_required && depth >= OPTIONAL_DEPTH_MAX {
                continue;
            }
            match self.value(property, nth, depth + 1) {
                Ok(value) => drop(fields.insert(name.clone(), value)),
                Err(why) if is_required => return Err(why),
                Err(_) => {}
            }
        }
        for name in required {
            if !fields.contains_key(name) {
                fields.insert(name.to_owned(), self.value(&schema["additionalProperties"], nth, depth + 1)?);
            }
        }
        Ok(Value::Object(fields))
    }

    fn array(&self, schema: &Value, depth: usize) -> Result<Value, String> {
        let first = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
        let least = schema["minItems"].as_u64().unwrap_or(0);
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        let wanted =
            if depth < OPTIONAL_DEPTH_MAX { (first.len() as u64).max(u64::from(schema.get("items").is_some())) } else { 0 };
        let count = least.max(wanted).min(most);
        let item = |nth: u64| self.value(first.get(nth as usize).unwrap_or(&schema["items"]), nth, depth + 1);
        match (0..count).map(item).collect::<Result<_, _>>() {
            Ok(items) => Ok(Value::Array(items)),
            Err(_) if least == 0 => Ok(json!([])),
            Err(why) => Err(why),
        }
    }
}

/// The first that worked, else the first that did not.
fn first_ok(mut made: impl Iterator<Item = Result<Value, String>>) -> Option<Result<Value, String>> {
    let first = made.next()?;
    if first.is_ok() { Some(first) } else { Some(made.find(Result::is_ok).unwrap_or(first)) }
}

/// A schema that says what `schema` and `more` say; where both say something, `more` counts, but for properties and their names.
fn both(schema: Value, more: &Value) -> Value {
    let (mut fields, more) = match (schema, more) {
        (Value::Object(fields), Value::Object(more)) => (fields, more),
        (schema, Value::Bool(true)) => return schema,
        (_, more) => return more.clone(),
    };
    for (name, value) in more {
        let said = match (name.as_str(), fields.remove(name), value) {
            ("properties", Some(Value::Object(mut before)), Value::Object(value)) => {
                for (name, property) in value {
                    let property = before.remove(name).map_or_else(|| property.clone(), |before| both(before, property));
                    before.insert(name.clone(), property);
                }
                Value::Object(before)
            }
            ("required", Some(Value::Array(before)), Value::Array(value)) => Value::Array([before, value.clone()].concat()),
            (_, _, value) => value.clone(),
        };
        fields.insert(name.clone(), said);
    }
    Value::Object(fields)
}

/// The type of the value that is made: the first that is named, else the one that the other words are about.
fn kind(schema: &Value) -> &str {
    let named = match &schema["type"] {
        Value::Array(types) => types.first().and_then(Value::as_str),
        named => named.as_str(),
    };
    let about = [
        ("object", &["properties", "required"][..]),
        ("array", &["items", "prefixItems", "minItems"]),
        ("number", &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    ];
    let guessed = || about.iter().find(|(_, words)| words.iter().any(|word| schema.get(word).is_some())).map(|(kind, _)| *kind);
    named.or_else(guessed).unwrap_or("string")
}

fn integer(schema: &Value, nth: u64) -> Value {
    let limit = |word: &str, exclusive: &str, step: i64| {
        let inside = schema[exclusive].as_f64().map(|limit| if step > 0 { limit.floor() + 1.0 } else { limit.ceil() - 1.0 });
        let limit = schema[word].as_f64().map(|limit| if step > 0 { limit.ceil() } else { limit.floor() });
        limit.or(inside).map(|limit| limit as i64)
    };
    let (least, most) = (limit("minimum", "exclusiveMinimum", 1), limit("maximum", "exclusiveMaximum", -1));
    let step = schema["multipleOf"].as_f64().map_or(1, |step| (step as i64).max(1));
    let start = least.unwrap_or_else(|| most.unwrap_or(0).min(0));
    // The first multiple at or above the start; below it where there is only an upper limit.
    let first = if least.is_none() && start < 0 {
        start.div_euclid(step) * step
    } else {
        (start as f64 / step as f64).ceil() as i64 * step
    };
    let by = step.saturating_mul(nth as i64);
    json!(if least.is_none() && most.is_some() { first.saturating_sub(by) } else { first.saturating_add(by) })
}

fn number(schema: &Value, nth: u64) -> Value {
    if schema.get("multipleOf").is_some() {
        return integer(schema, nth);
    }
    let of = |word: &str| schema[word].as_f64();
    let (least, most) = (of("minimum").or(of("exclusiveMinimum")), of("maximum").or(of("exclusiveMaximum")));
    json!(match (least, most) {
        // Inside of both, whether they belong to it or not, and another one for each.
        (Some(least), Some(most)) => least + (most - least) / (nth + 2) as f64,
        (Some(least), None) => least + (nth + 1) as f64,
        (None, Some(most)) => most - (nth + 1) as f64,
        (None, None) => nth as f64,
    })
}

fn text(schema: &Value, nth: u64) -> String {
    let text = match schema["format"].as_str().unwrap_or_default() {
        "date-time" => format!("2000-01-01T00:00:{:02}Z", nth % 60),
        "date" => format!("2000-01-{:02}", nth % 28 + 1),
        "time" => format!("00:00:{:02}Z", nth % 60),
        "email" => format!("{TEXT}{nth}@example.com"),
        "uri" | "uri-reference" | "iri" => format!("https://example.com/{nth}"),
        "uuid" => format!("00000000-0000-4000-8000-{nth:012}"),
        "hostname" => format!("{TEXT}{nth}.example.com"),
        "ipv4" => format!("192.0.2.{}", nth % 256),
        "ipv6" => format!("2001:db8::{nth:x}"),
        _ if nth == 0 => TEXT.to_owned(),
        _ => format!("{nth} {TEXT}"),
    };
    let (least, most) = (schema["minLength"].as_u64().unwrap_or(0), schema["maxLength"].as_u64().unwrap_or(u64::MAX));
    let missing = least.min(TEXT_MAX).saturating_sub(text.chars().count() as u64);
    text.chars().chain(std::iter::repeat_n('.', missing as usize)).take(usize::try_from(most).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_fits() {
        for schema in [
            json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}}, "required": ["age"]}),
            json!({"type": "object", "properties": {}, "required": ["there"], "additionalProperties": {"type": "integer"}}),
            json!({"type": "array", "items": {"type": "integer", "exclusiveMinimum": 5, "multipleOf": 4}, "minItems": 3, "uniqueItems": true}),
            json!({"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": true}),
            json!({"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2, "uniqueItems": true}),
            json!({"type": "array", "prefixItems": [{"type": "string"}, {"const": 7}], "items": false}),
            json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
            json!({"type": "integer", "maximum": -3}),
            json!({"type": "integer", "exclusiveMaximum": 0, "multipleOf": 5}),
            json!({"type": "string", "minLength": 12, "maxLength": 12}),
            json!({"type": ["null", "string"]}),
            json!({"anyOf": [{"type": "object", "required": ["x"], "properties": {"x": false}}, {"type": "boolean"}]}),
            json!({"oneOf": [{"type": "string"}, {"type": "integer"}]}),
            json!({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
                             {"properties": {"b": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1}}, "required": ["b"]}],
                   "$defs": {"b": {"type": "string", "format": "date-time"}}}),
            json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"size": {"type": "integer"},
                   "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "required": ["size", "children"], "additionalProperties": false}}}),
            json!({}),
        ] {
            let made = instance(&schema).unwrap_or_else(|why| panic!("{why}: {schema}"));
            assert_eq!(instance(&schema), Ok(made.clone()), "always the same");
            assert_eq!(output_schema::misfit(&schema, &made.to_string()), None);
        }
    }

    #[test]
    fn what_cannot_be_made_is_told() {
        for (schema, why) in [
            (json!({"type": "string", "pattern": "^[0-9]{4}$"}), "does not match"),
            (json!({"type": "object", "properties": {"a": false}, "required": ["a"]}), "a place that is required"),
            (
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}}),
                TOO_MUCH,
            ),
            (json!({"type": "array", "items": {}, "minItems": 100_000_000}), TOO_MUCH),
            (json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}), TOO_MUCH),
        ] {
            let said = instance(&schema).expect_err("nothing is made");
            assert!(said.contains(why), "{said}");
        }
    }
}
