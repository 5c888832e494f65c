//! What a request asks for, read off its method, path and query
//! (upstream: `k8s.io/apiserver/pkg/endpoints/request`).

use std::collections::BTreeMap;

use http::Method;

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID; often empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with groups, authenticated as all are by `system:authenticated`.
    pub fn authenticated(name: &str, groups: &[&str]) -> User {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        User { name: name.to_owned(), groups, ..Default::default() }
    }

    /// Nobody in particular.
    pub fn anonymous() -> User {
        User {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Default::default()
        }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for
    /// other paths the lower-case method.
    pub verb: String,
    /// The path.
    pub path: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace; empty for cluster scope or all namespaces.
    pub namespace: String,
    /// Name; empty for collections.
    pub name: String,
    /// Subresource, `status` …
    pub subresource: String,
    /// What follows the subresource: the path of a proxy request, without its leading slash.
    pub rest: String,
    /// The field selector of a list or watch, as it came.
    pub field_selector: String,
    /// The label selector of a list or watch, as it came.
    pub label_selector: String,
}

impl RequestInfo {
    /// Reads method, path and the query's `watch` and `fieldSelector`.
    pub fn new(method: &Method, path: &str, query: &Query) -> RequestInfo {
        let mut info =
            RequestInfo { verb: method.as_str().to_ascii_lowercase(), path: path.to_owned(), ..Default::default() };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut rest: &[&str] = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        let mut legacy_watch = false;
        if rest[0] == "watch" && rest.len() > 1 {
            legacy_watch = true;
            rest = &rest[1..];
        }
        // `namespaces/<ns>/<resource>`, but `namespaces/<ns>[/status|/finalize]` is the namespace itself.
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].to_owned();
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                rest = &rest[2..];
            }
        }
        info.resource = rest[0].to_owned();
        info.name = rest.get(1).map(|s| decode(s)).unwrap_or_default();
        info.subresource = rest.get(2).map(|s| (*s).to_owned()).unwrap_or_default();
        if rest.len() > 3 {
            // The path as it came: a proxied path keeps its trailing slash and empty segments.
            let raw = path.trim_start_matches('/');
            let skip = parts.len() - rest.len() + 3;
            info.rest = raw.splitn(skip + 1, '/').nth(skip).unwrap_or_default().to_owned();
        } else if path.ends_with('/') && rest.len() == 3 {
            info.rest = String::new();
        }
        let watching = legacy_watch || query.flag("watch");
        info.verb = match *method {
            Method::GET | Method::HEAD if info.name.is_empty() => {
                if watching {
                    "watch"
                } else {
                    "list"
                }
            }
            Method::GET | Method::HEAD if legacy_watch => "watch",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if info.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        if info.name.is_empty() && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
            info.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
            info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
            // A list or watch of one name is authorized for that name.
            info.name = single_name(&info.field_selector).unwrap_or_default();
        }
        info
    }
}

/// The name that every object has that a field selector selects.
pub fn single_name(selector: &str) -> Option<String> {
    let value = |term: &str| {
        let rest = term.trim().strip_prefix("metadata.name=")?;
        Some(rest.strip_prefix('=').unwrap_or(rest).to_owned())
    };
    selector.split(',').find_map(value).filter(|n| !n.is_empty())
}

/// The query parameters, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URI after `?`.
    pub fn parse(query: &str) -> Query {
        Query(
            query
                .split('&')
                .filter(|p| !p.is_empty())
                .map(|p| {
                    let (k, v) = p.split_once('=').unwrap_or((p, ""));
                    (decode(&k.replace('+', " ")), decode(&v.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// From pairs that are decoded already.
    pub fn from_pairs(pairs: Vec<(String, String)>) -> Query {
        Query(pairs)
    }

    /// The first value of a parameter, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All parameters in their order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Whether a boolean parameter is set (`1`, `true`, `t`, any case).
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(k, _)| k == name)
            .is_some_and(|(_, v)| !matches!(v.to_ascii_lowercase().as_str(), "0" | "false" | "f"))
    }
}

/// Percent-decodes.
pub fn decode(s: &str) -> String {
    let bytes = s.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(b)) => {
                out.push(b);
                i += 3;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::new(&method, path, &Query::parse(query))
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        let cases = [
            (Method::GET, "/api/v1/pods", "list", "", "v1", "pods", "", "", ""),
            (Method::GET, "/api/v1/pods?watch=1", "watch", "", "v1", "pods", "", "", ""),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "watch", "", "v1", "pods", "a", "", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "", "v1", "namespaces", "a", "a", ""),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update", "", "v1", "namespaces", "a", "a", "finalize"),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "v1",
                "deployments",
                "a",
                "",
                "",
            ),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "get", "", "v1", "pods", "a", "b", "log"),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list", "", "v1", "pods", "", "x", ""),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=a%3Db,metadata.name%3D%3Dx",
                "list",
                "",
                "v1",
                "pods",
                "",
                "x",
                "",
            ),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/x", "watch", "", "v1", "pods", "a", "x", ""),
        ];
        for (method, uri, verb, group, version, resource, namespace, name, subresource) in cases {
            let i = info(method, uri);
            let got = (&*i.verb, &*i.group, &*i.version, &*i.resource, &*i.namespace, &*i.name, &*i.subresource);
            assert_eq!(got, (verb, group, version, resource, namespace, name, subresource), "{uri}");
        }
        assert!(!info(Method::GET, "/apis/apps/v1").is_resource);
        assert_eq!(info(Method::GET, "/api/v1/namespaces/a/services/s:80/proxy/x/y/").rest, "x/y/");
        assert_eq!(info(Method::GET, "/api/v1/nodes/n/proxy/metrics").rest, "metrics");
    }
}
