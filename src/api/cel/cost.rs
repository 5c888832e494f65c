//! What an expression costs, by the model that upstream's limits are set in: an upper bound over
//! all data that a schema allows, or over one object's data
//! (<https://kubernetes.io/docs/reference/using-api/cel/#resource-constraints>).
//!
//! The interpreter here counts nothing while it runs, so the bound over an object's own data
//! stands for the cost of running: it is the same but for what short-circuits.

use std::collections::BTreeMap;
use std::rc::Rc;

use kube_cel::cel::Value;
use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use kube_cel::cel::parser::Expression as Syntax;
use serde_json::Value as Json;

/// What one evaluation may cost.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What all rules may cost for one object.
pub const OBJECT_BUDGET: u64 = 10_000_000;

/// A question to the authorizer.
const CHECK: u64 = 350_000;
/// A share of the cost of a unit, in hundredths.
const STRING: u64 = 10;
const REGEX: u64 = 25;
const NEW_LIST: u64 = 10;
const NEW_MAP: u64 = 30;
const NEW_OBJECT: u64 = 40;
/// The most digits that a format can ask for.
const PRECISION_MAX: u64 = 65_535;
/// Nesting of expressions that is followed.
const DEPTH: usize = 200;

/// How large a value may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Always of the same size.
    Scalar,
    /// As that, where a schema declares it: such are compared for nothing.
    Declared,
    /// A string of at most so many bytes.
    Text(u64),
    /// A list of at most so many items.
    List(u64, Rc<Shape>),
    /// A map of at most so many entries: their keys and values.
    Map(u64, Rc<Shape>, Rc<Shape>),
    /// Fields by name.
    Object(BTreeMap<String, Rc<Shape>>),
    /// Anything, of at most this size.
    Any(u64),
}

impl Shape {
    /// Of a value as it is.
    pub fn of_value(value: &Json) -> Shape {
        match value {
            Json::String(s) => Shape::Text(s.len() as u64),
            Json::Array(list) => {
                let item = list.iter().map(Shape::of_value).reduce(Shape::or).unwrap_or(Shape::Scalar);
                Shape::List(list.len() as u64, Rc::new(item))
            }
            // It may be used as a map: its values are then those of its fields.
            Json::Object(map) => {
                Shape::Object(map.iter().map(|(k, v)| (k.clone(), Rc::new(Shape::of_value(v)))).collect())
            }
            _ => Shape::Scalar,
        }
    }

    /// As [`Shape::of_value`].
    pub(super) fn of_cel(value: &Value) -> Shape {
        match value {
            Value::String(s) => Shape::Text(s.len() as u64),
            Value::Bytes(b) => Shape::Text(b.len() as u64),
            Value::List(list) => {
                let item = list.iter().map(Shape::of_cel).reduce(Shape::or).unwrap_or(Shape::Scalar);
                Shape::List(list.len() as u64, Rc::new(item))
            }
            Value::Map(map) => {
                Shape::Object(map.map.iter().map(|(k, v)| (k.to_string(), Rc::new(Shape::of_cel(v)))).collect())
            }
            _ => Shape::Scalar,
        }
    }

    /// Whichever of two is larger, in every part.
    fn or(self, other: Shape) -> Shape {
        let both = |a: Rc<Shape>, b: Rc<Shape>| Rc::new(Shape::clone(&a).or(Shape::clone(&b)));
        match (self, other) {
            (Shape::Scalar, Shape::Scalar) => Shape::Scalar,
            (Shape::Text(a), Shape::Text(b)) => Shape::Text(a.max(b)),
            (Shape::List(n, a), Shape::List(m, b)) => Shape::List(n.max(m), both(a, b)),
            (Shape::Map(n, k, a), Shape::Map(m, l, b)) => Shape::Map(n.max(m), both(k, l), both(a, b)),
            (Shape::Object(mut a), Shape::Object(b)) => {
                for (name, of) in b {
                    let merged = a.get(&name).map(|old| both(old.clone(), of.clone())).unwrap_or(of);
                    a.insert(name, merged);
                }
                Shape::Object(a)
            }
            // What is null in one place is something in another.
            (Shape::Declared, other) | (other, Shape::Declared) => other,
            (Shape::Scalar, other) | (other, Shape::Scalar) => other,
            (a, b) => Shape::Any(a.size().max(b.size())),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Shape::Scalar => 1,
            Shape::Declared => 0,
            Shape::Text(n) | Shape::List(n, _) | Shape::Map(n, ..) | Shape::Any(n) => *n,
            Shape::Object(fields) => fields.len() as u64,
        }
    }
}

/// What a part of an expression costs, and what it makes.
struct Part {
    cost: u64,
    shape: Rc<Shape>,
}

/// `size * share` hundredths, rounded up.
fn share(size: u64, share: u64) -> u64 {
    if size == u64::MAX { u64::MAX } else { size.saturating_mul(share).div_ceil(100) }
}

/// An upper bound of what an expression costs, given how large its variables may be. Of what else
/// it makes, `unknown` is taken to be the size.
pub fn bound(expression: &Syntax, variables: &[(&str, Rc<Shape>)], unknown: u64) -> u64 {
    Estimate::new(variables, unknown).of(expression).cost
}

/// The first field that an expression names and that what it is of does not declare.
pub fn undefined_field(expression: &Syntax, variables: &[(&str, Rc<Shape>)]) -> Option<String> {
    let mut estimate = Estimate::new(variables, u64::MAX);
    estimate.of(expression);
    estimate.undefined
}

struct Estimate {
    variables: Vec<(String, Rc<Shape>)>,
    unknown: u64,
    depth: usize,
    undefined: Option<String>,
}

impl Estimate {
    fn new(variables: &[(&str, Rc<Shape>)], unknown: u64) -> Estimate {
        let variables = variables.iter().map(|(n, s)| ((*n).to_owned(), s.clone())).collect();
        Estimate { variables, unknown, depth: 0, undefined: None }
    }

    fn any(&self) -> Rc<Shape> {
        Rc::new(Shape::Any(self.unknown))
    }

    fn of(&mut self, e: &Syntax) -> Part {
        if self.depth > DEPTH {
            return Part { cost: u64::MAX, shape: self.any() };
        }
        self.depth += 1;
        let part = self.node(&e.expr);
        self.depth -= 1;
        part
    }

    fn sum<'e>(&mut self, parts: impl Iterator<Item = &'e Syntax>) -> u64 {
        parts.fold(0, |sum: u64, e| sum.saturating_add(self.of(e).cost))
    }

    fn node(&mut self, e: &Expr) -> Part {
        let scalar = Rc::new(Shape::Scalar);
        match e {
            Expr::Unspecified => Part { cost: 0, shape: scalar },
            Expr::Literal(LiteralValue::String(s)) => {
                Part { cost: 0, shape: Rc::new(Shape::Text(s.inner().len() as u64)) }
            }
            Expr::Literal(LiteralValue::Bytes(b)) => {
                Part { cost: 0, shape: Rc::new(Shape::Text(b.inner().len() as u64)) }
            }
            Expr::Literal(_) => Part { cost: 0, shape: scalar },
            Expr::Ident(name) => {
                let known = self.variables.iter().rev().find(|(n, _)| n == name).map(|(_, s)| s.clone());
                Part { cost: 1, shape: known.unwrap_or_else(|| self.any()) }
            }
            Expr::Select(select) => {
                let operand = self.of(&select.operand);
                let cost = operand.cost.saturating_add(1);
                let field = self.declared(&operand.shape, &select.field);
                Part { cost, shape: if select.test { scalar } else { field } }
            }
            Expr::List(list) => {
                let parts: Vec<Part> = list.elements.iter().map(|e| self.of(e)).collect();
                let cost = parts.iter().fold(NEW_LIST, |sum, p| sum.saturating_add(p.cost));
                let item = parts.iter().map(|p| Shape::clone(&p.shape)).reduce(Shape::or).unwrap_or(Shape::Scalar);
                Part { cost, shape: Rc::new(Shape::List(parts.len() as u64, Rc::new(item))) }
            }
            Expr::Map(map) => {
                let cost = self.sum(map.entries.iter().flat_map(|e| super::parts(&e.expr)));
                let shape = Rc::new(Shape::Map(map.entries.len() as u64, self.any(), self.any()));
                Part { cost: cost.saturating_add(NEW_MAP), shape }
            }
            Expr::Struct(fields) => {
                let values = fields.entries.iter().filter_map(|e| match &e.expr {
                    EntryExpr::StructField(f) => Some(&f.value),
                    EntryExpr::MapEntry(_) => None,
                });
                let cost = self.sum(values).saturating_add(NEW_OBJECT);
                Part { cost, shape: self.any() }
            }
            Expr::Comprehension(c) => self.comprehension(c),
            Expr::Call(call) => self.call(call),
        }
    }

    /// What a field is; one that an object does not have is noted.
    fn declared(&mut self, of: &Shape, name: &str) -> Rc<Shape> {
        if let Shape::Object(fields) = of
            && !fields.contains_key(name)
            && !fields.keys().any(|k| escaped(k) == name)
        {
            self.undefined.get_or_insert_with(|| name.to_owned());
        }
        self.field(of, Some(name))
    }

    /// What a field, or an entry of an unknown name, is.
    fn field(&self, of: &Shape, name: Option<&str>) -> Rc<Shape> {
        match (of, name) {
            (Shape::Object(fields), Some(name)) => {
                let known =
                    fields.get(name).or_else(|| fields.iter().find(|(k, _)| escaped(k) == name).map(|(_, s)| s));
                known.cloned().unwrap_or_else(|| self.any())
            }
            (Shape::Object(fields), None) => {
                let all = fields.values().map(|s| Shape::clone(s)).reduce(Shape::or);
                all.map_or_else(|| self.any(), Rc::new)
            }
            (Shape::List(_, item), None) => item.clone(),
            (Shape::Map(_, _, value), _) => value.clone(),
            _ => self.any(),
        }
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Part {
        let range = self.of(&c.iter_range);
        let start = self.of(&c.accu_init);
        let outer = self.variables.len();
        let (first, second) = match &*range.shape {
            Shape::List(_, item) => (item.clone(), item.clone()),
            Shape::Map(_, key, value) => (key.clone(), value.clone()),
            Shape::Object(fields) => {
                let longest = fields.keys().map(String::len).max().unwrap_or_default();
                (Rc::new(Shape::Text(longest as u64)), self.field(&range.shape, None))
            }
            _ => (self.any(), self.any()),
        };
        self.variables.push((c.iter_var.clone(), first));
        if let Some(name) = &c.iter_var2 {
            self.variables.push((name.clone(), second));
        }
        self.variables.push((c.accu_var.clone(), start.shape.clone()));
        let round = self.of(&c.loop_cond).cost;
        let step = self.of(&c.loop_step);
        // What a round makes is what the next and the result begin with.
        let made = match &*step.shape {
            Shape::List(_, item) => Rc::new(Shape::List(range.shape.size(), item.clone())),
            _ => step.shape.clone(),
        };
        if let Some(last) = self.variables.last_mut() {
            last.1 = made;
        }
        let result = self.of(&c.result);
        self.variables.truncate(outer);
        let rounds = range.shape.size().saturating_mul(round.saturating_add(step.cost));
        let cost = [start.cost, result.cost, rounds].iter().fold(range.cost, |sum, c| sum.saturating_add(*c));
        Part { cost, shape: result.shape }
    }

    fn call(&mut self, call: &CallExpr) -> Part {
        // `a.f(b)` and `f(a, b)` are the same.
        let parts: Vec<Part> = call.target.iter().map(|t| &**t).chain(&call.args).map(|e| self.of(e)).collect();
        if let (operators::CONDITIONAL, [condition, yes, no]) = (call.func_name.as_str(), parts.as_slice()) {
            // Only one of the two is evaluated.
            let cost = condition.cost.saturating_add(yes.cost.max(no.cost));
            return Part { cost, shape: Rc::new(Shape::clone(&yes.shape).or(Shape::clone(&no.shape))) };
        }
        match call.func_name.as_str() {
            "range" => return range(call),
            "format" => return self.format(call),
            _ => {}
        }
        let arguments = parts.iter().fold(0, |sum: u64, p| sum.saturating_add(p.cost));
        let (own, mut shape) = self.function(&call.func_name, &parts, call.target.is_some());
        if let (operators::OPT_SELECT | operators::OPT_INDEX, [of, _]) = (call.func_name.as_str(), parts.as_slice())
            && let Some(Expr::Literal(LiteralValue::String(name))) = call.args.last().map(|a| &a.expr)
        {
            shape = self.declared(&of.shape, name.inner());
        }
        Part { cost: arguments.saturating_add(own), shape }
    }

    /// `text.format(list)`: a precision in the text asks for so many digits.
    fn format(&mut self, call: &CallExpr) -> Part {
        let arguments = self.sum(call.args.iter());
        let literal = match call.target.as_ref().map(|t| &t.expr) {
            Some(Expr::Literal(LiteralValue::String(text))) => Some(text.inner().to_owned()),
            _ => None,
        };
        let of = call.target.iter().map(|t| self.of(t)).next();
        let size = of.as_ref().map_or(self.unknown, |p| p.shape.size());
        let made = match literal {
            Some(text) => text.split("%.").skip(1).fold(size, |sum, piece| {
                let digits: String = piece.chars().take_while(char::is_ascii_digit).collect();
                sum.saturating_add(digits.parse().unwrap_or(0))
            }),
            None => size.saturating_mul(PRECISION_MAX / 4),
        };
        let own = of.map_or(0, |p| p.cost).saturating_add(share(made, STRING));
        Part { cost: arguments.saturating_add(own), shape: self.any() }
    }

    /// What a function costs by itself, and what it makes.
    fn function(&self, name: &str, parts: &[Part], method: bool) -> (u64, Rc<Shape>) {
        let shape = |i: usize| parts.get(i).map_or_else(|| self.any(), |p| p.shape.clone());
        let size = |i: usize| shape(i).size();
        let scalar = || Rc::new(Shape::Scalar);
        let text = |n: u64| Rc::new(Shape::Text(n));
        match (name, method) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, _) => (0, scalar()),
            (operators::ADD, _) => match (&*shape(0), &*shape(1)) {
                (Shape::List(n, a), Shape::List(m, b)) => {
                    let item = Shape::clone(a).or(Shape::clone(b));
                    (1, Rc::new(Shape::List(n.saturating_add(*m), Rc::new(item))))
                }
                (Shape::Scalar | Shape::Declared, Shape::Scalar | Shape::Declared) => (1, scalar()),
                (Shape::Any(_), Shape::List(_, item)) => (1, Rc::new(Shape::List(self.unknown, item.clone()))),
                _ => {
                    let n = size(0).saturating_add(size(1));
                    (share(n, STRING), text(n))
                }
            },
            (
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                _,
            ) => (share(size(0).min(size(1)), STRING), scalar()),
            (operators::IN, _) => match &*shape(1) {
                Shape::List(n, _) | Shape::Any(n) => (*n, scalar()),
                _ => (1, scalar()),
            },
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, _) => (1, self.field(&shape(0), None)),
            ("startsWith" | "endsWith", true) => (share(size(1), STRING), scalar()),
            ("contains", true) => (share(size(0), STRING).saturating_mul(share(size(1), STRING)), scalar()),
            ("matches", _) => {
                let subject = share(size(0).saturating_add(1), STRING);
                (subject.saturating_mul(share(size(1), REGEX)), scalar())
            }
            ("find" | "findAll", true) => {
                let subject = share(size(0).saturating_add(1), STRING);
                let made = if name == "find" { text(size(0)) } else { Rc::new(Shape::List(size(0), text(size(0)))) };
                (subject.saturating_mul(share(size(1), REGEX)), made)
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", true) => match &*shape(0) {
                Shape::List(n, item) => {
                    let each = if let Shape::Text(m) = &**item { 1_u64.saturating_add(share(*m, STRING)) } else { 1 };
                    let made = if matches!(name, "max" | "min") { item.clone() } else { scalar() };
                    (n.saturating_mul(each), made)
                }
                other => (share(other.size(), STRING), scalar()),
            },
            ("url", false) => (share(size(0), STRING), scalar()),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", true) => (share(size(0), STRING), text(size(0))),
            ("replace", true) => {
                let n = size(0).saturating_add(1).saturating_mul(size(2)).saturating_add(size(0));
                (share(size(0), 2 * STRING), text(n))
            }
            ("split", true) => (share(size(0), 2 * STRING), Rc::new(Shape::List(size(0), text(size(0))))),
            ("join", true) => {
                let item = if let Shape::List(_, item) = &*shape(0) { item.size() } else { self.unknown };
                let separator = if parts.len() > 1 { size(1) } else { 0 };
                let n =
                    size(0).saturating_mul(item).saturating_add(separator.saturating_mul(size(0).saturating_sub(1)));
                (share(n, STRING), text(n))
            }
            ("bytes", _) => (share(size(0), STRING), self.any()),
            ("string", false) if matches!(&*shape(0), Shape::Text(_)) => (share(size(0), STRING), shape(0)),
            ("orValue" | "or", true) => (1, Rc::new(Shape::clone(&shape(0)).or(Shape::clone(&shape(1))))),
            ("value", true) => (1, shape(0)),
            ("dyn" | "of" | "ofNonZeroValue", _) => (1, parts.last().map_or_else(|| self.any(), |p| p.shape.clone())),
            ("string" | "charAt", _) => (1, self.any()),
            ("check", true) => (CHECK, scalar()),
            _ => (1, scalar()),
        }
    }
}

/// `lists.range(n)`: a list of `n` numbers. What is not known here cannot be held to a limit.
fn range(call: &CallExpr) -> Part {
    let n = match call.args.last().map(|a| &a.expr) {
        Some(Expr::Literal(LiteralValue::Int(n))) => (*n.inner()).max(0).unsigned_abs(),
        _ => u64::MAX,
    };
    Part { cost: n.saturating_add(NEW_LIST), shape: Rc::new(Shape::List(n, Rc::new(Shape::Scalar))) }
}

/// Words that mean something in an expression.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// How a field is named where its own name cannot stand in an expression.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use kube_cel::cel::parser::Parser;
    use serde_json::json;

    use super::*;

    fn cost(text: &str, own: Shape) -> u64 {
        let syntax = Parser::new().enable_optional_syntax(true).parse(text).unwrap();
        bound(&syntax, &[("self", Rc::new(own))], u64::MAX)
    }

    #[test]
    fn parts_cost_what_upstream_says() {
        let of = |v: Json| Shape::of_value(&v);
        let o = of(json!({"s": "x".repeat(100), "n": 1, "l": [1, 2, 3], "m": ["aa", "bbbb"]}));
        for (text, wanted) in [
            ("true", 0),
            ("self.n", 2),
            ("self.n + 1", 3),
            ("self.n == 1 && self.n == 2", 6),
            ("has(self.n)", 2),
            ("[1, 2, 3]", 10),
            ("{'a': 1}", 30),
            ("self.s == 'abc'", 3),
            ("self.s.startsWith('abc')", 3),
            ("self.s.contains('abc')", 2 + 10),
            ("self.s.matches('[a-z]{4}')", 2 + 11 * 2),
            ("self.n > 0 ? self.s + 'a' : 'b'", 3 + 2 + 11),
            ("self.n in self.l", 4 + 3),
            ("self.l.size()", 3),
            // Each round: the condition, the accumulator, the predicate.
            ("self.l.all(x, x == 1)", 2 + 3 * (2 + 1 + 2) + 1),
            ("self.m.all(x, x == 'abc')", 2 + 2 * (2 + 1 + 2) + 1),
            ("self.l.isSorted()", 2 + 3),
        ] {
            assert_eq!(cost(text, o.clone()), wanted, "{text}");
        }
    }

    #[test]
    fn what_has_no_bound_costs_without_bound() {
        let list = Shape::List(1_000_000, Rc::new(Shape::Text(u64::MAX)));
        assert!(cost("self.all(a, self.all(b, a == b))", list.clone()) > 1_000_000_000_000);
        assert_eq!(cost("self.map(a, a + a).all(a, a.contains(a))", list), u64::MAX);
        let optional = "self.?l.orValue([]).all(a, a > 2)";
        assert!(cost(optional, Shape::of_value(&json!({"l": [1, 2]}))) < 100);
        assert!(cost("self.filter(a, a > 1).all(a, a > 2)", Shape::List(10, Rc::new(Shape::Scalar))) < 1000);
    }
}
