//! What values of a version are judged by, made of its schema when the first value comes: most
//! definitions of a cluster have few objects or none, and a schema at work takes several times its
//! text.

use std::sync::{Arc, OnceLock};

use kube_cel::{CompiledSchema, compile_schema};
use serde_json::Value;

use super::costs::Budget;
use super::schema::Props;
use crate::cel::guard;
use crate::openapi::Published;

/// See the module.
pub struct Compiled {
    schema: Arc<Published>,
    parts: OnceLock<Parts>,
}

/// A schema at work.
pub(super) struct Parts {
    pub(super) props: Props,
    /// The `x-kubernetes-validations` of the schema, where it has some.
    pub(super) rules: Option<CompiledSchema>,
    pub(super) budget: Budget,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiled")
    }
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

impl Compiled {
    /// Takes a schema.
    pub fn new(schema: Arc<Published>) -> Compiled {
        Compiled { schema, parts: OnceLock::new() }
    }

    /// The schema's text.
    pub fn schema(&self) -> &Arc<Published> {
        &self.schema
    }

    pub(super) fn parts(&self) -> &Parts {
        self.parts.get_or_init(|| {
            let schema = self.schema.schema();
            let rules = if has_rules(&schema) { compiled(&schema).ok() } else { None };
            let budget = Budget::of(if rules.is_some() { &schema } else { &Value::Null });
            Parts { props: Props::parse(&schema), rules, budget }
        })
    }
}
