//! Machines that join: tokens, names, and three hosts that are one cluster.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::hosts::{Host, Lab, lacking};
use crate::lab::{Cluster, eventually, skipped};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - name: c
        image: docker.io/library/sampan-test:1
        command: [sh, -c, "hostname >/bin/index.html; exec httpd -f -p 8080 -h /bin"]
        ports: [{containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"#;

/// Runs `sampan agent`, which must be refused, and returns what it says.
fn refused(c: &Cluster, arguments: &[&str]) -> String {
    let out = Command::new("timeout")
        .arg("20")
        .arg(env!("CARGO_BIN_EXE_sampan"))
        .args(["agent", "--node-name=joiner", "--node-ip=127.0.0.1", "--data-dir"])
        .arg(c.directory().join("joiner"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(matches!(out.status.code(), Some(1 | 2)), "{arguments:?} should have been refused: {out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn who_may_not_join_is_told_why() {
    if let Some(why) = lacking() {
        return skipped(&why);
    }
    let c = Cluster::start();
    let url = c.url();
    let join = format!("--join={url}");
    let token = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sampan"));
        command.args(["token", "--kubeconfig"]).arg(c.kubeconfig()).args(arguments);
        crate::hosts::succeeded(&mut command).trim().to_owned()
    };
    assert!(refused(&c, &[]).contains("has not joined a cluster yet"));
    assert!(refused(&c, &["--join=10.0.0.1:6443"]).contains("https://<host>:<port>"));
    assert!(refused(&c, &[&join, "--token=K10abc::server:x"]).contains("64 hexadecimal digits"));
    let forged = std::fs::read_to_string(c.directory().join("data/server/token")).unwrap().trim().to_owned() + "0";
    assert!(refused(&c, &[&join, &format!("--token={forged}")]).contains("refused the token"));
    let other = format!("--token=K10{}::server:x", "ab".repeat(32));
    let said = refused(&c, &[&join, &other]);
    assert!(said.contains("is not the server that the token is for") && said.contains("sampan token create"), "{said}");

    let short = token(&["create", "--ttl=5s", "--description=short"]);
    let good = token(&["create"]);
    assert!(token(&["list"]).contains("short"));
    eventually("the token expires", || !token(&["list"]).contains("short"));
    assert!(refused(&c, &[&join, &format!("--token={short}")]).contains("expired"));
    c.apply("apiVersion: v1\nkind: Node\nmetadata: {name: joiner}\n");
    let said = refused(&c, &[&join, &format!("--token={good}")]);
    assert!(said.contains("another machine has joined under this name") && said.contains("--node-name"), "{said}");
    let id = good.split("::").last().unwrap().split(':').next().unwrap().to_owned();
    assert_eq!(token(&["delete", &id]), format!("bootstrap token {id:?} deleted"));
    assert!(refused(&c, &[&join, &format!("--token={good}")]).contains("refused the token"));
}

/// A cluster of three hosts, the first of them the server.
fn three() -> (Lab, [Host; 3]) {
    let mut lab = Lab::new();
    let mut server = lab.host();
    // Longer than two heartbeats, so that a busy machine loses no node that is there.
    server.serve(&["--node-monitor-grace-period=22"]);
    let command = server.sampan_says(&["token", "create", "--print-join-command"]);
    let mut others = [lab.host(), lab.host()];
    for o in &mut others {
        o.join(&command);
    }
    let [second, third] = others;
    eventually("three nodes are ready", || ready(&server) == ["h1", "h2", "h3"]);
    (lab, [server, second, third])
}

/// The names of the ready nodes.
fn ready(server: &Host) -> Vec<String> {
    let all = server
        .words("nodes", r#"range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end"#);
    all.iter().filter_map(|n| n.strip_suffix("=True")).map(str::to_owned).collect()
}

/// The nodes of the pods that are running and not ending.
fn spread(server: &Host) -> Vec<String> {
    let path = r#"range .items[*]}{.spec.nodeName}={.status.phase}{.metadata.deletionTimestamp} {end"#;
    let mut nodes: Vec<String> = server
        .words("pods -l app=web", path)
        .iter()
        .filter_map(|n| n.strip_suffix("=Running"))
        .map(str::to_owned)
        .collect();
    nodes.sort();
    nodes
}

#[test]
fn three_hosts_are_one_cluster_and_one_may_fail() {
    if let Some(why) = lacking() {
        return skipped(&why);
    }
    let (_lab, mut hosts) = three();
    let server = &hosts[0];
    server.apply(WEB);
    server.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(spread(server), ["h1", "h2", "h3"]);

    let pods = server.words("pods -l app=web", ".items[*].metadata.name");
    let addresses = server.words("pods -l app=web", ".items[*].status.podIP");
    let service = server.words("service web", ".spec.clusterIP").remove(0);
    let inside =
        |pod: &str, url: &str| server.kubectl(&["exec", pod, "--", "wget", "-q", "-O", "-", url]).trim().to_owned();
    for pod in &pods {
        for (address, name) in addresses.iter().zip(&pods) {
            assert_eq!(inside(pod, &format!("http://{address}:8080/")), *name, "pod to pod");
        }
        for url in [format!("http://{service}/"), "http://web.default.svc.cluster.local/".into(), "http://web/".into()]
        {
            assert!(pods.contains(&inside(pod, &url)), "{url} from {pod}");
        }
        assert!(pods.contains(&inside(pod, &format!("http://{}:30080/", hosts[2].address))), "a node port from {pod}");
        assert!(server.kubectl(&["logs", pod]).is_empty());
    }
    for from in &hosts {
        let urls = hosts.iter().map(|h| format!("http://{}:30080/", h.address));
        for url in urls.chain([format!("http://{service}/")]) {
            eventually(&format!("{url} from {}", from.name), || from.reads(&url).is_some_and(|p| pods.contains(&p)));
        }
    }
    a_cut_link(&hosts, &service);

    // Pods outlive their agent, and the agent needs neither token nor server to come back.
    let id = |h: &Host| h.words("pods -l app=web", ".items[*].status.containerStatuses[0].containerID");
    let before = id(&hosts[0]);
    hosts[1].kill();
    hosts[1].rejoin();
    hosts[1].says("node registered");
    assert_eq!(id(&hosts[0]), before);

    let networks = hosts.iter().flat_map(|h| h.mounts()).filter(|m| m.contains("/netns/cni-")).count();
    assert!(networks >= 3, "{networks} pods' network namespaces are where uninstall looks for them");
    for h in &mut hosts {
        let out = h.uninstall();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(h.traces().is_empty(), "{} is not as it was: {:#?}", h.name, h.traces());
    }
}

/// A host's link is cut: it becomes not ready, its pod goes elsewhere, the service answers all the
/// while, and the host comes back by itself.
fn a_cut_link(hosts: &[Host; 3], service: &str) {
    let server = &hosts[0];
    let ((stop, stopped), silent) = (mpsc::channel::<()>(), AtomicU32::new(0));
    let url = format!("http://{service}/");
    std::thread::scope(|s| {
        let silent = &silent;
        let url = &url;
        s.spawn(move || {
            // Ends when the sender is gone, also by a failure below.
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                // A client tries again; an endpoint that has just died is one in three.
                if !(0..6).any(|_| server.reads(url).is_some()) {
                    silent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        hosts[2].link("down");
        eventually("the cut host is not ready", || ready(server) == ["h1", "h2"]);
        eventually("its pod runs elsewhere", || {
            let nodes = spread(server);
            nodes.len() == 3
                && !nodes.contains(&"h3".to_owned())
                && server.words("deployment web", ".status.readyReplicas") == ["3"]
        });
        hosts[2].link("up");
        eventually("the host is back", || ready(server) == ["h1", "h2", "h3"]);
        eventually("its old pod is gone", || server.words("pods -l app=web", ".items[*].metadata.name").len() == 3);
        drop(stop);
    });
    assert_eq!(silent.load(Ordering::Relaxed), 0, "the service was silent");
}
