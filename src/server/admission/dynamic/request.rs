//! The AdmissionRequest: what webhooks are sent and expressions call `request`.

use std::borrow::Cow;

use api::cel::Environment;
use api::cel::authorizer::{Questions, ResourceCheck};
use api::schema::{Schemas, TypeRef};
use api::{Resource, Subresource};
use serde_json::{Map, Value, json};

use super::super::Attributes;
use super::matching::Shown;
use crate::registry::served;
use crate::request::User;

/// A write as one webhook or policy sees it.
pub(crate) struct Request<'a> {
    pub(crate) attributes: &'a Attributes<'a>,
    pub(crate) shown: Shown,
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
}

/// Group, version and kind of what a write of a subresource carries.
fn kind_of<'a>(resource: &'a Resource, subresource: &str) -> [&'a str; 3] {
    match resource.subresource(subresource) {
        Some(Subresource::Other { group, version, kind, .. }) => [group, version, kind],
        Some(Subresource::Scale { .. }) => ["autoscaling", "v1", "Scale"],
        _ => [&resource.group, &resource.version, &resource.kind],
    }
}

/// Whether a write of a subresource carries the object itself, of which versions are made.
pub(crate) fn carries_object(resource: &Resource, subresource: &str) -> bool {
    subresource.is_empty()
        || matches!(resource.subresource(subresource), Some(Subresource::Status | Subresource::Aspect(_)))
}

/// The type of what a write carries; `None` for the options of a connection, which have none.
pub(crate) fn type_of(resource: &Resource, subresource: &str) -> Option<TypeRef> {
    if carries_object(resource, subresource) {
        return Some(resource.schema.clone());
    }
    let [group, version, kind] = kind_of(resource, subresource);
    Schemas::builtin().type_of(group, version, kind)
}

impl Request<'_> {
    fn in_version<'v>(&self, object: Option<&'v Value>) -> Option<Cow<'v, Value>> {
        let a = self.attributes;
        let object = object?;
        if carries_object(a.resource, a.subresource) {
            return Some(served(self.shown.resource(a), object));
        }
        Some(Cow::Borrowed(object))
    }

    /// The object in the version that is shown.
    pub(crate) fn object(&self) -> Option<Cow<'_, Value>> {
        match &self.shown {
            Shown::Converted(_, object, _) => object.as_ref().map(Cow::Borrowed),
            _ => self.in_version(self.object),
        }
    }

    /// What it was before, in the version that is shown.
    fn old(&self) -> Option<Cow<'_, Value>> {
        match &self.shown {
            Shown::Converted(_, _, old) => old.as_ref().map(Cow::Borrowed),
            _ => self.in_version(self.old),
        }
    }

    /// The request without the objects.
    pub(crate) fn describe(&self) -> Value {
        let a = self.attributes;
        let kind = |r: &Resource| {
            let [group, version, kind] = kind_of(r, a.subresource);
            json!({"group": group, "version": version, "kind": kind})
        };
        let resource = |r: &Resource| json!({"group": r.group, "version": r.version, "resource": r.plural});
        let shown = self.shown.resource(a);
        let mut request = json!({
            "kind": kind(shown), "resource": resource(shown),
            "requestKind": kind(a.resource), "requestResource": resource(a.resource),
            "operation": a.operation.to_string(), "userInfo": user_info(a.user),
            "dryRun": a.dry_run,
            "options": if a.options.is_null() { Value::Null } else { a.options.clone() },
        });
        for (field, value) in [("name", a.name), ("namespace", a.namespace)] {
            if !value.is_empty() {
                request[field] = value.into();
            }
        }
        if !a.subresource.is_empty() {
            request["subResource"] = a.subresource.into();
            request["requestSubResource"] = a.subresource.into();
        }
        request
    }

    /// The whole request, as it is sent.
    pub(crate) fn to_value(&self, uid: &str) -> Value {
        let mut request = self.describe();
        request["uid"] = uid.into();
        request["object"] = self.object().map_or(Value::Null, Cow::into_owned);
        request["oldObject"] = self.old().map_or(Value::Null, Cow::into_owned);
        request
    }

    /// What expressions see of it; their questions to the authorizers are kept there.
    pub(crate) fn environment(&self, questions: &Questions) -> Environment {
        let a = self.attributes;
        let mut environment = Environment::default();
        let own = ResourceCheck {
            group: a.resource.group.clone(),
            resource: a.resource.plural.clone(),
            subresource: a.subresource.to_owned(),
            namespace: a.namespace.to_owned(),
            name: a.name.to_owned(),
            ..Default::default()
        };
        environment.authorize(questions.clone(), own);
        environment.bind("object", self.object().as_deref().unwrap_or(&Value::Null));
        environment.bind("oldObject", self.old().as_deref().unwrap_or(&Value::Null));
        let mut request = self.describe();
        // Fields that are strings are never absent for an expression.
        for field in ["name", "namespace", "subResource", "requestSubResource"] {
            if request[field].is_null() {
                request[field] = "".into();
            }
        }
        environment.bind("request", &request);
        environment
    }
}

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.clone().into());
    info.insert("groups".into(), json!(user.groups));
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.clone().into());
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    info.into()
}
