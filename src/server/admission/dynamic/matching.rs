//! Which writes a webhook or policy is about: rules, namespaces, labels
//! (upstream: `k8s.io/apiserver/pkg/admission/plugin/webhook/predicates`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use api::{Resource, Status};
use serde::Deserialize;
use serde_json::Value;

use super::super::{Attributes, Operation};
use super::request::carries_object;
use crate::{Server, storage};

/// Operations on resources.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    operations: Vec<String>,
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    scope: String,
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|v| v == "*" || v == value)
}

impl Rule {
    fn is_about(&self, a: &Attributes<'_>, resource: &Resource) -> bool {
        let scope = match self.scope.as_str() {
            "Namespaced" => resource.namespaced,
            "Cluster" => !resource.namespaced,
            _ => true,
        };
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name);
        scope
            && named
            && has(&self.operations, &a.operation.to_string())
            && has(&self.api_groups, &resource.group)
            && has(&self.api_versions, &resource.version)
            && self.resources.iter().any(|r| {
                let (plural, sub) = r.split_once('/').unwrap_or((r, ""));
                (plural == "*" || plural == resource.plural) && (sub == "*" || sub == a.subresource)
            })
    }
}

/// What is matched, as it is declared.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Declared {
    #[serde(alias = "resourceRules")]
    rules: Vec<Rule>,
    exclude_resource_rules: Vec<Rule>,
    match_policy: String,
    namespace_selector: Option<Value>,
    object_selector: Option<Value>,
}

/// What is matched.
#[derive(Debug)]
pub(crate) struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// How a matched write is shown.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    /// As it was made.
    AsRequested,
    /// As one of the same object in another version, or under another group.
    As(Arc<Resource>),
    /// As that, made by a webhook: the object and the old one.
    Converted(Arc<Resource>, Option<Value>, Option<Value>),
}

impl Shown {
    /// The resource.
    pub(crate) fn resource<'a>(&'a self, a: &Attributes<'a>) -> &'a Resource {
        match self {
            Shown::AsRequested => a.resource,
            Shown::As(r) | Shown::Converted(r, ..) => r,
        }
    }

    /// Has the resource's webhook, if it has one, make the version that is shown.
    async fn converted(
        self,
        server: &Server,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Shown, Status> {
        let Shown::As(resource) = &self else { return Ok(self) };
        let Some(webhook) = resource.webhook().filter(|_| carries_object(a.resource, a.subresource)) else {
            return Ok(self);
        };
        let (conversions, to) = (server.registry().conversions()?, resource.api_version());
        let of = async |object: Option<&Value>| match object {
            None => Ok(None),
            Some(o) => conversions.convert_one(webhook, &to, o.clone()).await.map(Some),
        };
        Ok(Shown::Converted(resource.clone(), of(object).await?, of(old).await?))
    }
}

impl Matching {
    /// Reads the selectors.
    pub(crate) fn new(d: Declared) -> Result<Matching, Status> {
        let selector =
            |v: &Option<Value>| v.as_ref().map_or(Ok(LabelSelector::everything()), LabelSelector::from_value);
        Ok(Matching {
            namespaces: selector(&d.namespace_selector)?,
            objects: selector(&d.object_selector)?,
            equivalent: d.match_policy != "Exact",
            rules: d.rules,
            excluded: d.exclude_resource_rules,
        })
    }

    /// How a write that is matched is shown; `None` when it is not matched.
    pub(crate) async fn matches(
        &self,
        server: &Arc<Server>,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Shown>, Status> {
        // The cheap questions first: most writes are matched by no rule.
        if self.shown(server, a, &self.excluded).is_some() {
            return Ok(None);
        }
        let Some(shown) = self.shown(server, a, &self.rules) else { return Ok(None) };
        if !self.selects_object(object, old) || !self.selects_namespace(server, a, object).await? {
            return Ok(None);
        }
        Ok(Some(shown.converted(server, a, object, old).await?))
    }

    /// As [`Matching::matches`]; a list without rules is about everything.
    pub(crate) async fn narrows(
        &self,
        server: &Arc<Server>,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<bool, Status> {
        if !self.rules.is_empty() {
            return Ok(self.matches(server, a, object, old).await?.is_some());
        }
        let excluded = self.shown(server, a, &self.excluded).is_some();
        Ok(!excluded && self.selects_object(object, old) && self.selects_namespace(server, a, object).await?)
    }

    fn shown(&self, server: &Server, a: &Attributes<'_>, rules: &[Rule]) -> Option<Shown> {
        if rules.iter().any(|r| r.is_about(a, a.resource)) {
            return Some(Shown::AsRequested);
        }
        if !self.equivalent || rules.is_empty() || !a.resource.stored {
            return None;
        }
        let stored = storage::prefix(a.resource);
        server
            .resources()
            .iter()
            .filter(|r| r.stored && storage::prefix(r) == stored)
            .find(|r| rules.iter().any(|rule| rule.is_about(a, r)))
            .map(|r| Shown::As(r.clone()))
    }

    fn selects_object(&self, object: Option<&Value>, old: Option<&Value>) -> bool {
        let selects = |o: &Value| o["metadata"].is_object() && self.objects.matches(&labels(o));
        self.objects.is_empty() || [object, old].into_iter().flatten().any(selects)
    }

    /// Whether the namespace is selected; what is in none always is.
    async fn selects_namespace(
        &self,
        server: &Arc<Server>,
        a: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Status> {
        let is_namespace = a.resource.group.is_empty() && a.resource.plural == "namespaces";
        if self.namespaces.is_empty() || (!is_namespace && a.namespace.is_empty()) {
            return Ok(true);
        }
        let written = matches!(a.operation, Operation::Create | Operation::Update) && a.subresource.is_empty();
        if let Some(namespace) = object.filter(|_| is_namespace && written) {
            return Ok(self.namespaces.matches(&labels(namespace)));
        }
        let name = if is_namespace { a.name } else { a.namespace };
        Ok(self.namespaces.matches(namespace(server, name).await?.meta().labels))
    }
}

/// A namespace, from the cache where it is there already.
pub(crate) async fn namespace(server: &Arc<Server>, name: &str) -> Result<Arc<api::Object>, Status> {
    let namespaces = server.resource("", "v1", "namespaces")?;
    match server.registry().get_cached(&namespaces, "", name) {
        Ok(o) => Ok(o),
        Err(_) => server.registry().get(&namespaces, "", name).await,
    }
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let map = object["metadata"]["labels"].as_object().into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::{Registry, WriteContext};
    use crate::request::User;

    #[test]
    fn rules_name_resources_and_subresources() {
        let all = api::registry::builtin();
        let resource = |plural: &str| all.iter().find(|r| r.plural == plural && r.version == "v1").unwrap();
        let ctx = WriteContext::new(User::anonymous());
        let is_about = |resources: &[&str], scope: &str, plural: &str, sub: &str| {
            let rule: Rule = serde_json::from_value(json!({"operations": ["CREATE"], "apiGroups": ["", "apps"],
                "apiVersions": ["*"], "resources": resources, "scope": scope}))
            .unwrap();
            let r = resource(plural);
            rule.is_about(&Registry::attributes(&ctx, r, Operation::Create, "n", "a", sub), r)
        };
        assert!(is_about(&["pods"], "*", "pods", ""));
        assert!(!is_about(&["pods"], "*", "pods", "eviction"));
        assert!(is_about(&["pods/*"], "*", "pods", "eviction"));
        assert!(is_about(&["*/eviction"], "*", "pods", "eviction"));
        assert!(is_about(&["*"], "*", "deployments", ""));
        assert!(!is_about(&["*"], "*", "deployments", "scale"));
        assert!(is_about(&["*/*"], "Namespaced", "deployments", "scale"));
        assert!(!is_about(&["*/*"], "Cluster", "deployments", ""));
        assert!(is_about(&["*/*"], "Cluster", "nodes", ""));
        assert!(!is_about(&["*/*"], "*", "jobs", ""), "another group");
    }
}
