//! A policy, compiled, and what it finds wrong with a write.

use api::cel::authorizer::NAMES;
use api::cel::{Environment, Expression};
use api::{Object, Status};
use serde::Deserialize;
use serde_json::Value;

use super::super::dynamic::conditions::{self, Conditions};
use super::super::dynamic::matching::{self, Matching};

/// The longest value of an annotation, in bytes.
const VALUE_MAX: usize = 10 << 10;
const DECLARED: [&str; 5] = [NAMES[0], NAMES[1], "params", "namespaceObject", "variables"];

#[derive(Deserialize)]
struct Stored {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    param_kind: Option<ParamKind>,
    #[serde(default)]
    match_constraints: matching::Declared,
    #[serde(default)]
    match_conditions: Vec<conditions::Declared>,
    #[serde(default)]
    variables: Vec<Named>,
    #[serde(default)]
    validations: Vec<Declared>,
    #[serde(default)]
    audit_annotations: Vec<DeclaredAnnotation>,
    #[serde(default)]
    failure_policy: String,
}

/// The kind of the objects that a policy is parameterized with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParamKind {
    pub(super) api_version: String,
    pub(super) kind: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Declared {
    expression: String,
    #[serde(default)]
    message: String,
    message_expression: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeclaredAnnotation {
    key: String,
    value_expression: String,
}

/// One rule.
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// See the module.
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) param_kind: Option<ParamKind>,
    pub(super) matching: Matching,
    pub(super) ignores_failures: bool,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// Something that is wrong with a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Which of the policy's rules it is of.
    pub(super) expression: usize,
    pub(super) message: String,
    pub(super) reason: String,
}

/// What a policy says of a write.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What is wrong with it: the binding decides what follows.
    pub(super) findings: Vec<Finding>,
    /// What is to stand in the record of the request, by the policy's keys.
    pub(super) annotations: Vec<(String, String)>,
    /// What could not be said: the write is refused, whatever the binding says.
    pub(super) errors: Vec<Finding>,
}

impl From<Finding> for Verdict {
    fn from(finding: Finding) -> Verdict {
        Verdict { findings: vec![finding], ..Verdict::default() }
    }
}

impl Finding {
    /// That a rule could not be asked.
    pub(super) fn error(message: String) -> Finding {
        Finding { expression: 0, message, reason: "Invalid".to_owned() }
    }
}

impl Policy {
    /// Compiles a stored policy.
    pub(super) fn new(object: &Object) -> Result<Policy, Status> {
        let name = object.meta().name.to_owned();
        let failed = |e: &dyn std::fmt::Display| Status::internal(format!("ValidatingAdmissionPolicy {name:?}: {e}"));
        let stored: Stored = serde_json::from_value(object.to_value()).map_err(|e| failed(&e))?;
        let spec = stored.spec;
        let compile = |text: &str| Expression::compile(text.trim(), &DECLARED).map_err(|e| failed(&e));
        let validation = |d: &Declared| -> Result<Validation, Status> {
            Ok(Validation {
                expression: compile(&d.expression)?,
                message: d.message.trim().to_owned(),
                message_expression: d.message_expression.as_deref().map(compile).transpose()?,
                reason: d.reason.clone().unwrap_or_else(|| "Invalid".to_owned()),
            })
        };
        let annotation = |a: &DeclaredAnnotation| Ok((a.key.clone(), compile(&a.value_expression)?));
        let variables = spec.variables.iter().map(|v| Ok((v.name.clone(), compile(&v.expression)?)));
        Ok(Policy {
            conditions: Conditions::new(&spec.match_conditions, &DECLARED[..4]).map_err(|e| failed(&e))?,
            variables: variables.collect::<Result<_, Status>>()?,
            validations: spec.validations.iter().map(validation).collect::<Result<_, _>>()?,
            annotations: spec.audit_annotations.iter().map(annotation).collect::<Result<_, Status>>()?,
            matching: Matching::new(spec.match_constraints)?,
            ignores_failures: spec.failure_policy == "Ignore",
            param_kind: spec.param_kind,
            name,
        })
    }

    /// What it says, with one parameter bound.
    pub(super) fn judge(&self, environment: &mut Environment) -> Verdict {
        match self.conditions.hold(environment) {
            Ok(true) => {}
            Ok(false) => return Verdict::default(),
            Err(_) if self.ignores_failures => return Verdict::default(),
            Err(why) => return Finding::error(why).into(),
        }
        for (name, expression) in &self.variables {
            environment.define(name, expression);
        }
        let found = |(i, v)| Some(Finding { expression: i, ..self.finding(v, environment)? });
        let findings = self.validations.iter().enumerate().filter_map(found).collect();
        let mut verdict = Verdict { findings, ..Verdict::default() };
        for (key, expression) in &self.annotations {
            match annotation(expression, environment) {
                Ok(value) => verdict.annotations.extend(value.map(|v| (key.clone(), v))),
                Err(_) if self.ignores_failures => {}
                Err(why) => verdict.errors.push(Finding::error(why)),
            }
        }
        verdict
    }

    fn finding(&self, v: &Validation, environment: &Environment) -> Option<Finding> {
        match v.expression.holds(environment) {
            Ok(true) => None,
            Ok(false) => Some(Finding { expression: 0, message: v.told(environment), reason: v.reason.clone() }),
            Err(_) if self.ignores_failures => None,
            Err(why) => Some(Finding::error(why)),
        }
    }
}

/// The value of an annotation; none for null and for what is blank.
fn annotation(expression: &Expression, environment: &Environment) -> Result<Option<String>, String> {
    let value = match expression.json(environment)? {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        other => {
            let text = expression.text();
            return Err(format!(
                "valueExpression '{text}' resulted in unsupported return type: {}. Return type must be either string or null.",
                type_name(&other)
            ));
        }
    };
    let mut value = value.trim();
    if value.len() > VALUE_MAX {
        let end = (0..=VALUE_MAX).rev().find(|i| value.is_char_boundary(*i));
        value = &value[..end.unwrap_or_default()];
    }
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// How CEL calls the type of a value that is neither null nor a string.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "double",
        Value::Number(_) => "int",
        Value::Array(_) => "list",
        _ => "map",
    }
}

impl Validation {
    /// What is said when it does not hold. A message that cannot be made is not worth a failure.
    fn told(&self, environment: &Environment) -> String {
        let made = self.message_expression.as_ref().and_then(|m| m.string(environment).ok());
        let made = made.map(|m| m.trim().to_owned()).filter(|m| !m.is_empty() && !m.contains('\n'));
        match made {
            Some(m) => m,
            None if self.message.is_empty() => format!("failed expression: {}", self.expression.text()),
            None => self.message.clone(),
        }
    }
}
