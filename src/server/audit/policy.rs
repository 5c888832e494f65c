//! Which requests are recorded: `audit.k8s.io/v1` `Policy`. The first rule that fits decides; a
//! request that none fits is not recorded.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::request::{RequestInfo, User};

const BUILTIN: &str = include_str!("../../../manifests/audit-policy.yaml");

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

/// When an event is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Before the request is served.
    RequestReceived,
    /// When the headers of a long answer are sent.
    ResponseStarted,
    /// When all has been answered.
    ResponseComplete,
    /// When serving it failed badly.
    Panic,
}

/// What is left out of the record of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omit {
    stages: u8,
    /// `metadata.managedFields` of the objects that are recorded.
    pub managed_fields: bool,
}

impl Omit {
    /// Whether there is no event at a stage.
    pub fn stage(self, stage: Stage) -> bool {
        self.stages & (1 << stage as u8) != 0
    }

    fn stages(stages: &[Stage]) -> u8 {
        stages.iter().fold(0, |all, s| all | 1 << *s as u8)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "may be there")]
    metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// See the module.
#[derive(Default)]
pub struct Policy {
    rules: Vec<(Rule, Omit)>,
}

impl Policy {
    /// What is recorded unless something else is asked for.
    pub fn builtin() -> Policy {
        // A test makes sure that it can be read.
        Policy::parse(BUILTIN).unwrap_or_default()
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// A file that cannot be read, or is no policy.
    pub fn read(path: &Path) -> Result<Policy, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            action: "read the audit policy",
            path: path.to_owned(),
            source,
        })?;
        Policy::parse(&text).map_err(|why| Error::Bad { path: path.to_owned(), what: "audit policy", why })
    }

    fn parse(text: &str) -> Result<Policy, String> {
        let tree = api::codec::parse_tree(text.as_bytes(), true).map_err(|s| s.message)?;
        let file: File = serde_json::from_value(tree).map_err(|e| e.to_string())?;
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            return Err(format!(
                "{} {} is not supported; it must be audit.k8s.io/v1 Policy",
                file.api_version, file.kind
            ));
        }
        if file.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        let omitted = Omit::stages(&file.omit_stages);
        let mut rules = Vec::with_capacity(file.rules.len());
        for (i, rule) in file.rules.into_iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{i}].{why}"))?;
            let managed_fields = rule.omit_managed_fields.unwrap_or(file.omit_managed_fields);
            let omit = Omit { stages: omitted | Omit::stages(&rule.omit_stages), managed_fields };
            rules.push((rule, omit));
        }
        Ok(Policy { rules })
    }

    /// How much of a request is recorded, and what not.
    pub fn evaluate(&self, user: &User, request: &RequestInfo) -> (Level, Omit) {
        let fitting = self.rules.iter().find(|(rule, _)| rule.fits(user, request));
        fitting.map_or((Level::None, Omit::default()), |(rule, omit)| (rule.level, *omit))
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            return Err(
                "nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".to_owned()
            );
        }
        for url in &self.non_resource_urls {
            let wildcard = url.find('*').is_some_and(|at| at + 1 != url.len());
            if url != "*" && (!url.starts_with('/') || wildcard) {
                return Err(format!(
                    "nonResourceURLs: {url:?}: non-resource URL rules must begin with a '/' character and may have \
                     '*' only as the last"
                ));
            }
        }
        for r in &self.resources {
            if !r.resource_names.is_empty() && r.resources.is_empty() {
                return Err("resources.resourceNames: using resourceNames requires at least one resource".to_owned());
            }
            if r.group.contains('/') {
                return Err(format!("resources.group: {:?} must be a group without a version", r.group));
            }
        }
        Ok(())
    }

    fn fits(&self, user: &User, request: &RequestInfo) -> bool {
        let named = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
        if !named(&self.users, &user.name)
            || !(self.user_groups.is_empty() || self.user_groups.iter().any(|g| user.in_group(g)))
            || !named(&self.verbs, &request.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.is_resource
                && named(&self.namespaces, &request.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(request)));
        }
        self.non_resource_urls.is_empty()
            || !request.is_resource && self.non_resource_urls.iter().any(|url| path_fits(url, &request.path))
    }
}

impl GroupResources {
    fn fits(&self, request: &RequestInfo) -> bool {
        if self.group != request.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        (self.resource_names.is_empty() || self.resource_names.contains(&request.name))
            && self.resources.iter().any(|r| resource_fits(r, &request.resource, &request.subresource))
    }
}

fn resource_fits(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        _ if pattern == "*" => true,
        None => pattern == resource && subresource.is_empty(),
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((res, "*")) => res == resource,
        Some((res, sub)) => res == resource && sub == subresource,
    }
}

fn path_fits(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(verb: &str, path: &str) -> RequestInfo {
        let (group, rest) = path.split_once(':').unwrap_or(("", path));
        let (resource, subresource) = rest.split_once('/').unwrap_or((rest, ""));
        RequestInfo {
            verb: verb.into(),
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "ns".into(),
            name: "one".into(),
            ..Default::default()
        }
    }

    fn url(path: &str) -> RequestInfo {
        RequestInfo { verb: "get".into(), path: path.into(), ..Default::default() }
    }

    fn rule(rule: &str) -> Policy {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{{level: Request, {rule}}}]"))
            .unwrap()
    }

    #[test]
    fn the_builtin_policy_leaves_out_what_idles() {
        let policy = Policy::parse(BUILTIN).unwrap();
        let node = User::authenticated("system:node:a", &["system:nodes"]);
        let admin = User::authenticated("admin", &["system:masters"]);
        let controller =
            User::authenticated("system:serviceaccount:kube-system:x", &["system:serviceaccounts:kube-system"]);
        let level = |user, request: RequestInfo| policy.evaluate(user, &request).0;
        for idle in ["coordination.k8s.io:leases", "nodes/status", "pods/status", "events", "events.k8s.io:events"] {
            assert_eq!(level(&node, resource("update", idle)), Level::None, "{idle}");
        }
        for path in ["/healthz", "/livez/ping", "/version", "/apis/apps/v1", "/openapi/v3", "/metrics"] {
            assert_eq!(level(&admin, url(path)), Level::None, "{path}");
        }
        assert_eq!(level(&controller, resource("list", "pods")), Level::None);
        assert_eq!(level(&admin, resource("watch", "pods")), Level::None);
        assert_eq!(level(&admin, resource("create", "pods")), Level::Metadata);
        assert_eq!(level(&controller, resource("create", "pods")), Level::Metadata);
        assert_eq!(level(&admin, resource("get", "secrets")), Level::Metadata);
        assert_eq!(level(&admin, url("/v1-sampan/encrypt/status")), Level::Metadata);
        let (_, omit) = policy.evaluate(&admin, &resource("create", "pods"));
        assert!(omit.stage(Stage::RequestReceived) && !omit.stage(Stage::ResponseComplete));
    }

    #[test]
    fn rules_fit_as_upstreams_do() {
        let user = User::authenticated("tim", &["humans"]);
        let fits = |text: &str, request: &RequestInfo| rule(text).evaluate(&user, request).0 == Level::Request;
        let pods = resource("get", "pods");
        let logs = resource("get", "pods/log");
        assert!(fits("users: [tim]", &pods) && !fits("users: [ann]", &pods));
        assert!(fits("userGroups: [humans, x]", &pods) && !fits("userGroups: [x]", &pods));
        assert!(fits("verbs: [get]", &pods) && !fits("verbs: [list]", &pods));
        assert!(fits("namespaces: [ns]", &pods) && !fits("namespaces: [other]", &pods));
        assert!(!fits("namespaces: [\"\"]", &pods), "the empty namespace is the cluster's scope");
        for (pattern, of_pods, of_logs) in [
            ("pods", true, false),
            ("pods/log", false, true),
            ("\"*\"", true, true),
            ("\"*/log\"", false, true),
            ("\"pods/*\"", true, true),
            ("secrets", false, false),
        ] {
            let text = format!("resources: [{{group: \"\", resources: [{pattern}]}}]");
            assert_eq!((fits(&text, &pods), fits(&text, &logs)), (of_pods, of_logs), "{pattern}");
        }
        assert!(fits("resources: [{}]", &pods) && !fits("resources: [{group: apps}]", &pods));
        assert!(fits("resources: [{resources: [pods], resourceNames: [one]}]", &pods));
        assert!(!fits("resources: [{resources: [pods], resourceNames: [m]}]", &pods));
        assert!(!fits("resources: [{}]", &url("/version")));
        assert!(fits("nonResourceURLs: [\"/ver*\"]", &url("/version")) && !fits("nonResourceURLs: [\"*\"]", &pods));
    }

    #[test]
    fn a_policy_that_is_none_is_refused() {
        let parse =
            |rest: &str| Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rest}")).err().unwrap();
        assert_eq!(parse("rules: []"), "loaded illegal policy with 0 rules");
        assert!(parse("rules: [{level: Loud}]").contains("unknown variant"));
        assert!(parse("rules: [{level: None, colour: red}]").contains("unknown field"));
        assert!(parse("rules: [{level: None, nonResourceURLs: [a]}]").starts_with("rules[0].nonResourceURLs"));
        assert!(parse("rules: [{level: None, nonResourceURLs: [\"/a*b\"]}]").starts_with("rules[0].nonResourceURLs"));
        assert!(parse("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]").contains("both"));
        assert!(parse("rules: [{level: None, resources: [{resourceNames: [a]}]}]").contains("at least one resource"));
        assert!(Policy::parse("apiVersion: v1\nkind: Pod\n").is_err());
    }
}
