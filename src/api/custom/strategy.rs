//! The behaviour of a custom resource: what its schema says.

use std::sync::Arc;

use jiff::Timestamp;
use kube_cel::{CompiledSchema, compile_schema};
use serde_json::{Map, Value};

use super::costs::Budget;
use super::jsonpath::JsonPath;
use super::schema::Props;
use super::{defaulting, validation};
use crate::cel::guard;
use crate::field::{ErrorKind, ErrorList, FieldError};
use crate::resource::{Column, Strategy};

/// A printer column and where its cells come from.
#[derive(Clone, Debug)]
pub struct Printer {
    /// The column.
    pub column: Column,
    /// Its cell in an object.
    pub path: JsonPath,
}

/// See the module.
pub struct Custom {
    kind: String,
    props: Arc<Props>,
    /// The `x-kubernetes-validations` of the schema, where it has some.
    rules: Option<CompiledSchema>,
    budget: Budget,
    has_status: bool,
    printers: Vec<Printer>,
}

/// Whether a schema has rules at or below this place.
pub(super) fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        Value::Array(list) => list.iter().any(has_rules),
        _ => false,
    }
}

/// The expressions of the rules at and below a place.
fn expressions<'s>(schema: &'s Value, all: &mut Vec<&'s str>) {
    match schema {
        Value::Object(map) => {
            for (name, below) in map {
                if name == "x-kubernetes-validations" {
                    let rules = below.as_array().into_iter().flatten();
                    all.extend(rules.flat_map(|r| [&r["rule"], &r["messageExpression"]]).filter_map(Value::as_str));
                }
                expressions(below, all);
            }
        }
        Value::Array(list) => list.iter().for_each(|below| expressions(below, all)),
        _ => {}
    }
}

/// A schema with its rules compiled.
pub(super) fn compiled(schema: &Value) -> Result<CompiledSchema, String> {
    let mut texts = Vec::new();
    expressions(schema, &mut texts);
    texts.iter().try_for_each(|text| guard::check(text))?;
    guard::with_room_for(texts, || compile_schema(schema))
}

impl Custom {
    /// The behaviour of one version.
    pub fn new(kind: String, props: Arc<Props>, schema: &Value, has_status: bool, printers: Vec<Printer>) -> Custom {
        let rules = if has_rules(schema) { compiled(schema).ok() } else { None };
        let budget = Budget::of(if rules.is_some() { schema } else { &Value::Null });
        Custom { kind, props, rules, budget, has_status, printers }
    }

    fn judge(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = validation::validate(&self.props, "", new, old);
        if errors.is_empty()
            && let Some(e) = self.budget.exceeded(new, old)
        {
            return vec![e];
        }
        if errors.is_empty()
            && let Some(rules) = &self.rules
        {
            match guard::caught(|| kube_cel::validate_compiled(rules, new, old)) {
                Ok(Ok(())) => {}
                Ok(Err(failed)) => {
                    errors.extend(failed.into_vec().into_iter().filter_map(|e| self.rule_error(e, new, old)))
                }
                Err(panicked) => errors.push(FieldError::invalid("<nil>", "object", panicked)),
            }
        }
        errors
    }

    /// A failed rule in upstream's form; `None` when it failed for the same value before.
    fn rule_error(&self, e: kube_cel::ValidationError, new: &Value, old: Option<&Value>) -> Option<FieldError> {
        let pointer = format!("/{}", e.field_path.replace('[', "/").replace(']', "").replace('.', "/"));
        let at = |v: &Value| if e.field_path.is_empty() { Some(v.clone()) } else { v.pointer(&pointer).cloned() };
        let value = at(new);
        if !e.rule.contains("oldSelf") && old.is_some() && old.and_then(at) == value {
            return None;
        }
        let kind = match e.reason.as_deref() {
            Some("FieldValueForbidden") => ErrorKind::Forbidden,
            Some("FieldValueRequired") => ErrorKind::Required,
            Some("FieldValueDuplicate") => ErrorKind::Duplicate,
            _ => ErrorKind::Invalid,
        };
        // Upstream shows the type of what is not a plain value.
        let shown = match value {
            Some(Value::Object(_)) => "object".into(),
            Some(Value::Array(_)) => "array".into(),
            other => other.unwrap_or(Value::Null),
        };
        let field = if e.field_path.is_empty() { "<nil>".to_owned() } else { e.field_path };
        Some(FieldError { kind, field, value: Some(shown), detail: e.message })
    }
}

/// An object without what every object has, and without status.
fn own_part(object: &Value, with_status: bool) -> Map<String, Value> {
    let mut map = object.as_object().cloned().unwrap_or_default();
    map.remove("metadata");
    map.remove("apiVersion");
    if !with_status {
        map.remove("status");
    }
    map
}

impl Strategy for Custom {
    fn default(&self, object: &mut Value) {
        defaulting::apply(&self.props, object);
    }

    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        own_part(new, !self.has_status) != own_part(old, !self.has_status)
    }

    fn validate(&self, object: &Value) -> ErrorList {
        if object["kind"] != self.kind.as_str() {
            return vec![FieldError::invalid("kind", object["kind"].clone(), format!("must be {}", self.kind))];
        }
        self.judge(object, None)
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        self.judge(new, Some(old))
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        self.judge(new, Some(old))
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        std::iter::once(name).chain(self.printers.iter().map(|p| cell(p, object, now))).collect()
    }
}

fn cell(p: &Printer, object: &Value, now: Timestamp) -> Value {
    let found = p.path.find(object);
    let Some(first) = found.first() else { return Value::Null };
    match (p.column.kind.as_str(), first) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Number(n)) => n.as_i64().map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("date", Value::String(s)) => match crate::time::parse(s) {
            Some(_) => crate::time::age(now, s).into(),
            None => "<invalid>".into(),
        },
        ("string", _) => {
            let texts: Vec<String> =
                found.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            texts.join(",").into()
        }
        _ => Value::Null,
    }
}
