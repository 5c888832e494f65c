//! The rows of `kubectl get` of several kinds
//! (upstream: `pkg/printers/internalversion`).

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name, selector};
use super::{list, text};

fn or(s: &str, absent: &str) -> Value {
    if s.is_empty() { absent.into() } else { s.into() }
}

fn flag(v: &Value, absent: bool) -> Value {
    v.as_bool().unwrap_or(absent).into()
}

fn strings(v: &Value, field: &str) -> String {
    list(v, field).filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// `a,b,c + 2 more...`
fn first(all: &[String], shown: usize, absent: &str) -> Value {
    if all.is_empty() {
        return absent.into();
    }
    let head = all.iter().take(shown).cloned().collect::<Vec<_>>().join(",");
    if all.len() > shown { format!("{head} + {} more...", all.len() - shown).into() } else { head.into() }
}

/// A metric's current and wanted value, as `cpu: 10%/50%`.
fn metric(spec: &Value, now: Option<&Value>) -> String {
    let kind = text(spec, "type");
    let field = match kind {
        "ContainerResource" => "containerResource".to_owned(),
        k => k.to_lowercase(),
    };
    let current = |v: &str| now.and_then(|n| n[&field]["current"].get(v)).filter(|v| !v.is_null());
    let show = |v: Option<&Value>| match v {
        Some(Value::String(s)) => s.clone(),
        Some(v) if !v.is_null() => v.to_string(),
        _ => "<unknown>".to_owned(),
    };
    let target = &spec[&field]["target"];
    let resource = matches!(kind, "Resource" | "ContainerResource");
    let prefix = if resource { format!("{}: ", text(&spec[&field], "name")) } else { String::new() };
    if let Some(percent) = target["averageUtilization"].as_i64() {
        let now = current("averageUtilization").map_or_else(|| "<unknown>".to_owned(), |v| format!("{v}%"));
        return format!("{prefix}{now}/{percent}%");
    }
    if target.get("averageValue").is_some_and(|v| !v.is_null()) {
        let suffix = if matches!(kind, "Object" | "External") { " (avg)" } else { "" };
        return format!("{prefix}{}/{}{suffix}", show(current("averageValue")), show(target.get("averageValue")));
    }
    format!("{prefix}{}/{}", show(current("value")), show(target.get("value")))
}

pub(super) fn horizontal_pod_autoscaler(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let to = &spec["scaleTargetRef"];
    let metrics: Vec<String> =
        list(spec, "metrics").enumerate().map(|(i, m)| metric(m, status["currentMetrics"].get(i))).collect();
    let targets = match metrics.len() {
        0 => "<none>".into(),
        // Upstream shows two, parted by a comma and a space.
        n if n > 2 => format!("{} + {} more...", metrics[..2].join(", "), n - 2).into(),
        _ => Value::from(metrics.join(", ")),
    };
    vec![
        name(o),
        format!("{}/{}", text(to, "kind"), text(to, "name")).into(),
        targets,
        spec["minReplicas"].as_i64().map_or_else(|| "<unset>".into(), |n| n.to_string().into()),
        spec["maxReplicas"].as_i64().unwrap_or(0).to_string().into(),
        status["currentReplicas"].as_i64().unwrap_or(0).to_string().into(),
        age(o, now),
    ]
}

pub(super) fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let hosts: Vec<String> =
        list(spec, "rules").map(|r| text(r, "host").to_owned()).filter(|h| !h.is_empty()).collect();
    let addresses: Vec<&str> = list(&o["status"]["loadBalancer"], "ingress")
        .map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") })
        .collect();
    let ports = if list(spec, "tls").next().is_some() { "80, 443" } else { "80" };
    vec![
        name(o),
        or(text(spec, "ingressClassName"), "<none>"),
        first(&hosts, 3, "*"),
        addresses.join(",").into(),
        ports.into(),
        age(o, now),
    ]
}

pub(super) fn ingress_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let p = &o["spec"]["parameters"];
    let group = text(p, "apiGroup");
    let parameters = match (p.is_object(), group) {
        (false, _) => "<none>".to_owned(),
        (true, "") => format!("{}/{}", text(p, "kind"), text(p, "name")),
        (true, g) => format!("{}.{g}/{}", text(p, "kind"), text(p, "name")),
    };
    vec![name(o), text(&o["spec"], "controller").into(), parameters.into(), age(o, now)]
}

pub(super) fn network_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), selector(&o["spec"]["podSelector"]), age(o, now)]
}

pub(super) fn ip_address(o: &Value, now: Timestamp) -> Vec<Value> {
    let p = &o["spec"]["parentRef"];
    let mut parent = text(p, "resource").to_owned();
    if !text(p, "group").is_empty() {
        parent += &format!(".{}", text(p, "group"));
    }
    for part in ["namespace", "name"].map(|f| text(p, f)).into_iter().filter(|s| !s.is_empty()) {
        parent += &format!("/{part}");
    }
    vec![name(o), or(&parent, "<none>"), age(o, now)]
}

pub(super) fn service_cidr(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), strings(&o["spec"], "cidrs").into(), age(o, now)]
}

pub(super) fn resource_quota(o: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in o["status"]["hard"].as_object().into_iter().flatten() {
        let used = text(&o["status"]["used"], resource);
        let line =
            format!("{resource}: {}/{}", if used.is_empty() { "0" } else { used }, hard.as_str().unwrap_or_default());
        if resource.starts_with("limits") { limits.push(line) } else { requests.push(line) }
    }
    vec![name(o), requests.join(", ").into(), limits.join(", ").into(), age(o, now)]
}

fn access_modes(v: &Value) -> Value {
    let short = |m: &str| match m {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    list(v, "accessModes").filter_map(Value::as_str).map(short).collect::<Vec<_>>().join(",").into()
}

fn phase(o: &Value) -> Value {
    if o["metadata"].get("deletionTimestamp").is_some() {
        "Terminating".into()
    } else {
        text(&o["status"], "phase").into()
    }
}

pub(super) fn persistent_volume(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let claim = &spec["claimRef"];
    let claim =
        if claim.is_object() { format!("{}/{}", text(claim, "namespace"), text(claim, "name")) } else { String::new() };
    vec![
        name(o),
        text(&spec["capacity"], "storage").into(),
        access_modes(spec),
        text(spec, "persistentVolumeReclaimPolicy").into(),
        phase(o),
        claim.into(),
        text(spec, "storageClassName").into(),
        or(text(spec, "volumeAttributesClassName"), "<unset>"),
        text(&o["status"], "reason").into(),
        age(o, now),
        or(text(spec, "volumeMode"), "<unset>"),
    ]
}

pub(super) fn persistent_volume_claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let bound = !text(spec, "volumeName").is_empty();
    let capacity = if bound { text(&status["capacity"], "storage") } else { "" };
    vec![
        name(o),
        phase(o),
        text(spec, "volumeName").into(),
        capacity.into(),
        if bound { access_modes(status) } else { "".into() },
        text(spec, "storageClassName").into(),
        or(text(spec, "volumeAttributesClassName"), "<unset>"),
        age(o, now),
        or(text(spec, "volumeMode"), "<unset>"),
    ]
}

pub(super) fn storage_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let default = text(&o["metadata"]["annotations"], "storageclass.kubernetes.io/is-default-class") == "true";
    let own = text(&o["metadata"], "name");
    vec![
        if default { format!("{own} (default)").into() } else { own.into() },
        text(o, "provisioner").into(),
        or(text(o, "reclaimPolicy"), "Delete"),
        or(text(o, "volumeBindingMode"), "Immediate"),
        flag(&o["allowVolumeExpansion"], false),
        age(o, now),
    ]
}

pub(super) fn volume_attachment(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    vec![
        name(o),
        text(spec, "attacher").into(),
        text(&spec["source"], "persistentVolumeName").into(),
        text(spec, "nodeName").into(),
        flag(&o["status"]["attached"], false),
        age(o, now),
    ]
}

pub(super) fn volume_attributes_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "driverName").into(), age(o, now)]
}

pub(super) fn csi_node(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), list(&o["spec"], "drivers").count().into(), age(o, now)]
}

pub(super) fn csi_driver(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let audiences: Vec<&str> = list(spec, "tokenRequests").map(|t| text(t, "audience")).collect();
    let modes = strings(spec, "volumeLifecycleModes");
    vec![
        name(o),
        flag(&spec["attachRequired"], true),
        flag(&spec["podInfoOnMount"], false),
        flag(&spec["storageCapacity"], false),
        if audiences.is_empty() { "<unset>".into() } else { audiences.join(",").into() },
        flag(&spec["requiresRepublish"], false),
        or(&modes, "<none>"),
        age(o, now),
    ]
}

pub(super) fn csi_storage_capacity(o: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "storageClassName").into(), or(text(o, "capacity"), "<unset>")]
}

pub(super) fn runtime_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "handler").into(), age(o, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(cells: Vec<Value>) -> Vec<String> {
        cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        for r in crate::registry::builtin().iter().filter(|r| !r.columns.is_empty()) {
            let o = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}});
            assert_eq!(r.strategy.cells(&o, Timestamp::now()).len(), r.columns.len(), "{r:?}");
        }
    }

    #[test]
    fn an_autoscaler_shows_what_it_aims_at() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
        let mut o = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 3, "metrics": [cpu]}});
        let row = |o: &Value| shown(horizontal_pod_autoscaler(o, Timestamp::UNIX_EPOCH))[1..6].to_vec();
        assert_eq!(row(&o), ["Deployment/web", "cpu: <unknown>/50%", "1", "3", "0"]);
        o["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "7m"}}}]});
        assert_eq!(row(&o)[1], "cpu: 7%/50%");
    }

    #[test]
    fn claims_and_quotas_show_what_is_used() {
        let pvc = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "local", "volumeMode": "Filesystem"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
        let row = shown(persistent_volume_claim(&pvc, Timestamp::UNIX_EPOCH));
        assert_eq!(row[1..7], ["Bound", "v", "1Gi", "RWO", "local", "<unset>"]);
        let quota = json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "2", "limits.cpu": "1"}, "used": {"pods": "1"}}});
        assert_eq!(shown(resource_quota(&quota, Timestamp::UNIX_EPOCH))[1..3], ["pods: 1/2", "limits.cpu: 0/1"]);
    }

    #[test]
    fn many_hosts_are_cut_short() {
        let rules: Vec<Value> = ["a", "b", "c", "d"].iter().map(|h| json!({"host": h})).collect();
        let o = json!({"metadata": {"name": "i"}, "spec": {"rules": rules, "tls": [{}]}});
        assert_eq!(shown(ingress(&o, Timestamp::UNIX_EPOCH))[1..5], ["<none>", "a,b,c + 1 more...", "", "80, 443"]);
    }
}
