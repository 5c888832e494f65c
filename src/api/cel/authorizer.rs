//! `authorizer` of expressions: may the one who makes the request, or a service account, do
//! something (<https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-authorizer-library>).
//!
//! Expressions are evaluated without waiting, while who decides may be far away. So a question
//! without an answer stops the evaluation and is kept in [`Questions`]; whoever evaluates has it
//! answered and evaluates again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube_cel::cel::extractors::This;
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, ExecutionError, Value};

use crate::names;

/// The names that an expression may use where it may ask.
pub const NAMES: [&str; 2] = ["authorizer", REQUEST_RESOURCE];
/// What `authorizer.requestResource` is bound as.
pub(super) const REQUEST_RESOURCE: &str = "authorizer.requestResource";

/// What somebody would do it to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceCheck {
    /// API group.
    pub group: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace; empty for cluster scope or all.
    pub namespace: String,
    /// Name; empty for all.
    pub name: String,
    /// Field selector of a list, watch or deletion of many.
    pub field_selector: String,
    /// Label selector of the same.
    pub label_selector: String,
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A path that is no resource's.
    Path(String),
    /// A resource.
    Resource(ResourceCheck),
}

/// A question of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Namespace and name of a service account; `None` for the one who makes the request.
    pub service_account: Option<(String, String)>,
    /// What about.
    pub target: Target,
    /// What would be done to it.
    pub verb: String,
}

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What kept authorizers from deciding; empty when nothing did.
    pub error: String,
}

/// The questions that were asked for one evaluation, answered and open.
#[derive(Clone, Debug, Default)]
pub struct Questions(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    answers: HashMap<Question, Decision>,
    open: Vec<Question>,
}

impl Questions {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the questions without an answer.
    pub fn take_open(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked().open)
    }

    /// Answers a question: the next evaluation finds it.
    pub fn answer(&self, question: Question, decision: Decision) {
        self.asked().answers.insert(question, decision);
    }

    fn ask(&self, question: Question) -> Option<Decision> {
        let mut asked = self.asked();
        let known = asked.answers.get(&question).cloned();
        if known.is_none() && !asked.open.contains(&question) {
            asked.open.push(question);
        }
        known
    }
}

/// What expressions build up, call by call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    /// `authorizer`, `authorizer.serviceAccount(…)`.
    Somebody { service_account: Option<(String, String)> },
    /// `.path(…)`, `.group(…).resource(…)`.
    Something { service_account: Option<(String, String)>, target: Target },
    /// `.group(…)`.
    Group { service_account: Option<(String, String)>, group: String },
}

impl Opaque for Check {
    fn runtime_type_name(&self) -> &str {
        match self {
            Check::Somebody { .. } => "kubernetes.authorization.Authorizer",
            Check::Group { .. } => "kubernetes.authorization.GroupCheck",
            Check::Something { target: Target::Path(_), .. } => "kubernetes.authorization.PathCheck",
            Check::Something { target: Target::Resource(_), .. } => "kubernetes.authorization.ResourceCheck",
        }
    }
}

impl Opaque for Decision {
    fn runtime_type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }
}

type Answer = Result<Value, ExecutionError>;
type Text = Arc<String>;

fn value(o: impl Opaque + 'static) -> Value {
    Value::Opaque(Arc::new(o))
}

fn failed(function: &str, message: &str) -> ExecutionError {
    ExecutionError::function_error(function, message)
}

fn check_of(v: &Value) -> Result<Check, ExecutionError> {
    match v {
        Value::Opaque(o) => o.downcast_ref::<Check>().cloned().ok_or(ExecutionError::NoSuchOverload),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn path(This(this): This<Value>, path: Text) -> Answer {
    match check_of(&this)? {
        Check::Somebody { .. } if path.is_empty() => Err(failed("path", "path must not be empty")),
        Check::Somebody { service_account } => {
            Ok(value(Check::Something { service_account, target: Target::Path(path.to_string()) }))
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn service_account(This(this): This<Value>, namespace: Text, name: Text) -> Answer {
    let Check::Somebody { .. } = check_of(&this)? else { return Err(ExecutionError::NoSuchOverload) };
    if names::dns1123_subdomain(&name).is_some() {
        return Err(failed("serviceAccount", "Invalid service account name"));
    }
    if names::dns1123_label(&namespace).is_some() {
        return Err(failed("serviceAccount", "Invalid service account namespace"));
    }
    Ok(value(Check::Somebody { service_account: Some((namespace.to_string(), name.to_string())) }))
}

fn group(This(this): This<Value>, group: Text) -> Answer {
    match check_of(&this)? {
        Check::Somebody { service_account } => Ok(value(Check::Group { service_account, group: group.to_string() })),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn resource(This(this): This<Value>, resource: Text) -> Answer {
    match check_of(&this)? {
        Check::Group { service_account, group } => {
            let check = ResourceCheck { group, resource: resource.to_string(), ..Default::default() };
            Ok(value(Check::Something { service_account, target: Target::Resource(check) }))
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// A function that narrows what is asked about.
fn narrowing(set: fn(&mut ResourceCheck, String)) -> impl Fn(This<Value>, Text) -> Answer {
    move |This(this), text| match check_of(&this)? {
        Check::Something { service_account, target: Target::Resource(mut check) } => {
            set(&mut check, text.to_string());
            Ok(value(Check::Something { service_account, target: Target::Resource(check) }))
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// A function that reads a decision.
fn reading<V: Into<Value>>(read: fn(&Decision) -> V) -> impl Fn(This<Value>) -> Answer {
    move |This(this)| match &this {
        Value::Opaque(o) => o.downcast_ref().map(|d| read(d).into()).ok_or(ExecutionError::NoSuchOverload),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// Binds `authorizer` and its functions; `own` is `authorizer.requestResource`.
pub(super) fn bind(context: &mut Context<'static>, questions: Questions, own: ResourceCheck) {
    let own = Check::Something { service_account: None, target: Target::Resource(own) };
    context.add_variable_from_value("authorizer", value(Check::Somebody { service_account: None }));
    context.add_variable_from_value(REQUEST_RESOURCE, value(own));
    context.add_function("path", path);
    context.add_function("serviceAccount", service_account);
    context.add_function("group", group);
    context.add_function("resource", resource);
    context.add_function("subresource", narrowing(|c, s| c.subresource = s));
    context.add_function("namespace", narrowing(|c, s| c.namespace = s));
    context.add_function("name", narrowing(|c, s| c.name = s));
    context.add_function("fieldSelector", narrowing(|c, s| c.field_selector = s));
    context.add_function("labelSelector", narrowing(|c, s| c.label_selector = s));
    context.add_function("check", move |This(this): This<Value>, verb: Text| -> Answer {
        let Check::Something { service_account, target } = check_of(&this)? else {
            return Err(ExecutionError::NoSuchOverload);
        };
        match questions.ask(Question { service_account, target, verb: verb.to_string() }) {
            Some(decision) => Ok(value(decision)),
            None => Err(failed("check", "nobody has decided yet")),
        }
    });
    context.add_function("allowed", reading(|d| d.allowed));
    context.add_function("reason", reading(|d| d.reason.clone()));
    context.add_function("errored", reading(|d| !d.error.is_empty()));
    context.add_function("error", reading(|d| d.error.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cel::{Environment, Expression};

    fn environment(questions: &Questions) -> Environment {
        let mut e = Environment::default();
        let own = ResourceCheck { resource: "pods".into(), namespace: "a".into(), ..Default::default() };
        e.authorize(questions.clone(), own);
        e
    }

    fn compiled(text: &str) -> Expression {
        Expression::compile(text, &NAMES).unwrap()
    }

    #[test]
    fn a_question_is_open_until_it_is_answered() {
        let questions = Questions::default();
        let text = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('a').name('b')\
                    .fieldSelector('metadata.name=b').labelSelector('x=y').check('list').allowed() \
                    && !authorizer.serviceAccount('a', 'b').path('/healthz').check('get').allowed()";
        let expression = compiled(text);
        let mut seen = Vec::new();
        let holds = loop {
            let result = expression.holds(&environment(&questions));
            let open = questions.take_open();
            if open.is_empty() {
                break result;
            }
            for question in open {
                let allowed = question.service_account.is_none();
                seen.push(question.clone());
                questions.answer(question, Decision { allowed, ..Default::default() });
            }
        };
        assert_eq!(holds, Ok(true));
        let check = ResourceCheck {
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            namespace: "a".into(),
            name: "b".into(),
            field_selector: "metadata.name=b".into(),
            label_selector: "x=y".into(),
        };
        assert!(seen.contains(&Question {
            service_account: None,
            target: Target::Resource(check),
            verb: "list".into()
        }));
        assert!(seen.contains(&Question {
            service_account: Some(("a".into(), "b".into())),
            target: Target::Path("/healthz".into()),
            verb: "get".into()
        }));
    }

    #[test]
    fn a_decision_says_why() {
        let questions = Questions::default();
        let target =
            Target::Resource(ResourceCheck { resource: "pods".into(), namespace: "a".into(), ..Default::default() });
        let question = Question { service_account: None, target, verb: "edit".into() };
        questions.answer(question, Decision { allowed: false, reason: "no".into(), error: "away".into() });
        let text = "authorizer.requestResource.check('edit').reason() == 'no' \
                    && authorizer.requestResource.check('edit').errored() \
                    && authorizer.requestResource.check('edit').error() == 'away'";
        // Three checks cost more than one evaluation may, as upstream counts them.
        assert!(compiled(text).holds(&environment(&questions)).unwrap_err().contains("cost limit exceeded"));
        for text in text.split("&&") {
            assert_eq!(compiled(text.trim()).holds(&environment(&questions)), Ok(true), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_asked_says_so() {
        let said = |text| compiled(text).holds(&environment(&Questions::default())).unwrap_err();
        assert!(said("authorizer.path('').check('get').allowed()").contains("path must not be empty"));
        assert!(said("authorizer.serviceAccount('a', 'B').path('/').check('get').allowed()").contains("account name"));
        assert!(said("authorizer.serviceAccount('A', 'b').path('/').check('get').allowed()").contains("namespace"));
        assert!(said("authorizer.group('').check('get').allowed()").contains("no such overload"));
        assert!(Expression::compile("authorizer.path('/').check('get').allowed()", &[]).is_err());
    }
}
