//! Which flow schema a request belongs to, and which flow in it.

use std::sync::Arc;

use api::k8s::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};

use crate::request::{RequestInfo, User};

/// A flow schema at work.
#[derive(Debug)]
pub struct Schema {
    /// Its name.
    pub name: Arc<str>,
    /// Its UID, for the response header.
    pub uid: String,
    /// The name of its priority level.
    pub level: Arc<str>,
    /// The UID of that.
    pub level_uid: String,
    precedence: i32,
    by: By,
    rules: Vec<PolicyRulesWithSubjects>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

impl Schema {
    /// Makes a schema of its object and the UID of its level.
    pub fn new(object: &FlowSchema, level_uid: String) -> Schema {
        let spec = object.spec.clone().unwrap_or_default();
        let by = match spec.distinguisher_method.as_ref().map(|m| m.type_.as_str()) {
            Some("ByUser") => By::User,
            Some("ByNamespace") => By::Namespace,
            _ => By::Nothing,
        };
        Schema {
            name: object.metadata.name.as_deref().unwrap_or_default().into(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            level: spec.priority_level_configuration.name.as_str().into(),
            level_uid,
            precedence: spec.matching_precedence.unwrap_or_default(),
            by,
            rules: spec.rules.unwrap_or_default(),
        }
    }

    /// The order in which schemas are tried.
    pub fn rank(&self) -> (i32, Arc<str>) {
        (self.precedence, self.name.clone())
    }

    /// Whether a request belongs to it.
    pub fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|r| {
            r.subjects.iter().any(|s| is(s, user))
                && if info.is_resource {
                    r.resource_rules.iter().flatten().any(|rule| covers(rule, info))
                } else {
                    r.non_resource_rules.iter().flatten().any(|rule| covers_path(rule, info))
                }
        })
    }

    /// The flow of a request among those of this schema.
    pub fn distinguisher<'a>(&self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self.by {
            By::Nothing => "",
            By::User => &user.name,
            By::Namespace => &info.namespace,
        }
    }
}

fn is(subject: &Subject, user: &User) -> bool {
    match subject.kind.as_str() {
        "User" => subject.user.as_ref().is_some_and(|u| u.name == "*" || u.name == user.name),
        "Group" => subject.group.as_ref().is_some_and(|g| g.name == "*" || user.in_group(&g.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|account| {
            let own = user.name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'));
            own.is_some_and(|(namespace, name)| {
                namespace == account.namespace && (account.name == "*" || name == account.name)
            })
        }),
        _ => false,
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|s| s == "*" || s == wanted)
}

fn covers(rule: &ResourcePolicyRule, info: &RequestInfo) -> bool {
    let resource = |names: &[String]| {
        names.iter().any(|n| match (n.split_once('/'), info.subresource.as_str()) {
            _ if n == "*" => true,
            (None, "") => *n == info.resource,
            (Some((r, s)), sub) => r == info.resource && s == sub,
            _ => false,
        })
    };
    has(&rule.verbs, &info.verb)
        && has(&rule.api_groups, &info.group)
        && resource(&rule.resources)
        && if info.namespace.is_empty() {
            rule.cluster_scope == Some(true)
        } else {
            has(rule.namespaces.as_deref().unwrap_or_default(), &info.namespace)
        }
}

fn covers_path(rule: &NonResourcePolicyRule, info: &RequestInfo) -> bool {
    let path = |pattern: &String| {
        *pattern == info.path || pattern.strip_suffix('*').is_some_and(|prefix| info.path.starts_with(prefix))
    };
    has(&rule.verbs, &info.verb) && rule.non_resource_urls.iter().any(path)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::Value;

    use super::*;
    use crate::request::Query;

    fn schemas() -> Vec<Schema> {
        let of_kind = |o: &&Value| o["kind"] == "FlowSchema";
        let mut all: Vec<Schema> = api::kinds::flow_control::bootstrap()
            .iter()
            .filter(of_kind)
            .map(|o| Schema::new(&serde_json::from_value(o.clone()).unwrap(), String::new()))
            .collect();
        all.sort_by_key(Schema::rank);
        all
    }

    fn schema_of(user: &User, method: Method, path: &str) -> String {
        let info = RequestInfo::new(&method, path, &Query::parse(""));
        schemas().iter().find(|s| s.matches(user, &info)).unwrap().name.to_string()
    }

    #[test]
    fn requests_of_a_cluster_find_upstreams_schemas() {
        let account = |name: &str| User::authenticated(name, &["system:serviceaccounts"]);
        let node = User::authenticated("system:node:a", &["system:nodes"]);
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
        for (user, path, schema) in [
            (User::authenticated("admin", &["system:masters"]), "/api/v1/pods", "exempt"),
            (User::anonymous(), "/healthz", "probes"),
            (User::anonymous(), "/version", "global-default"),
            (node.clone(), "/api/v1/nodes/a/status", "system-node-high"),
            (node, "/api/v1/pods", "system-nodes"),
            (User::authenticated("system:kube-scheduler", &[]), leases, "system-leader-election"),
            (User::authenticated("system:kube-scheduler", &[]), "/api/v1/pods", "kube-scheduler"),
            (account("system:serviceaccount:kube-system:x"), "/api/v1/pods", "kube-system-service-accounts"),
            (account("system:serviceaccount:default:x"), "/api/v1/pods", "service-accounts"),
            (User { name: "nobody".into(), ..User::default() }, "/api/v1/pods", ""),
        ] {
            if !schema.is_empty() {
                assert_eq!(schema_of(&user, Method::GET, path), schema, "{path}");
            }
        }
    }

    #[test]
    fn flows_are_told_apart_by_user_or_namespace() {
        let all = schemas();
        let of = |name: &str| all.iter().find(|s| &*s.name == name).unwrap();
        let user = User::authenticated("u", &[]);
        let info = RequestInfo { namespace: "n".into(), ..RequestInfo::default() };
        assert_eq!(of("global-default").distinguisher(&user, &info), "u");
        assert_eq!(of("kube-scheduler").distinguisher(&user, &info), "n");
        assert_eq!(of("probes").distinguisher(&user, &info), "");
    }
}
