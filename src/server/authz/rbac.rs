//! Role-based access control, evaluated from the watch cache
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/>).

use std::sync::{Arc, Weak};

use api::k8s::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use api::{Object, Status};
use serde_json::{Value, json};

use super::{Authorizer, Decision};
use crate::Server;
use crate::authn::aggregate;
use crate::request::{RequestInfo, User};

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The RBAC authorizer.
pub struct Rbac(pub Weak<Server>);

impl std::fmt::Debug for Rbac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rbac")
    }
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == "*" || x == wanted)
}

/// Whether a rule allows a request.
pub fn allows(rule: &PolicyRule, r: &RequestInfo) -> bool {
    if !any(&rule.verbs, &r.verb) {
        return false;
    }
    if !r.is_resource {
        return rule
            .non_resource_urls
            .iter()
            .flatten()
            .any(|u| u == "*" || *u == r.path || u.strip_suffix('*').is_some_and(|p| r.path.starts_with(p)));
    }
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let resource_fits = resources.iter().any(|x| match x.split_once('/') {
        _ if x == "*" => true,
        Some(("*", sub)) => sub == r.subresource,
        Some((res, sub)) => res == r.resource && sub == r.subresource,
        None => *x == r.resource && r.subresource.is_empty(),
    });
    any(groups, &r.group) && resource_fits && (names.is_empty() || names.contains(&r.name))
}

/// The subject of a binding that a user is.
fn applying<'b>(subjects: Option<&'b [Subject]>, user: &User, namespace: &str) -> Option<&'b Subject> {
    subjects.unwrap_or_default().iter().find(|s| match s.kind.as_str() {
        "User" => s.name == user.name,
        "Group" => user.in_group(&s.name),
        "ServiceAccount" => {
            let ns = namespace_of(s, namespace);
            !ns.is_empty() && user.name == format!("system:serviceaccount:{ns}:{}", s.name)
        }
        _ => false,
    })
}

fn namespace_of<'s>(subject: &'s Subject, namespace: &'s str) -> &'s str {
    subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace)
}

/// A binding that applies to a user.
struct Applying<'b> {
    kind: &'static str,
    name: String,
    namespace: &'b str,
    role: &'b RoleRef,
    subject: &'b Subject,
}

impl std::fmt::Display for Applying<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (role, subject) = (self.role, self.subject);
        write!(f, "{} {:?} of {} {:?} to {} ", self.kind, self.name, role.kind, role.name, subject.kind)?;
        if subject.kind == "ServiceAccount" {
            return write!(f, "{:?}", format!("{}/{}", subject.name, namespace_of(subject, self.namespace)));
        }
        write!(f, "{:?}", subject.name)
    }
}

fn cached(server: &Server, plural: &str) -> Vec<Arc<Object>> {
    let Ok(resource) = server.resource(GROUP, "v1", plural) else { return Vec::new() };
    let Ok(cache) = server.registry().cache(&resource) else { return Vec::new() };
    cache.objects().values().cloned().collect()
}

/// The rules of the role that a binding refers to.
///
/// # Errors
/// 404 when the role does not exist.
pub fn rules_for(server: &Server, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, Status> {
    if role.kind == "ClusterRole" {
        let resource = server.resource(GROUP, "v1", "clusterroles")?;
        let found = server.registry().get_cached(&resource, "", &role.name)?.typed::<ClusterRole>()?;
        return Ok(found.rules.clone().unwrap_or_default());
    }
    let resource = server.resource(GROUP, "v1", "roles")?;
    let found = server.registry().get_cached(&resource, namespace, &role.name)?.typed::<Role>()?;
    Ok(found.rules.clone().unwrap_or_default())
}

/// Calls `visit` with every rule that applies to a user in a namespace (empty: cluster scope),
/// until it returns true. Gives what roles are missing: a binding to one grants nothing.
fn visit_rules(
    server: &Server,
    user: &User,
    namespace: &str,
    visit: &mut dyn FnMut(&PolicyRule, &Applying<'_>) -> bool,
) -> Vec<String> {
    let mut missing = Vec::new();
    // Whether that is enough.
    let mut of_binding = |b: &Applying<'_>| match rules_for(server, b.role, b.namespace) {
        Ok(rules) => rules.iter().any(|r| visit(r, b)),
        Err(_) => {
            missing.push(format!("{}.{GROUP} {:?} not found", b.role.kind.to_lowercase(), b.role.name));
            false
        }
    };
    for o in cached(server, "clusterrolebindings") {
        let Ok(b) = o.typed::<ClusterRoleBinding>() else { continue };
        let Some(subject) = applying(b.subjects.as_deref(), user, "") else { continue };
        let (kind, name) = ("ClusterRoleBinding", o.meta().name.to_owned());
        if of_binding(&Applying { kind, name, namespace: "", role: &b.role_ref, subject }) {
            return missing;
        }
    }
    if namespace.is_empty() {
        return missing;
    }
    for o in cached(server, "rolebindings") {
        if o.meta().namespace != namespace {
            continue;
        }
        let Ok(b) = o.typed::<RoleBinding>() else { continue };
        let Some(subject) = applying(b.subjects.as_deref(), user, namespace) else { continue };
        let (kind, name) = ("RoleBinding", format!("{}/{namespace}", o.meta().name));
        if of_binding(&Applying { kind, name, namespace, role: &b.role_ref, subject }) {
            return missing;
        }
    }
    missing
}

impl Authorizer for Rbac {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        let Some(server) = self.0.upgrade() else { return Decision::NoOpinion("the server is shutting down".into()) };
        let mut allowed = None;
        let missing = visit_rules(&server, user, &request.namespace, &mut |rule, binding| {
            if allows(rule, request) {
                allowed = Some(format!("RBAC: allowed by {binding}"));
            }
            allowed.is_some()
        });
        match allowed {
            Some(why) => Decision::Allow(why),
            None if missing.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregate(&missing))),
        }
    }
}

/// All rules that apply to a user in a namespace (empty: cluster scope).
pub fn held_rules(server: &Server, user: &User, namespace: &str) -> Vec<PolicyRule> {
    let mut held = Vec::new();
    visit_rules(server, user, namespace, &mut |rule, _| {
        held.push(rule.clone());
        false
    });
    held
}

/// The status of a SelfSubjectRulesReview.
pub fn rules_of(server: &Server, user: &User, namespace: &str) -> Value {
    let (mut resource, mut other) = (Vec::new(), Vec::new());
    let filled = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let missing = visit_rules(server, user, namespace, &mut |rule, _| {
        if filled(&rule.resources) {
            let mut v = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if let Some(n) = &rule.resource_names {
                v["resourceNames"] = json!(n);
            }
            resource.push(v);
        }
        if filled(&rule.non_resource_urls) {
            other.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
        false
    });
    let mut errors = missing;
    if server.authorizers().is_some_and(super::Authorizers::ask_others) {
        errors.push("webhook authorizer does not support user rule resolution".to_owned());
    }
    let is_node = super::node::node_name(user).is_some();
    if is_node {
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    let mut status = json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": !errors.is_empty()});
    if !errors.is_empty() {
        status["evaluationError"] = aggregate(&errors).into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(v: Value) -> PolicyRule {
        serde_json::from_value(v).unwrap()
    }

    fn request(verb: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.into(),
            is_resource: true,
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_rule_for_a_resource_does_not_cover_its_subresources() {
        let r = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert!(allows(&r, &request("get", "pods", "", "a")));
        assert!(!allows(&r, &request("get", "pods", "log", "a")));
        let r = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/scale"]}));
        assert!(allows(&r, &request("get", "x", "scale", "a")));
    }

    #[test]
    fn resource_names_limit_a_rule_and_urls_match_by_prefix() {
        let r = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}));
        assert!(allows(&r, &request("get", "pods", "", "a")));
        assert!(!allows(&r, &request("get", "pods", "", "b")));
        let r = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]}));
        let mut q = RequestInfo { verb: "get".into(), path: "/healthz/ping".into(), ..Default::default() };
        assert!(allows(&r, &q));
        q.path = "/metrics".into();
        assert!(!allows(&r, &q));
    }
}
