//! Expressions of admission: match conditions and validations in CEL, with upstream's libraries
//! (<https://kubernetes.io/docs/reference/using-api/cel/>).
//!
//! Objects are bound as they are, without types: keys are not escaped, numbers are `int` where
//! they have no fraction. There is no `type()`. What one evaluation may cost is
//! limited ([`cost`]); there is no budget for all of a policy.

pub mod authorizer;
pub mod cost;
pub(crate) mod guard;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{EntryExpr, Expr, operators};
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::parser::{Expression as Syntax, Parser};
use kube_cel::cel::{Context, ExecutionError, Value};
use serde_json::Value as Json;

use self::authorizer::{Questions, ResourceCheck};

/// What every expression of admission may use.
const ALWAYS: [&str; 3] = ["object", "oldObject", "request"];
/// The size of what an expression is about, when nothing is known of it.
const USUAL: u64 = 1000;
const TYPES: [&str; 12] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "optional_type", "string", "type", "uint"];
const NAMESPACES: [&str; 11] =
    ["base64", "cel", "cidr", "format", "ip", "lists", "math", "optional", "sets", "strings", "google"];

/// A compiled expression.
pub struct Expression {
    syntax: Syntax,
    text: String,
    /// Whether it may cost more than one evaluation may.
    costly: bool,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

impl Expression {
    /// Compiles an expression that may use the `declared` variables beside `object`, `oldObject`
    /// and `request`.
    ///
    /// # Errors
    /// Why it does not compile.
    pub fn compile(text: &str, declared: &[&str]) -> Result<Expression, String> {
        let mut syntax = guard::parse(text).map_err(|e| format!("compilation failed: {e}"))?;
        normalize(&mut syntax);
        let mut bound: Vec<&str> = ALWAYS.iter().chain(declared).chain(&TYPES).copied().collect();
        match undeclared(&syntax, &mut bound) {
            Some(name) => Err(format!("compilation failed: undeclared reference to '{name}' (in container '')")),
            None => Ok(()),
        }?;
        let costly = cost::bound(&syntax, &[], USUAL) > cost::CALL_LIMIT;
        Ok(Expression { syntax, text: text.to_owned(), costly })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// In upstream's words, when it cannot be evaluated or is no truth value.
    pub fn holds(&self, environment: &Environment) -> Result<bool, String> {
        match self.evaluate(environment)? {
            Value::Bool(b) => Ok(b),
            other => Err(self.failure(&format!("it evaluates to {}, not to bool", other.type_of()))),
        }
    }

    /// The text that it makes.
    ///
    /// # Errors
    /// In upstream's words, when it cannot be evaluated or is no string.
    pub fn string(&self, environment: &Environment) -> Result<String, String> {
        match self.evaluate(environment)? {
            Value::String(s) => Ok(s.as_ref().clone()),
            other => Err(self.failure(&format!("it evaluates to {}, not to string", other.type_of()))),
        }
    }

    /// What it is, as JSON.
    ///
    /// # Errors
    /// In upstream's words, when it cannot be evaluated or is nothing that JSON has.
    pub fn json(&self, environment: &Environment) -> Result<Json, String> {
        let value = self.evaluate(environment)?;
        json_of(&value).ok_or_else(|| self.failure(&format!("it evaluates to {}, which is no JSON", value.type_of())))
    }

    fn evaluate(&self, environment: &Environment) -> Result<Value, String> {
        if self.costly && environment.bound(&self.syntax) > cost::CALL_LIMIT {
            return Err(self.failure("operation cancelled: actual cost limit exceeded"));
        }
        let evaluated = guard::caught(|| environment.context.resolve(&self.syntax)).map_err(|e| self.failure(&e))?;
        evaluated.map_err(|e| self.failure(&environment.reason(&e)))
    }

    fn failure(&self, why: &str) -> String {
        format!("expression '{}' resulted in error: {why}", self.text)
    }
}

/// Makes `a.?b` of a tree `a[?'b']`, which is the same: the interpreter fails where `a` has no `b`
/// in the first form only. Makes `authorizer.requestResource` one name: an authorizer has no fields.
fn normalize(syntax: &mut Syntax) {
    match &mut syntax.expr {
        Expr::Call(call) => {
            if call.func_name == operators::OPT_SELECT {
                call.func_name = operators::OPT_INDEX.to_owned();
            }
            call.target.iter_mut().for_each(|t| normalize(t));
            call.args.iter_mut().for_each(normalize);
        }
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(name) if format!("{name}.{}", select.field) == authorizer::REQUEST_RESOURCE => {
                syntax.expr = Expr::Ident(authorizer::REQUEST_RESOURCE.to_owned());
            }
            _ => normalize(&mut select.operand),
        },
        Expr::List(list) => list.elements.iter_mut().for_each(normalize),
        Expr::Map(map) => map.entries.iter_mut().for_each(|e| index_entry(&mut e.expr)),
        Expr::Struct(fields) => fields.entries.iter_mut().for_each(|e| index_entry(&mut e.expr)),
        Expr::Comprehension(c) => {
            for part in [&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result] {
                normalize(part);
            }
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

fn index_entry(entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(f) => normalize(&mut f.value),
        EntryExpr::MapEntry(e) => {
            normalize(&mut e.key);
            normalize(&mut e.value);
        }
    }
}

/// The first name that nothing binds. What a function is called on may be its namespace.
fn undeclared<'s>(syntax: &'s Syntax, bound: &mut Vec<&'s str>) -> Option<&'s str> {
    match &syntax.expr {
        Expr::Ident(name) => (!bound.contains(&name.as_str())).then_some(name),
        Expr::Select(select) => undeclared(&select.operand, bound),
        Expr::Call(call) => {
            let target = call.target.iter().map(|t| &**t).filter(|t| !is_namespace(t));
            target.chain(&call.args).find_map(|part| undeclared(part, bound))
        }
        Expr::List(list) => list.elements.iter().find_map(|e| undeclared(e, bound)),
        Expr::Map(map) => map.entries.iter().flat_map(|e| parts(&e.expr)).find_map(|e| undeclared(e, bound)),
        Expr::Struct(fields) => fields.entries.iter().flat_map(|e| parts(&e.expr)).find_map(|e| undeclared(e, bound)),
        Expr::Comprehension(c) => {
            let outer = bound.len();
            if let Some(name) = [&c.iter_range, &c.accu_init].into_iter().find_map(|e| undeclared(e, bound)) {
                return Some(name);
            }
            bound.extend([c.iter_var.as_str(), c.accu_var.as_str()]);
            bound.extend(c.iter_var2.as_deref());
            let inner = [&c.loop_cond, &c.loop_step, &c.result].into_iter().find_map(|e| undeclared(e, bound));
            bound.truncate(outer);
            inner
        }
        Expr::Unspecified | Expr::Literal(_) => None,
    }
}

/// Whether a function that is called on this is one of a namespace, such as `math`.
fn is_namespace(target: &Syntax) -> bool {
    matches!(&target.expr, Expr::Ident(name) if NAMESPACES.contains(&name.as_str()))
}

fn parts(entry: &EntryExpr) -> Vec<&Syntax> {
    match entry {
        EntryExpr::StructField(f) => vec![&f.value],
        EntryExpr::MapEntry(e) => vec![&e.key, &e.value],
    }
}

/// What expressions see.
pub struct Environment {
    context: Context<'static>,
    variables: HashMap<Key, Value>,
    names: Vec<String>,
    /// Why variables have no value: told to those who use them.
    broken: HashMap<String, String>,
}

impl Default for Environment {
    fn default() -> Environment {
        Environment {
            context: Context::default().with_all(),
            variables: HashMap::new(),
            names: Vec::new(),
            broken: HashMap::new(),
        }
    }
}

impl Environment {
    /// Binds a variable.
    pub fn bind(&mut self, name: &str, value: &Json) {
        self.context.add_variable_from_value(name, value_of(value));
        self.names.push(name.to_owned());
    }

    /// Binds `authorizer`, whose questions and answers are kept there, and what
    /// `authorizer.requestResource` is about.
    pub fn authorize(&mut self, questions: Questions, own: ResourceCheck) {
        authorizer::bind(&mut self.context, questions, own);
    }

    /// Binds `variables.<name>` to what an expression is here. One that cannot be evaluated fails
    /// those who use it.
    pub fn define(&mut self, name: &str, expression: &Expression) {
        match expression.evaluate(self) {
            Ok(v) => {
                self.variables.insert(Key::String(Arc::new(name.to_owned())), v);
            }
            Err(e) => {
                self.broken.insert(name.to_owned(), e);
            }
        }
        let all = Value::Map(Map { map: Arc::new(self.variables.clone()) });
        self.context.add_variable_from_value("variables", all);
        self.names.push("variables".to_owned());
    }

    /// What an expression can cost here at most.
    fn bound(&self, syntax: &Syntax) -> u64 {
        let value = |name: &String| {
            let ident = Syntax { id: 0, expr: Expr::Ident(name.clone()) };
            self.context.resolve(&ident).map_or(cost::Shape::Scalar, |v| cost::Shape::of_cel(&v))
        };
        let variables: Vec<_> = self.names.iter().map(|n| (n.as_str(), Rc::new(value(n)))).collect();
        cost::bound(syntax, &variables, 1)
    }

    fn reason(&self, e: &ExecutionError) -> String {
        match e {
            ExecutionError::NoSuchKey(key) => match self.broken.get(key.as_str()) {
                Some(why) => format!("composited variable {key:?} fails to evaluate: {why}"),
                None => format!("no such key: {key}"),
            },
            ExecutionError::NoSuchOverload => "no such overload".to_owned(),
            ExecutionError::UndeclaredReference(name) => format!("undeclared reference to '{name}'"),
            other => other.to_string(),
        }
    }
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(u)) => Value::UInt(u),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::String(Arc::new(s.clone())),
        Json::Array(list) => Value::List(Arc::new(list.iter().map(value_of).collect())),
        Json::Object(map) => {
            let entries = map.iter().map(|(k, v)| (Key::String(Arc::new(k.clone())), value_of(v)));
            Value::Map(Map { map: Arc::new(entries.collect()) })
        }
    }
}

fn json_of(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(i) => (*i).into(),
        Value::UInt(u) => (*u).into(),
        Value::Float(f) => serde_json::Number::from_f64(*f)?.into(),
        Value::String(s) => s.as_str().into(),
        Value::List(list) => list.iter().map(json_of).collect::<Option<Vec<_>>>()?.into(),
        Value::Map(map) => {
            let entry = |(k, v): (&Key, &Value)| match k {
                Key::String(k) => Some((k.to_string(), json_of(v)?)),
                _ => None,
            };
            Json::Object(map.map.iter().map(entry).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(text: &str, object: &Json) -> Result<bool, String> {
        let mut e = Environment::default();
        e.bind("object", object);
        e.bind("oldObject", &Json::Null);
        Expression::compile(text, &[])?.holds(&e)
    }

    #[test]
    fn objects_are_bound_as_they_are() {
        let o = json!({"metadata": {"namespace": "a", "labels": {"app.kubernetes.io/name": "x", "a-b": "y"}},
            "spec": {"replicas": 3, "containers": [{"image": "a:1"}]}});
        for text in [
            "object.spec.replicas + 1 == 4",
            "object.metadata.labels['app.kubernetes.io/name'] == 'x' && object.metadata.labels['a-b'] == 'y'",
            "object.metadata.namespace == 'a'",
            "oldObject == null",
            "object.spec.containers.all(c, c.image.startsWith('a:'))",
            "!has(object.spec.paused)",
            "object.metadata.labels.exists(k, object.metadata.labels[k] == 'x')",
            "math.greatest(1, 2) == 2 && optional.of(1).orValue(2) == 1 && {'a': object.spec}.a.replicas == 3",
            "object.spec.?paused.orValue(true)",
            "object.?status.?phase.orValue('none') == 'none' && object.?spec.?replicas.orValue(0) == 3",
            "object.spec.containers.all(c, c.?command.orValue([]).size() == 0)",
            "quantity('1Gi').isGreaterThan(quantity('1Mi'))",
        ] {
            assert_eq!(holds(text, &o), Ok(true), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_says_why() {
        let said = |text| holds(text, &json!({})).unwrap_err();
        assert_eq!(said("object.a == 1"), "expression 'object.a == 1' resulted in error: no such key: a");
        assert!(said("object.a ==").starts_with("compilation failed: "));
        assert!(said("authorizer.path('/x').check('get').allowed()").contains("undeclared reference to 'authorizer'"));
        assert!(said("params.a == 1").contains("undeclared reference to 'params'"));
        assert!(said("object.a.exists(x, y == x)").contains("undeclared reference to 'y'"));
        assert!(said("[1].exists(x, x == 1) && x == 1").contains("undeclared reference to 'x'"));
        assert!(said("1").ends_with("it evaluates to int, not to bool"));
    }

    #[test]
    fn what_costs_too_much_is_not_evaluated() {
        let nested = "object.l.all(a, object.l.all(b, a == b))";
        assert_eq!(holds(nested, &json!({"l": vec![1; 50]})), Ok(true));
        let said = holds(nested, &json!({"l": vec![1; 1000]})).unwrap_err();
        assert!(said.ends_with("resulted in error: operation cancelled: actual cost limit exceeded"), "{said}");
    }

    #[test]
    fn a_broken_variable_fails_those_who_use_it() {
        let mut e = Environment::default();
        e.bind("object", &json!({"n": 2}));
        let make = |t: &str| Expression::compile(t, &["variables"]).unwrap();
        e.define("twice", &make("object.n * 2"));
        e.define("more", &make("variables.twice + 1"));
        e.define("broken", &make("object.absent"));
        assert_eq!(make("variables.more == 5").holds(&e), Ok(true));
        let said = make("variables.broken == 5").holds(&e).unwrap_err();
        assert!(said.contains("composited variable \"broken\" fails to evaluate"), "{said}");
    }
}

#[cfg(test)]
mod fuzz_tests;
