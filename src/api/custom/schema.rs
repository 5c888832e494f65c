//! The structural schema of a custom resource's version: upstream's `JSONSchemaProps`, as far as
//! values are judged by it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, Weak};

use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One place in a schema. Absent keywords judge nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Props {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty for any.
    pub r#type: String,
    /// Such as `date-time`.
    pub format: String,
    /// Whether null is a value.
    pub nullable: bool,
    /// What is filled in; `Some(null)` is a default, too.
    #[serde(deserialize_with = "present")]
    pub default: Option<Value>,
    /// Fields.
    pub properties: BTreeMap<String, Box<Props>>,
    /// All other fields.
    pub additional_properties: Option<Additional>,
    /// Items of a list.
    pub items: Option<Box<Props>>,
    /// Names of fields that must be there.
    pub required: Vec<String>,
    /// The only values.
    pub r#enum: Option<Vec<Value>>,
    /// Bounds of numbers.
    pub minimum: Option<f64>,
    /// See `minimum`.
    pub maximum: Option<f64>,
    /// Whether the minimum itself is excluded.
    pub exclusive_minimum: bool,
    /// Whether the maximum itself is excluded.
    pub exclusive_maximum: bool,
    /// Numbers are multiples of it.
    pub multiple_of: Option<f64>,
    /// Characters of a string.
    pub min_length: Option<i64>,
    /// Characters of a string.
    pub max_length: Option<i64>,
    /// What a string matches somewhere.
    #[serde(deserialize_with = "pattern")]
    pub pattern: Option<Pattern>,
    /// Items of a list.
    pub min_items: Option<i64>,
    /// Items of a list.
    pub max_items: Option<i64>,
    /// Whether no item may occur twice.
    pub unique_items: bool,
    /// Fields of an object.
    pub min_properties: Option<i64>,
    /// Fields of an object.
    pub max_properties: Option<i64>,
    /// All of these hold.
    pub all_of: Vec<Props>,
    /// One of these holds, or more.
    pub any_of: Vec<Props>,
    /// Just one of these holds.
    pub one_of: Vec<Props>,
    /// This does not hold.
    pub not: Option<Box<Props>>,
    /// Fields that are not listed are kept.
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    pub preserve_unknown_fields: bool,
    /// An integer or a string.
    #[serde(rename = "x-kubernetes-int-or-string")]
    pub int_or_string: bool,
    /// A complete object with type and metadata.
    #[serde(rename = "x-kubernetes-embedded-resource")]
    pub embedded_resource: bool,
    /// `atomic`, `set` or `map`.
    #[serde(rename = "x-kubernetes-list-type")]
    pub list_type: String,
    /// What identifies an item of a `map`.
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub list_map_keys: Vec<String>,
}

/// What fields that are not listed are.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Additional {
    /// Anything (`true`), or not there (`false`).
    Allowed(bool),
    /// Values of a schema.
    Of(Box<Props>),
}

/// A regular expression and how it was written.
#[derive(Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// `None` for one that does not compile: it judges nothing, and the definition was refused.
    pub regex: Option<Arc<Regex>>,
}

/// The compiled patterns that are in use: operators have the same ones in many places.
static COMPILED: LazyLock<Mutex<HashMap<String, Weak<Regex>>>> = LazyLock::new(Mutex::default);
/// Compiled patterns larger than this are refused: a definition must not take the server's memory.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    /// Compiles a pattern. Go's syntax is that of the regex crate, but for a few escapes.
    pub fn new(text: &str) -> Pattern {
        let mut all = COMPILED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(regex) = all.get(text).and_then(Weak::upgrade) {
            return Pattern { text: text.to_owned(), regex: Some(regex) };
        }
        let regex = regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES).build().ok().map(Arc::new);
        if let Some(regex) = &regex {
            all.retain(|_, known| known.strong_count() > 0);
            all.insert(text.to_owned(), Arc::downgrade(regex));
        }
        Pattern { text: text.to_owned(), regex }
    }
}

fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(d).map(Some)
}

fn pattern<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Pattern>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    Ok(text.filter(|t| !t.is_empty()).map(|t| Pattern::new(&t)))
}

impl Props {
    /// Reads a schema; one that cannot be read judges nothing (its definition was refused).
    pub fn parse(schema: &Value) -> Props {
        Props::deserialize(schema).unwrap_or_default()
    }

    /// The schema of the values of fields that are not listed.
    pub fn additional(&self) -> Option<&Props> {
        match &self.additional_properties {
            Some(Additional::Of(p)) => Some(p),
            _ => None,
        }
    }

    /// The schema of a field.
    pub fn field(&self, name: &str) -> Option<&Props> {
        self.properties.get(name).map(|p| &**p).or_else(|| self.additional())
    }
}

/// Whether something is filled in at or below this place of a schema.
pub fn has_defaults(schema: &Value) -> bool {
    let Value::Object(map) = schema else { return false };
    let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
    let below = ["additionalProperties", "items"].into_iter().filter_map(|name| map.get(name));
    map.contains_key("default") || fields.chain(below).any(has_defaults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_found_at_every_depth() {
        let with = |schema: Value| has_defaults(&json!({"properties": {"default": {"type": "string"}, "x": schema}}));
        assert!(!with(json!({"type": "object", "additionalProperties": true})));
        assert!(with(json!({"default": null})));
        assert!(with(json!({"items": {"additionalProperties": {"properties": {"y": {"default": 1}}}}})));
    }

    #[test]
    fn a_pattern_is_compiled_once() {
        let (a, b) = (Pattern::new("^a+$"), Pattern::new("^a+$"));
        assert!(Arc::ptr_eq(a.regex.as_ref().unwrap(), b.regex.as_ref().unwrap()));
        assert!(Pattern::new("(").regex.is_none());
    }
}
