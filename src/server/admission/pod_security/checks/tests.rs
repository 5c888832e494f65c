//! Pods, policies, and what upstream says of the one under the other.

use serde_json::json;

use super::*;

fn told(level: Level, version: Minor, pod: &Value) -> String {
    let violations = evaluate(LevelVersion { level, version }, Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
    details(&violations)
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {}, "spec": spec})
}

fn container(extra: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    c
}

const LATEST: Minor = crate::admission::pod_security::policy::LATEST;

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    let p = pod(json!({"containers": [container(json!({}))]}));
    assert_eq!(told(Level::Privileged, LATEST, &p), "");
    assert_eq!(told(Level::Baseline, LATEST, &p), "");
    assert_eq!(
        told(Level::Restricted, LATEST, &p),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    // Before capabilities, seccomp fields and privilege escalation were looked at.
    assert_eq!(
        told(Level::Restricted, 7, &p),
        "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)"
    );
}

#[test]
fn a_hardened_pod_is_restricted() {
    let p = pod(json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "a", "configMap": {}}, {"name": "b", "emptyDir": {}}],
        "containers": [container(json!({"securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}))],
    }));
    for version in [0, 8, 19, 22, 25, 30, 35, LATEST] {
        assert_eq!(told(Level::Restricted, version, &p), "", "{version}");
    }
}

#[test]
fn the_baseline_forbids_what_leads_to_the_host() {
    let cases = [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volumes \"a\", \"b\")",
        ),
        (
            json!({"containers": [container(json!({"ports": [{"hostPort": 80}, {"hostPort": 443}]}))]}),
            "hostPort (container \"c\" uses hostPorts 443, 80)",
        ),
        (
            json!({"containers": [container(json!({"livenessProbe": {"httpGet": {"host": "h"}}}))]}),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
        ),
        (
            json!({"containers": [container(json!({"securityContext": {"privileged": true}}))]}),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"containers": [container(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN", "KILL"]}}}))]}),
            "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"containers": [container(json!({"securityContext": {"procMount": "Unmasked"}}))]}),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "a"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (a)",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ];
    for (spec, wanted) in cases {
        assert_eq!(told(Level::Baseline, LATEST, &pod(spec)), wanted);
    }
    let tcp = pod(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}));
    assert_eq!(told(Level::Baseline, 31, &tcp), "forbidden sysctls (net.ipv4.tcp_rmem)");
    let probe = pod(json!({"containers": [container(json!({"livenessProbe": {"httpGet": {"host": "h"}}}))]}));
    assert_eq!(told(Level::Baseline, 33, &probe), "");
}

#[test]
fn annotations_name_profiles_too() {
    let p = json!({"metadata": {"annotations": {
        "container.apparmor.security.beta.kubernetes.io/c": "unconfined",
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}, "spec": {}});
    assert_eq!(
        told(Level::Baseline, 18, &p),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\"), \
         seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
}

#[test]
fn the_restricted_level_names_volumes_instead_of_the_baseline() {
    let p = pod(json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}]}));
    assert_eq!(
        told(Level::Restricted, LATEST, &p),
        "restricted volume types (volumes \"a\", \"n\" use restricted volume types \"hostPath\", \"nfs\")"
    );
}
