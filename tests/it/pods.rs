//! What the kubelet does for running pods, seen with real ones: probes, host ports, owners of volumes.

use crate::hosts::{Host, Lab, lacking};
use crate::lab::{eventually, skipped};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: live}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: docker.io/library/sampan-test:1
    command: [sh, -c, "echo ok > /tmp/h; (sleep 3; rm /tmp/h) & httpd -f -p 8080 -h /tmp"]
    livenessProbe: {httpGet: {path: /h, port: 8080}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: ready, labels: {app: ready}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: docker.io/library/sampan-test:1
    command: [sh, -c, "httpd -f -p 8080 -h /tmp"]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /h, port: web}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: ready}
spec: {selector: {app: ready}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: docker.io/library/sampan-test:1
    command: [sh, -c, "sleep 3; httpd -f -p 9000 -h /tmp"]
    startupProbe: {tcpSocket: {port: 9000}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: docker.io/library/sampan-test:1
    command: [sh, -c, "echo by host port > /tmp/index.html; httpd -f -p 80 -h /tmp"]
    ports: [{containerPort: 80, hostPort: 8088}]
---
apiVersion: v1
kind: Pod
metadata: {name: owner}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000}
  volumes: [{name: e, emptyDir: {}}, {name: c, configMap: {name: kube-root-ca.crt, defaultMode: 0640}}]
  containers:
  - name: c
    image: docker.io/library/sampan-test:1
    command: [sh, -c, "id; echo x > /e/f; ls -lnd /e /e/f; ls -lnL /c/ca.crt"]
    volumeMounts: [{name: e, mountPath: /e}, {name: c, mountPath: /c}]
---
apiVersion: v1
kind: Pod
metadata: {name: unnamed}
spec: {containers: [{name: c, image: "Not-An-Image:1"}]}
"#;

fn endpoints_ready(host: &Host) -> bool {
    host.words("endpointslices -l kubernetes.io/service-name=ready", ".items[0].endpoints[0].conditions.ready")
        == ["true"]
}

#[test]
fn pods_are_probed_and_reached_by_host_ports_and_own_their_volumes() {
    if let Some(why) = lacking() {
        return skipped(&why);
    }
    let mut lab = Lab::new();
    let (mut host, outside) = (lab.host(), lab.host());
    host.serve(&[]);
    host.says("image imported");
    eventually("the default account", || host.kubectl(&["get", "sa"]).contains("default"));
    host.apply(PODS);
    let status = |pod: &str, field: &str| {
        host.words(&format!("pod {pod}"), &format!(".status.containerStatuses[0].{field}")).concat()
    };
    let events = |pod: &str| host.kubectl(&["events", "--for", &format!("pod/{pod}")]);

    let url = format!("http://{}:8088/", host.address);
    for from in [&host, &outside] {
        eventually("the host port answers", || from.reads(&url).as_deref() == Some("by host port"));
    }
    let from_itself = host.kubectl(&["exec", "host", "--", "wget", "-qO-", &url]);
    assert_eq!(from_itself.trim(), "by host port", "a pod reaches itself by its host port");

    eventually("a readiness probe has failed", || events("ready").contains("HTTP probe failed with statuscode: 404"));
    assert!(!endpoints_ready(&host));
    host.kubectl(&["exec", "ready", "--", "sh", "-c", "echo ok > /tmp/h"]);
    eventually("the ready pod is an endpoint", || endpoints_ready(&host));
    host.kubectl(&["exec", "ready", "--", "rm", "/tmp/h"]);
    eventually("the pod that is not ready is none", || !endpoints_ready(&host));
    assert_eq!(status("ready", "restartCount"), "0");

    eventually("the late container has started", || status("late", "ready") == "true");
    assert_eq!(status("late", "restartCount"), "0", "liveness waits for the startup probe");
    assert!(events("late").contains("connect: connection refused"), "{}", events("late"));

    eventually("liveness restarts", || status("live", "restartCount").parse().is_ok_and(|n: u32| n > 0));
    let said = events("live");
    assert!(said.contains("Container c failed liveness probe, will be restarted"), "{said}");
    eventually("the second restart waits", || {
        events("live").contains("Back-off restarting failed container c in pod live_default(")
    });

    let owned = host.kubectl(&["logs", "owner"]);
    assert!(owned.contains("uid=1000 gid=2000 groups=2000,3000"), "{owned}");
    assert!(owned.contains("drwxrwsrwx    2 0        3000"), "{owned}");
    assert!(owned.contains("    1 1000     3000"), "{owned}");
    assert!(owned.contains("-rw-r-----    1 0        3000"), "{owned}");

    assert_eq!(status("unnamed", "state.waiting.reason"), "InvalidImageName");
    assert!(
        events("unnamed").contains("repository name (library/Not-An-Image) must be lowercase"),
        "{}",
        events("unnamed")
    );

    host.kubectl(&["delete", "pod", "host"]);
    eventually("the host port is free", || outside.reads(&url).is_none());
}
