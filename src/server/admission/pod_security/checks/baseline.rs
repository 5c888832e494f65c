//! What the baseline level forbids.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Found, Minor, Pod, Violation, name, named_containers, plural, quoted, setters, violation};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Safe sysctls and the version since which they are.
const SYSCTLS: [(&str, Minor); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
/// The first version whose rules are laxer for pods with users of their own.
pub(super) const OWN_USERS: Minor = 35;

fn text<'a>(v: &'a Value, path: &str) -> &'a str {
    v.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn strings<'a>(v: &'a Value, path: &str) -> impl Iterator<Item = &'a str> {
    v.pointer(path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn app_armor_profile(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    // Fields came later than annotations, and are looked at whatever the version.
    let field = |v: &Value| text(v, "/securityContext/appArmorProfile/type") == "Unconfined";
    let mut set_by = setters(field(pod.spec), &pod.containers_that(field));
    let mut bad = BTreeSet::new();
    if !set_by.is_empty() {
        bad.insert("Unconfined".to_owned());
    }
    let annotated: BTreeSet<String> = pod
        .annotations()
        .filter(|(k, v)| k.starts_with(APP_ARMOR) && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    if !annotated.is_empty() {
        let word = plural("annotation", "annotations", annotated.len());
        set_by = if set_by.is_empty() { word.to_owned() } else { format!("{set_by} and {word}") };
        bad.extend(annotated);
    }
    if bad.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", bad.len());
    let values = quoted(bad.iter().map(String::as_str));
    violation(reason, format!("{set_by} must not set AppArmor profile type to {values}"))
}

pub(super) fn capabilities(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let added = |c: &Value| strings(c, "/securityContext/capabilities/add").any(|a| !CAPABILITIES.contains(&a));
    let bad = pod.containers_that(added);
    let found: Found<'_> = pod
        .containers()
        .flat_map(|c| strings(c, "/securityContext/capabilities/add"))
        .filter(|a| !CAPABILITIES.contains(a))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", named_containers(&bad), quoted(found));
    violation("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"];
    let set: Vec<String> = fields.into_iter().filter(|f| pod.spec[*f] == true).map(|f| format!("{f}=true")).collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

pub(super) fn host_path_volumes(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let bad: Vec<&str> = pod.volumes().filter(|v| v["hostPath"].is_object()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("volume", "volumes", bad.len());
    violation("hostPath volumes", format!("{word} {}", quoted(bad)))
}

pub(super) fn host_ports(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let ports = |c: &Value| -> Vec<i64> {
        let all = c["ports"].as_array().into_iter().flatten();
        all.filter_map(|p| p["hostPort"].as_i64()).filter(|n| *n != 0).collect()
    };
    let bad = pod.containers_that(|c| !ports(c).is_empty());
    if bad.is_empty() {
        return None;
    }
    let found: BTreeSet<String> = pod.containers().flat_map(ports).map(|n| n.to_string()).collect();
    let (uses, word) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", found.len()));
    let list = found.into_iter().collect::<Vec<_>>().join(", ");
    violation("hostPort", format!("{} {uses} {word} {list}", named_containers(&bad)))
}

pub(super) fn host_of_probes(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    fn hosts(c: &Value) -> impl Iterator<Item = &str> {
        let both = |h: &str| [format!("{h}/httpGet/host"), format!("{h}/tcpSocket/host")];
        HANDLERS.into_iter().flat_map(both).map(|p| text(c, &p)).filter(|h| !h.is_empty())
    }
    let bad: Found<'_> = pod.containers().filter(|c| hosts(c).next().is_some()).map(name).collect();
    if bad.is_empty() {
        return None;
    }
    let found: Found<'_> = pod.containers().flat_map(hosts).collect();
    let bad: Vec<&str> = bad.into_iter().collect();
    let uses = plural("uses", "use", bad.len());
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", found.len());
    violation("probe or lifecycle host", format!("{} {uses} {word} {}", named_containers(&bad), quoted(found)))
}

pub(super) fn privileged(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let bad = pod.containers_that(|c| c["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", named_containers(&bad)))
}

pub(super) fn proc_mount(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= OWN_USERS && pod.has_own_users() {
        return None;
    }
    let given = |c: &Value| !matches!(text(c, "/securityContext/procMount"), "" | "Default");
    let bad = pod.containers_that(given);
    if bad.is_empty() {
        return None;
    }
    let found: Found<'_> =
        pod.containers().filter(|c| given(c)).map(|c| text(c, "/securityContext/procMount")).collect();
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", named_containers(&bad), quoted(found)),
    )
}

/// The security contexts of the pod itself and of its containers, each with a field.
fn contexts<'a>(pod: Pod<'a>, field: &'static str) -> (&'a Value, impl Iterator<Item = &'a Value>) {
    (&pod.spec["securityContext"][field], pod.containers().map(move |c| &c["securityContext"][field]))
}

pub(super) fn se_linux_options(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    let allowed = move |t: &str| {
        matches!(t, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (t == "container_engine_t" && version >= 31)
    };
    let set = |o: &Value, f: &str| !text(o, f).is_empty();
    let is_bad = |o: &Value| !allowed(text(o, "/type")) || set(o, "/user") || set(o, "/role");
    let (own, others) = contexts(pod, "seLinuxOptions");
    let set_by = setters(is_bad(own), &pod.containers_that(|c| is_bad(&c["securityContext"]["seLinuxOptions"])));
    if set_by.is_empty() {
        return None;
    }
    let all: Vec<&Value> = std::iter::once(own).chain(others).collect();
    let types: Found<'_> = all.iter().map(|o| text(o, "/type")).filter(|t| !allowed(t)).collect();
    let mut bad = Vec::new();
    if !types.is_empty() {
        bad.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| set(o, &format!("/{field}"))) {
            bad.push(format!("{field} may not be set"));
        }
    }
    violation("seLinuxOptions", format!("{set_by} set forbidden securityContext.seLinuxOptions: {}", bad.join("; ")))
}

pub(super) fn seccomp_annotations(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let allowed = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let keys: Vec<String> = std::iter::once(SECCOMP_POD.to_owned())
        .chain(pod.containers().map(|c| format!("{SECCOMP_CONTAINER}{}", name(c))))
        .collect();
    let bad: BTreeSet<String> = pod
        .annotations()
        .filter(|(k, v)| keys.iter().any(|o| o == k) && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", bad.len());
    violation("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

/// Whether a seccomp profile is there, and of a kind that is allowed.
pub(super) fn seccomp_is_good(profile: &Value) -> bool {
    matches!(text(profile, "/type"), "RuntimeDefault" | "Localhost")
}

pub(super) fn seccomp_profile(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let is_bad = |p: &Value| p.is_object() && !seccomp_is_good(p);
    let (own, others) = contexts(pod, "seccompProfile");
    let set_by = setters(is_bad(own), &pod.containers_that(|c| is_bad(&c["securityContext"]["seccompProfile"])));
    if set_by.is_empty() {
        return None;
    }
    let found: Found<'_> = std::iter::once(own).chain(others).filter(|p| is_bad(p)).map(|p| text(p, "/type")).collect();
    violation(
        "seccompProfile",
        format!("{set_by} must not set securityContext.seccompProfile.type to {}", quoted(found)),
    )
}

pub(super) fn sysctls(pod: Pod<'_>, version: Minor) -> Option<Violation> {
    let safe = |n: &str| SYSCTLS.iter().any(|(s, since)| *s == n && version >= *since);
    let all = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten().map(name);
    let bad: Vec<&str> = all.filter(|n| !safe(n)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn windows_host_process(pod: Pod<'_>, _: Minor) -> Option<Violation> {
    let is_set = |v: &Value| v["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let set_by = setters(is_set(pod.spec), &pod.containers_that(is_set));
    if set_by.is_empty() {
        return None;
    }
    violation("hostProcess", format!("{set_by} must not set securityContext.windowsOptions.hostProcess=true"))
}
