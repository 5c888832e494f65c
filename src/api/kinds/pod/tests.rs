//! Pods, and what upstream says of them.

use super::*;

fn told(errors: ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A pod with some more in its spec, as it is after defaults.
fn with(extra: Value) -> Value {
    let mut p = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    p["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Pod.prepare_create(&mut p);
    Pod.default(&mut p);
    p
}

/// A pod whose container has some more.
fn container(extra: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i:1"});
    c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    with(json!({"containers": [c]}))
}

#[test]
fn specs_are_checked_in_upstreams_words() {
    let cases: Vec<(Value, &[&str])> = vec![
        (with(json!({})), &[]),
        (with(json!({"containers": []})), &["spec.containers: Required value"]),
        (
            with(json!({"restartPolicy": "Sometimes", "dnsPolicy": "None"})),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ],
        ),
        (
            with(json!({"activeDeadlineSeconds": 0, "preemptionPolicy": "x"})),
            &[
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                "spec.preemptionPolicy: Unsupported value: \"x\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ],
        ),
        (
            with(
                json!({"volumes": [{"name": "v", "secret": {}}, {"name": "w", "hostPath": {"path": "/a/../b"}, "emptyDir": {}},
                {"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}],
                "serviceAccountName": "s"}),
            ),
            &[
                "spec.volumes[0].secret.secretName: Required value",
                "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[2].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            ],
        ),
        (
            with(json!({"tolerations": [{"operator": "Equal"}, {"key": "k", "operator": "Exists", "effect": "x"}]})),
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                "spec.tolerations[1].effect: Unsupported value: \"x\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
        (
            with(json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "x"}]})),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"x\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        (
            with(
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "Gt", "values": []}]}]}}}}),
            ),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
            ],
        ),
        (
            with(
                json!({"ephemeralContainers": [{"name": "e", "image": "i"}], "nodeName": "n", "schedulingGates": [{"name": "a/b"}]}),
            ),
            &[
                "spec.ephemeralContainers: Forbidden: cannot be set on create",
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ],
        ),
    ];
    for (pod, wanted) in cases {
        assert_eq!(told(Pod.validate(&pod)), wanted);
    }
}

#[test]
fn containers_are_checked_in_upstreams_words() {
    let cases: Vec<(Value, &[&str])> = vec![
        (
            json!({"resources": {"requests": {"cpu": "2", "x": "1"}, "limits": {"cpu": "1", "example.org/d": "2"}}}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "spec.containers[0].resources.requests[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
                "spec.containers[0].resources.requests[x]: Invalid value: \"x\": must be a standard resource for containers",
            ],
        ),
        (
            json!({"env": [{"name": "A", "value": "v", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}},
                {"name": "B", "valueFrom": {}}]}),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope",
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ],
        ),
        (
            json!({"livenessProbe": {"httpGet": {"port": 0}, "successThreshold": 2}, "lifecycle": {"preStop": {}}}),
            &[
                "spec.containers[0].lifecycle.preStop: Required value: must specify a handler type",
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../x"}]}),
            &[
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
            ],
        ),
        (
            json!({"securityContext": {"runAsUser": -1, "procMount": "x", "seccompProfile": {"type": "Localhost"}}}),
            &[
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.containers[0].securityContext.procMount: Unsupported value: \"x\": supported values: \"Default\", \"Unmasked\"",
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        ),
        (
            json!({"ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
        ),
        (
            json!({"image": " i"}),
            &["spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"],
        ),
    ];
    for (extra, wanted) in cases {
        assert_eq!(told(Pod.validate(&container(extra))), wanted);
    }
}

#[test]
fn init_and_ephemeral_containers_have_rules_of_their_own() {
    let p =
        with(json!({"initContainers": [{"name": "c", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}));
    assert_eq!(
        told(Pod.validate(&p)),
        [
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            "spec.initContainers[0].name: Duplicate value: \"c\"",
        ]
    );
    let old = with(json!({}));
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] =
        json!([{"name": "e", "image": "i", "ports": [{"containerPort": 1}], "targetContainerName": "x"}]);
    Pod.default(&mut new);
    assert_eq!(
        told(Pod.validate_aspect("ephemeralcontainers", &new, &old)),
        [
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
        ]
    );
}

#[test]
fn an_update_changes_little() {
    type Change = fn(&mut Value);
    let cases: [(Change, &[&str]); 6] = [
        (|p| p["spec"]["containers"][0]["image"] = "i:2".into(), &[]),
        (|p| p["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]), &[]),
        (|p| p["spec"]["activeDeadlineSeconds"] = 5.into(), &[]),
        (
            |p| p["spec"]["containers"] = json!([]),
            &[
                "spec.containers: Required value",
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ],
        ),
        (
            |p| p["spec"]["schedulingGates"] = json!([{"name": "a/b"}]),
            &["spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'a/b'"],
        ),
        (
            |p| p["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"}),
            &[
                "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
                "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
            ],
        ),
    ];
    let old = with(json!({}));
    for (change, wanted) in cases {
        let mut new = old.clone();
        change(&mut new);
        assert_eq!(told(Pod.validate_changed(&new, &old)), wanted);
    }
    let mut new = old.clone();
    new["spec"]["hostPID"] = true.into();
    assert!(told(Pod.validate_update(&new, &old))[0].starts_with("spec: Forbidden: pod updates may not change fields"));
    // What waits for its gates may be told more narrowly where to run.
    let gated = with(json!({"schedulingGates": [{"name": "a/b"}], "nodeSelector": {"a": "b"}}));
    let mut new = gated.clone();
    new["spec"]["nodeSelector"]["c"] = "d".into();
    assert!(Pod.validate_update(&new, &gated).is_empty());
    new["spec"]["nodeSelector"]["a"] = "x".into();
    assert_eq!(Pod.validate_update(&new, &gated).len(), 1);
}

#[test]
fn a_container_that_ended_for_good_stays_ended() {
    let mut old = with(json!({"restartPolicy": "Never"}));
    old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"terminated": {"exitCode": 0}}}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    assert_eq!(
        told(Pod.validate_status(&new, &old)),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}
