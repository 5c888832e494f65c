//! What the rules of a schema may cost: over all that the schema allows when it is declared, over
//! one object when that is written
//! (upstream: `apiextensions-apiserver/pkg/apis/apiextensions/validation`, `…/schema/cel`).

use std::rc::Rc;

use kube_cel::cel::parser::Expression as Syntax;
use serde_json::Value;

use super::{text, texts};
use crate::cel::cost::{CALL_LIMIT, OBJECT_BUDGET, Shape, bound, undefined_field};
use crate::field::{ErrorList, FieldError};

/// What one rule may cost in one object.
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// The largest request, which bounds what has no other bound.
const REQUEST: u64 = 3 * 1024 * 1024;
/// Rules that are named when all together cost too much.
const NAMED: usize = 4;

fn number(schema: &Value, field: &str) -> Option<u64> {
    schema[field].as_i64().map(|n| u64::try_from(n).unwrap_or(0))
}

fn is_object(v: &Value) -> bool {
    v.is_object()
}

/// How large a value of a schema may be, and how many bytes its smallest JSON has.
fn shape(schema: &Value) -> (Shape, u64) {
    if schema["x-kubernetes-int-or-string"] == true {
        return (Shape::Any(REQUEST - 2), 1);
    }
    match text(&schema["type"]).as_str() {
        "array" => {
            let (item, least) = shape(&schema["items"]);
            let most = number(schema, "maxItems").unwrap_or((REQUEST - 2) / (least + 1));
            (Shape::List(most, Rc::new(item)), 2)
        }
        "object" if is_object(&schema["additionalProperties"]) => {
            let (value, least) = shape(&schema["additionalProperties"]);
            let most = number(schema, "maxProperties").unwrap_or((REQUEST - 2) / (least + 6));
            // Keys are declared without a length.
            (Shape::Map(most, Rc::new(Shape::Text(0)), Rc::new(value)), 2)
        }
        "object" => object(schema),
        "string" => string(schema),
        "boolean" => (Shape::Declared, 4),
        "integer" | "number" => (Shape::Declared, 1),
        _ => (Shape::Any(u64::MAX), 1),
    }
}

fn object(schema: &Value) -> (Shape, u64) {
    let required = texts(&schema["required"]);
    let mut least = 2;
    let mut fields = std::collections::BTreeMap::new();
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let (field, size) = shape(of);
        if required.contains(name) && of["default"].is_null() {
            least += name.len() as u64 + size + 4;
        }
        fields.insert(name.clone(), Rc::new(field));
    }
    let own = Shape::Object(fields);
    (if schema["x-kubernetes-embedded-resource"] == true { with_metadata(own) } else { own }, least)
}

/// What every resource has, whatever its schema says.
fn with_metadata(own: Shape) -> Shape {
    let Shape::Object(mut fields) = own else { return own };
    let text = || Rc::new(Shape::Text(REQUEST - 2));
    for name in ["apiVersion", "kind"] {
        fields.entry(name.to_owned()).or_insert_with(text);
    }
    let metadata = ["name", "generateName"].map(|n| (n.to_owned(), text()));
    fields.insert("metadata".to_owned(), Rc::new(Shape::Object(metadata.into())));
    Shape::Object(fields)
}

fn string(schema: &Value) -> (Shape, u64) {
    let most = number(schema, "maxLength");
    match text(&schema["format"]).as_str() {
        "byte" => (Shape::Text(most.unwrap_or(REQUEST - 2)), 2),
        "duration" => (Shape::Scalar, 3),
        "date" => (Shape::Scalar, 12),
        "date-time" => (Shape::Scalar, 21),
        // A character may have four bytes.
        _ => (Shape::Text(most.map_or(REQUEST - 2, |n| n.saturating_mul(4))), 2),
    }
}

fn parse(expression: &str) -> Option<Syntax> {
    crate::cel::guard::parse(expression).ok()
}

/// The rules that stand at a place of a schema.
fn rules(schema: &Value) -> impl Iterator<Item = (usize, &Value)> {
    schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate()
}

struct Total {
    /// Whether nothing has been looked at yet.
    at_root: bool,
    all: u64,
    /// The most expensive rules, and where they are.
    most: Vec<(u64, String)>,
}

/// Checks that the rules of a schema cannot cost too much.
pub(super) fn check(schema: &Value, path: &str, errors: &mut ErrorList) {
    let mut total = Total { at_root: true, all: 0, most: Vec::new() };
    node(schema, path, Some(1), &mut total, errors);
    if total.all > SCHEMA_LIMIT {
        for (_, path) in &total.most {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(FieldError::forbidden(path.clone(), why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(path, exceeds(what, total.all, SCHEMA_LIMIT)));
    }
}

/// `times`: how often the place may occur in one object; `None` without a bound.
fn node(schema: &Value, path: &str, times: Option<u64>, total: &mut Total, errors: &mut ErrorList) {
    let root = std::mem::replace(&mut total.at_root, false);
    for (i, rule) in rules(schema) {
        let (own, least) = shape(schema);
        let variables = variables(if root { with_metadata(own) } else { own });
        let times = times.unwrap_or(REQUEST / (least + 1));
        for (field, what, often) in
            [("rule", "estimated rule cost", times), ("messageExpression", "estimated messageExpression cost", 1)]
        {
            let Some(syntax) = parse(&text(&rule[field])).filter(|_| rule[field].is_string()) else { continue };
            let at = format!("{path}.x-kubernetes-validations[{i}].{field}");
            if let Some(name) = undefined_field(&syntax, &variables) {
                let (said, rule) = (format!("compilation failed: undefined field '{name}'"), text(&rule[field]));
                errors.push(FieldError::invalid(at, rule, said));
                continue;
            }
            let cost = bound(&syntax, &variables, u64::MAX).saturating_mul(often);
            if cost > RULE_LIMIT {
                errors.push(FieldError::forbidden(at.clone(), exceeds(what, cost, RULE_LIMIT)));
            }
            total.all = total.all.saturating_add(cost);
            if cost >= SCHEMA_LIMIT / 100 {
                total.most.push((cost, at));
                total.most.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
                total.most.truncate(NAMED);
            }
        }
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        node(of, &format!("{path}.properties[{name}]"), times, total, errors);
    }
    for (field, most) in [("items", "maxItems"), ("additionalProperties", "maxProperties")] {
        if schema[field].is_object() {
            let inner = times.zip(number(schema, most)).map(|(t, n)| t.saturating_mul(n));
            node(&schema[field], &format!("{path}.{field}"), inner, total, errors);
        }
    }
}

fn variables(own: Shape) -> [(&'static str, Rc<Shape>); 2] {
    let own = Rc::new(own);
    [("self", own.clone()), ("oldSelf", own)]
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        // Not "by factor of 1.0x".
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, \
         and maxLength where arrays, maps, and strings are declared)"
    )
}

/// The rules of a schema that may cost too much in one object.
pub(super) struct Budget(Option<Value>);

impl Budget {
    /// The budget of a schema; its rules need none where they cannot exceed it.
    pub(super) fn of(schema: &Value) -> Budget {
        let mut total = Total { at_root: true, all: 0, most: Vec::new() };
        node(schema, "", Some(1), &mut total, &mut ErrorList::new());
        // No rule costs more than all of them together.
        Budget((total.all > CALL_LIMIT).then(|| schema.clone()))
    }

    /// What in an object costs too much.
    pub(super) fn exceeded(&self, object: &Value, old: Option<&Value>) -> Option<FieldError> {
        let mut left = OBJECT_BUDGET;
        self.0.as_ref().and_then(|schema| spend(schema, "", object, old, &mut left).err())
    }
}

/// Takes what the rules below a place cost from what is left.
fn spend(schema: &Value, path: &str, value: &Value, old: Option<&Value>, left: &mut u64) -> Result<(), FieldError> {
    let invalid = |why: String| {
        let field = if path.is_empty() { "<nil>" } else { path };
        FieldError::invalid(field, text(&schema["type"]), why)
    };
    let mut own = None;
    for (_, rule) in rules(schema) {
        let rule_text = text(&rule["rule"]);
        // A transition is judged where there is one.
        if rule_text.contains("oldSelf") && old.is_none() && rule["optionalOldSelf"] != true {
            continue;
        }
        let Some(syntax) = parse(&rule_text) else { continue };
        let of = own.get_or_insert_with(|| Rc::new(Shape::of_value(value))).clone();
        let before = old.map_or_else(|| Rc::new(Shape::Scalar), |o| Rc::new(Shape::of_value(o)));
        let cost = bound(&syntax, &[("self", of), ("oldSelf", before)], 1);
        let rule_text = rule_text.trim();
        if cost > CALL_LIMIT {
            return Err(invalid(format!(
                "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to \
                 call cost exceeds limit for rule: {rule_text}"
            )));
        }
        *left = left.checked_sub(cost).ok_or_else(|| {
            invalid(
                "validation failed due to running out of cost budget, no further validation rules will be run".into(),
            )
        })?;
    }
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let old = old.and_then(|o| o.get(name));
                let (of, at) = match schema["properties"].get(name) {
                    Some(of) if path.is_empty() => (of, name.clone()),
                    Some(of) => (of, format!("{path}.{name}")),
                    None => (&schema["additionalProperties"], format!("{path}[{name}]")),
                };
                if of.is_object() {
                    spend(of, &at, inner, old, left)?;
                }
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter().enumerate() {
                spend(&schema["items"], &format!("{path}[{i}]"), inner, None, left)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(schema: &Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(schema, "s", &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_without_bounds_exceeds_its_budget() {
        let rules = json!([{"rule": "self.all(s, s == 'string constant')"}]);
        let inner = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": rules});
        let mut schema = json!({"type": "object", "properties": {"x": {"type": "array", "items": inner}}});
        let told = said(&schema);
        assert_eq!(
            told[0],
            "s.properties[x].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by \
             factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
             arrays, maps, and strings are declared)"
        );
        assert!(told[1].ends_with("exceeding cost limit for entire OpenAPIv3 schema"), "{told:?}");
        schema["properties"]["x"]["maxItems"] = 10.into();
        schema["properties"]["x"]["items"]["maxItems"] = 10.into();
        assert_eq!(said(&schema), Vec::<String>::new());
    }

    #[test]
    fn a_rule_names_declared_fields_only() {
        let schema = |rule: &str| {
            json!({"type": "object", "x-kubernetes-validations": [{"rule": rule}], "properties": {
                "spec": {"type": "object", "properties": {"x": {"type": "integer"}, "a-b": {"type": "integer"}}},
                "map": {"type": "object", "additionalProperties": {"type": "integer"}},
                "open": {"type": "string", "x-kubernetes-int-or-string": true}}})
        };
        for good in [
            "self.spec.x == 1 && self.spec.a__dash__b == 2",
            "self.metadata.name == 'a' && self.kind == 'b'",
            "has(self.map.z) && self.map.z == 1",
            "self.?spec.?x.orValue(1) == 1",
        ] {
            assert_eq!(said(&schema(good)), Vec::<String>::new(), "{good}");
        }
        for bad in ["self.spec.z == 100", "has(self.spec.z)", "self.metadata.labels.z == 'a'"] {
            let told = said(&schema(bad));
            assert!(told[0].contains("compilation failed: undefined field '"), "{bad}: {told:?}");
        }
    }

    #[test]
    fn declared_sizes_count_and_fields_have_their_escaped_names() {
        let name = json!({"type": "string", "maxLength": 63});
        let item = json!({"type": "object", "properties": {"namespace": name, "n": {"type": "integer"}}});
        let rule = "self.all(a, self.exists_one(b, a.__namespace__ == b.__namespace__ && a.n == b.n))";
        let list =
            json!({"type": "array", "maxItems": 32, "items": item, "x-kubernetes-validations": [{"rule": rule}]});
        assert_eq!(said(&json!({"type": "object", "properties": {"l": list}})), Vec::<String>::new());
        let keys = json!({"type": "object", "maxProperties": 8, "additionalProperties": name,
            "x-kubernetes-validations": [{"rule": "self.all(k, k.matches('^[a-z]+$'))"}]});
        assert_eq!(said(&keys), Vec::<String>::new());
    }

    #[test]
    fn what_a_rule_costs_in_one_object_is_limited() {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "x-kubernetes-validations": [{"rule": "self.large.all(x, self.large.all(y, y == x))"}],
            "properties": {"large": {"type": "array", "maxItems": 725, "items": {"type": "integer"}}}}}});
        assert_eq!(said(&schema), Vec::<String>::new());
        let budget = Budget::of(&schema);
        let of = |n: usize| json!({"spec": {"large": vec![20; n]}});
        assert_eq!(budget.exceeded(&of(100), None), None);
        let e = budget.exceeded(&of(725), None).unwrap().to_string();
        assert_eq!(
            e,
            "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation \
             rules will be run due to call cost exceeds limit for rule: self.large.all(x, self.large.all(y, y == x))"
        );
    }
}
