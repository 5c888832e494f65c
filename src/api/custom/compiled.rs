//! What values of a version are judged by, made of its schema when the first value comes: most
//! definitions of a cluster have few objects or none, and a schema at work takes several times its
//! text.

use std::sync::{Arc, OnceLock};

use kube_cel::{CompiledSchema, compile_schema};
use serde_json::Value;

use super::costs::Budget;
use super::schema::Props;
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
            let rules = has_rules(&schema).then(|| compile_schema(&schema));
            let budget = Budget::of(if rules.is_some() { &schema } else { &Value::Null });
            Parts { props: Props::parse(&schema), rules, budget }
        })
    }
}
