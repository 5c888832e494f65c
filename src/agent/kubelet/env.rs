//! A container's environment: the Services of its namespace, `envFrom`, `env`, and `$(VAR)`.
//!
//! Upstream: `kubelet_pods.go` makeEnvironmentVariables, `third_party/forked/golang/expansion`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::core::v1::{Container, EnvVar, ObjectFieldSelector, Pod, ResourceFieldSelector, Service};

use super::objects::{Kind, Objects};
use super::resources;

/// What fields of a pod can be asked for.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The node's allocatable CPU, thousandths.
    pub node_cpu_millis: i64,
    /// The node's allocatable memory, bytes.
    pub node_memory_bytes: i64,
    /// The node's allocatable ephemeral storage, bytes.
    pub node_storage_bytes: i64,
}

/// Replaces `$(NAME)`; `$$` is a dollar sign; unknown names stay as they are.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('(') {
            match inner.split_once(')') {
                Some((name, after)) => {
                    match lookup(name) {
                        Some(v) => out.push_str(&v),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = after;
                }
                None => {
                    out.push_str("$(");
                    rest = inner;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The value of a field of a pod, as the downward API gives it.
///
/// # Errors
/// When there is no such field.
pub fn field(pod: &Pod, path: &str, facts: &PodFacts) -> Result<String, String> {
    let m = &pod.metadata;
    let spec = pod.spec.as_ref();
    let lines = |map: Option<&BTreeMap<String, String>>| {
        map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
    };
    if let Some((map, rest)) = path.split_once("['")
        && let Some(key) = rest.strip_suffix("']")
    {
        let map = match map {
            "metadata.labels" => m.labels.as_ref(),
            "metadata.annotations" => m.annotations.as_ref(),
            _ => return Err(format!("field label not supported: {path}")),
        };
        return Ok(map.and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => m.name.clone().unwrap_or_default(),
        "metadata.namespace" => m.namespace.clone().unwrap_or_default(),
        "metadata.uid" => m.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(m.labels.as_ref()),
        "metadata.annotations" => lines(m.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("field label not supported: {path}")),
    })
}

/// The value of a container's limit or request; a missing limit is the node's allocatable amount.
///
/// # Errors
/// When the container or the resource is unknown.
pub fn resource_field(
    pod: &Pod,
    own: Option<&Container>,
    r: &ResourceFieldSelector,
    facts: &PodFacts,
) -> Result<String, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let container = match r.container_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .find(|c| c.name == name)
            .ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or("no container is named")?,
    };
    let (list, name) =
        r.resource.split_once('.').ok_or_else(|| format!("unsupported container resource : {}", r.resource))?;
    let of = |m: Option<&BTreeMap<String, api::meta::api::resource::Quantity>>| m.and_then(|m| m.get(name)).cloned();
    let resources = container.resources.as_ref();
    let quantity = match list {
        "limits" => of(resources.and_then(|r| r.limits.as_ref())),
        "requests" => of(resources.and_then(|r| r.requests.as_ref())),
        _ => return Err(format!("unsupported container resource : {}", r.resource)),
    };
    let fallback = list == "limits";
    let amount_millis: i128 = match (&quantity, name) {
        (Some(q), _) => resources::millis(q).unwrap_or(0),
        (None, "cpu") if fallback => i128::from(facts.node_cpu_millis),
        (None, "memory") if fallback => i128::from(facts.node_memory_bytes) * 1000,
        (None, "ephemeral-storage") if fallback => i128::from(facts.node_storage_bytes) * 1000,
        (None, _) => 0,
    };
    let divisor = r.divisor.as_ref().and_then(resources::millis).filter(|d| *d > 0).unwrap_or(1000);
    Ok(((amount_millis + divisor - 1) / divisor).to_string())
}

/// `my-svc` -> `MY_SVC`.
fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// The variables of Services: host, port, named ports, and Docker's link variables.
pub fn services(pod: &Pod, all: &[Arc<Service>]) -> Vec<(String, String)> {
    let own_namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut out = Vec::new();
    for s in all {
        let (Some(name), Some(spec)) = (&s.metadata.name, &s.spec) else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let namespace = s.metadata.namespace.as_deref().unwrap_or_default();
        let is_api = namespace == "default" && name == "kubernetes";
        if !(is_api || (links && namespace == own_namespace)) {
            continue;
        }
        let base = variable(name);
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.push((format!("{base}_SERVICE_HOST"), ip.to_owned()));
        out.push((format!("{base}_SERVICE_PORT"), first.port.to_string()));
        for p in ports {
            if let Some(n) = p.name.as_deref().filter(|n| !n.is_empty()) {
                out.push((format!("{base}_SERVICE_PORT_{}", variable(n)), p.port.to_string()));
            }
        }
        for (i, p) in ports.iter().enumerate() {
            let protocol = p.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_ascii_lowercase(), p.port);
            if i == 0 {
                out.push((format!("{base}_PORT"), url.clone()));
            }
            let prefix = format!("{base}_PORT_{}_{protocol}", p.port);
            out.push((prefix.clone(), url));
            out.push((format!("{prefix}_PROTO"), protocol.to_ascii_lowercase()));
            out.push((format!("{prefix}_PORT"), p.port.to_string()));
            out.push((format!("{prefix}_ADDR"), ip.to_owned()));
        }
    }
    out
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

/// Makes the whole environment. Later variables replace earlier ones of the same name.
///
/// # Errors
/// What the event says when a reference cannot be resolved.
pub async fn environment(
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    objects: &Objects,
    all_services: &[Arc<Service>],
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |values: &mut BTreeMap<String, String>, name: String, value: String| {
        if values.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    let from_services: BTreeMap<String, String> = services(pod, all_services).into_iter().collect();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => (Kind::ConfigMap, r.name.as_str(), r.optional == Some(true)),
            (None, Some(r)) => (Kind::Secret, r.name.as_str(), r.optional == Some(true)),
            (None, None) => continue,
        };
        let Some(data) = objects.data(uid, kind, namespace, name).await? else {
            if optional {
                continue;
            }
            return Err(kind.not_found(name));
        };
        for (k, v) in data.text() {
            let name = format!("{prefix}{k}");
            if is_variable_name(&name) {
                set(&mut values, name, v);
            }
        }
    }
    for e in container.env.iter().flatten() {
        let value = match variable_value(pod, container, facts, objects, e, &values, &from_services).await? {
            Some(v) => v,
            None => continue,
        };
        set(&mut values, e.name.clone(), value);
    }
    for (name, value) in from_services {
        if !values.contains_key(&name) {
            set(&mut values, name, value);
        }
    }
    Ok(order.into_iter().filter_map(|n| values.remove(&n).map(|v| (n, v))).collect())
}

async fn variable_value(
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    objects: &Objects,
    e: &EnvVar,
    values: &BTreeMap<String, String>,
    from_services: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let Some(from) = &e.value_from else {
        let text = e.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(text, |n| values.get(n).or_else(|| from_services.get(n)).cloned())));
    };
    if let Some(ObjectFieldSelector { field_path, .. }) = &from.field_ref {
        return field(pod, field_path, facts).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return resource_field(pod, Some(container), r, facts).map(Some);
    }
    let (kind, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => (Kind::ConfigMap, r.name.as_str(), r.key.as_str(), r.optional == Some(true)),
        (None, Some(r)) => (Kind::Secret, r.name.as_str(), r.key.as_str(), r.optional == Some(true)),
        (None, None) => return Err(format!("environment variable {} has a source that is not supported here", e.name)),
    };
    let Some(data) = objects.data(uid, kind, namespace, name).await? else {
        return if optional { Ok(None) } else { Err(kind.not_found(name)) };
    };
    match data.get_text(key) {
        Some(v) => Ok(Some(v)),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {} {namespace}/{name}", kind.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_upstream_does() {
        let look = |n: &str| (n == "A").then(|| "1".to_owned());
        for (text, want) in
            [("$(A)", "1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("x$(A", "x$(A"), ("$A$", "$A$"), ("$$$(A)", "$1")]
        {
            assert_eq!(expand(text, look), want, "{text}");
        }
    }

    #[test]
    fn services_make_host_port_and_link_variables() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"namespace": "n"}})).unwrap();
        let s: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "my-db", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "sql", "port": 5432}]}
        }))
        .unwrap();
        let vars: BTreeMap<_, _> = services(&pod, &[Arc::new(s)]).into_iter().collect();
        assert_eq!(vars["MY_DB_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(vars["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(vars["MY_DB_PORT_5432_TCP_ADDR"], "10.0.0.1");
        assert_eq!(vars["MY_DB_PORT"], "tcp://10.0.0.1:5432");
    }

    #[test]
    fn divisors_round_up() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1500m", "memory": "65Mi"}}}]}}))
        .unwrap();
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let get = |resource: &str, divisor: &str| {
            let r = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(api::meta::api::resource::Quantity(divisor.into())),
                ..Default::default()
            };
            resource_field(&pod, Some(own), &r, &PodFacts::default()).unwrap()
        };
        assert_eq!(get("limits.cpu", "1"), "2");
        assert_eq!(get("limits.cpu", "1m"), "1500");
        assert_eq!(get("limits.memory", "1Mi"), "65");
    }
}
