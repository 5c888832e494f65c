//! PodSecurity: pods keep to the level that labels of their namespace name
//! (upstream: `k8s.io/pod-security-admission`).

mod checks;
mod policy;

use std::collections::{BTreeMap, HashSet};
use std::sync::Weak;

use api::Status;
use api::field::ErrorList;
use async_trait::async_trait;
use serde_json::Value;

use self::checks::{Pod, Violation, details, evaluate, reasons};
use self::policy::{Level, LevelVersion, Policy};
use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::authn::aggregate;
use crate::registry::{At, Selection};

/// How many existing pods are looked at when a namespace gets a new level.
const PODS_CHECKED: usize = 3000;
/// Subresources of pods that do not write their spec.
const SPARED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// What is noted in the audit log.
const EXEMPT: &str = "pod-security.kubernetes.io/exempt";
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const ERROR: &str = "pod-security.kubernetes.io/error";
const VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";

/// Who is not looked at, and what holds where no label says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    defaults: Policy,
    usernames: HashSet<String>,
    runtime_classes: HashSet<String>,
    namespaces: HashSet<String>,
}

impl Configuration {
    /// Reads a `PodSecurityConfiguration`; null is one that says nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(v: &Value) -> Result<Configuration, String> {
        let kind = v["kind"].as_str().unwrap_or("PodSecurityConfiguration");
        if kind != "PodSecurityConfiguration" {
            return Err(format!("the kind must be PodSecurityConfiguration, not {kind}"));
        }
        let names = |f: &str| {
            let all = v["exemptions"][f].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Ok(Configuration {
            defaults: Policy::of_defaults(&v["defaults"])?,
            usernames: names("usernames"),
            runtime_classes: names("runtimeClasses"),
            namespaces: names("namespaces"),
        })
    }

    fn spares_class(&self, spec: &Value) -> bool {
        spec["runtimeClassName"].as_str().is_some_and(|c| self.runtime_classes.contains(c))
    }
}

pub(super) struct PodSecurity {
    pub(super) server: Weak<Server>,
    pub(super) configuration: Configuration,
}

/// Where a resource has the pod that it makes: the path of its template, or of the object itself.
fn template_path(a: &Attributes<'_>) -> Option<&'static str> {
    match (a.resource.group.as_str(), a.resource.plural.as_str()) {
        ("", "pods") => Some(""),
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| matches!(a.operation, Operation::Create | Operation::Update)) else {
            return Ok(());
        };
        if a.resource.group.is_empty() && a.resource.plural == "namespaces" {
            return if a.subresource.is_empty() { self.namespace(a, object, old).await } else { Ok(()) };
        }
        let Some(path) = template_path(a) else { return Ok(()) };
        let is_pod = path.is_empty();
        let spared = if is_pod { SPARED.contains(&a.subresource) } else { !a.subresource.is_empty() };
        let exempt = [
            (self.configuration.namespaces.contains(a.namespace), "namespace"),
            (self.configuration.usernames.contains(&a.user.name), "user"),
        ];
        let exempt = exempt.into_iter().find_map(|(is, why)| is.then_some(why));
        if let Some(why) = exempt.filter(|_| !spared) {
            a.annotate(EXEMPT, why);
        }
        if spared || exempt.is_some() {
            return Ok(());
        }
        let (policy, wrong) = self.policy(a.namespace).await.inspect_err(|s| a.annotate(ERROR, s.message.clone()))?;
        if !wrong.is_empty() {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            a.annotate(ERROR, format!("Failed to parse policy: {}", aggregate(&wrong)));
        }
        let unchanged = is_pod && old.is_some_and(|old| !changes_images(object, old));
        let Some(pod) = object.pointer(path).filter(|p| p.is_object() && !policy.is_open() && !unchanged) else {
            return Ok(());
        };
        self.pod(a, policy, pod, is_pod)
    }
}

impl PodSecurity {
    async fn policy(&self, namespace: &str) -> Result<(Policy, ErrorList), Status> {
        let server = alive(&self.server)?;
        let namespaces = server.resource("", "v1", "namespaces")?;
        let found = server.registry().get_cached(&namespaces, "", namespace);
        let found = match found {
            Ok(n) => n,
            Err(_) => server
                .registry()
                .get(&namespaces, "", namespace)
                .await
                .map_err(|_| Status::internal(format!("failed to lookup namespace {namespace:?}")))?,
        };
        let labels = found.to_value()["metadata"]["labels"].take();
        Ok(Policy::of_labels(&labels, self.configuration.defaults))
    }

    fn pod(&self, a: &Attributes<'_>, policy: Policy, pod: &Value, enforce: bool) -> Result<(), Status> {
        if self.configuration.spares_class(&pod["spec"]) {
            a.annotate(EXEMPT, "runtimeClass");
            return Ok(());
        }
        let broken = |level: LevelVersion| -> Vec<Violation> {
            evaluate(level, Pod { metadata: &pod["metadata"], spec: &pod["spec"] })
        };
        if enforce {
            a.annotate(ENFORCED, policy.enforce.to_string());
        }
        let audited = if a.audit.is_some() { broken(policy.audit) } else { Vec::new() };
        if !audited.is_empty() {
            let would = format!("would violate PodSecurity \"{}\": {}", policy.audit, details(&audited));
            a.annotate(VIOLATIONS, would);
        }
        let enforced = if enforce { broken(policy.enforce) } else { Vec::new() };
        if !enforced.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&enforced));
            return Err(Status::forbidden(&a.resource.group, &a.resource.plural, a.name, &why));
        }
        let warned = broken(policy.warn);
        if !warned.is_empty() {
            a.warnings.add(format!("would violate PodSecurity \"{}\": {}", policy.warn, details(&warned)));
        }
        Ok(())
    }

    async fn namespace(&self, a: &Attributes<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let labels = &object["metadata"]["labels"];
        let (policy, errors) = Policy::of_labels(labels, self.configuration.defaults);
        let (before, known) = match old {
            Some(old) => Policy::of_labels(&old["metadata"]["labels"], self.configuration.defaults),
            None => (self.configuration.defaults, Vec::new()),
        };
        // What was wrong already may stay.
        if !errors.is_empty() && (old.is_none() || errors != known) {
            return Err(Status::invalid("", "Namespace", a.name, &errors));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let exempt = self.configuration.namespaces.contains(name);
        let laxer = policy.enforce.version == before.enforce.version && policy.enforce.level <= before.enforce.level;
        if old.is_some() && (policy.enforce.level == Level::Privileged || laxer) {
            return Ok(());
        }
        if exempt {
            let set = policy.set_by(labels);
            if !policy.is_open() && policy != self.configuration.defaults {
                a.warnings.add(format!(
                    "namespace {name:?} is exempt from Pod Security, and the policy ({set}) will be ignored"
                ));
            }
            return Ok(());
        }
        if old.is_some() {
            for warning in self.existing(name, policy.enforce).await? {
                a.warnings.add(warning);
            }
        }
        Ok(())
    }

    /// What a new level would forbid of the pods that are there.
    async fn existing(&self, namespace: &str, level: LevelVersion) -> Result<Vec<String>, Status> {
        let server = alive(&self.server)?;
        let pods = server.resource("", "v1", "pods")?;
        let all = Selection::new(&pods, namespace, "", "")?;
        let page = server.registry().list(&pods, &all, At::Any, 0, None).await?;
        let pods = self.by_importance(page.items.iter().map(|o| o.to_value()).collect());
        // The first pod of each way to break the level, and how many there are.
        let mut broken: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in pods.iter().take(PODS_CHECKED) {
            let violations = evaluate(level, Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
            if violations.is_empty() {
                continue;
            }
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let (first, count) = broken.entry(reasons(&violations)).or_insert_with(|| (name.to_owned(), 0));
            if name < first.as_str() {
                name.clone_into(first);
            }
            *count += 1;
        }
        let mut warnings = Vec::new();
        if pods.len() > PODS_CHECKED {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {PODS_CHECKED} of {} existing pods",
                pods.len()
            ));
        }
        if !broken.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{level}\""
            ));
        }
        let mut lines: Vec<String> = broken
            .into_iter()
            .map(|(why, (first, count))| match count {
                1 => format!("{first}: {why}"),
                2 => format!("{first} (and 1 other pod): {why}"),
                n => format!("{first} (and {} other pods): {why}", n - 1),
            })
            .collect();
        lines.sort();
        warnings.extend(lines);
        Ok(warnings)
    }

    /// The pods without those that are exempt, one of each controller first.
    fn by_importance(&self, pods: Vec<Value>) -> Vec<Value> {
        let mut seen = HashSet::new();
        let looked_at = pods.into_iter().filter(|p| !self.configuration.spares_class(&p["spec"]));
        let (mut first, others): (Vec<Value>, Vec<Value>) = looked_at.partition(|p| {
            let owners = p["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            let controller = owners.filter(|o| o["controller"] == true).find_map(|o| o["uid"].as_str());
            controller.is_none_or(|uid| seen.insert(uid.to_owned()))
        });
        first.extend(others);
        first
    }
}

/// Whether an update of a pod brings containers or images that have not been looked at.
fn changes_images(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<(Value, Value)> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.map(|c| (c["name"].clone(), c["image"].clone())).collect()
    };
    let differ = |list: &str| {
        let (new, old) = (images(new, list), images(old, list));
        new.len() != old.len() || new.iter().zip(&old).any(|(n, o)| n.1 != o.1)
    };
    let known = images(old, "ephemeralContainers");
    differ("containers")
        || differ("initContainers")
        || images(new, "ephemeralContainers").iter().any(|c| !known.contains(c))
}

#[cfg(test)]
mod tests;
