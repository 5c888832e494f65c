//! The behaviour of a custom resource: what its schema says.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::compiled::{Compiled, Parts};
use super::jsonpath::JsonPath;
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
    compiled: Arc<Compiled>,
    has_status: bool,
    printers: Vec<Printer>,
}

impl Custom {
    /// The behaviour of one version.
    pub fn new(kind: String, compiled: Arc<Compiled>, has_status: bool, printers: Vec<Printer>) -> Custom {
        Custom { kind, compiled, has_status, printers }
    }

    fn judge(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let Parts { props, rules, budget } = self.compiled.parts();
        let mut errors = validation::validate(props, "", new, old);
        if errors.is_empty()
            && let Some(e) = budget.exceeded(new, old)
        {
            return vec![e];
        }
        if errors.is_empty()
            && let Some(rules) = rules
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
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn default(&self, object: &mut Value) {
        defaulting::apply(&self.compiled.parts().props, object);
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
