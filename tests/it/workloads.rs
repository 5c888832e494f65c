//! Controllers and scheduler against the real API, with nodes that run nothing.

use crate::lab::{Cluster, eventually};

const WORKLOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "nginx:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec:
  selector: {matchLabels: {app: ds}}
  template:
    metadata: {labels: {app: ds}}
    spec: {containers: [{name: c, image: "busybox:1"}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1"}]}}}
"#;

fn set_pod_status(c: &Cluster, pod: &str, status: &str) {
    c.kubectl(&["patch", "pod", pod, "--subresource=status", "--type=merge", "-p", status]);
}

fn pods(c: &Cluster, selector: &str) -> Vec<String> {
    c.kubectl(&["get", "pods", "-l", selector, "-o", "name"])
        .split_whitespace()
        .map(|p| p.trim_start_matches("pod/").to_owned())
        .collect()
}

#[test]
fn a_workload_is_made_scheduled_balanced_rolled_out_and_undone() {
    let c = Cluster::start();
    c.add_fake_node("n1");
    c.add_fake_node("n2");
    c.apply(WORKLOAD);
    let bound = |selector: &str, n: usize| {
        let nodes = c.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[*].spec.nodeName}"]);
        nodes.split_whitespace().count() == n
    };
    eventually("three pods are bound", || bound("app=web", 3));
    eventually("every node has its daemon", || bound("app=ds", 2));
    eventually("the job has its pod", || bound("job-name=job", 1));
    assert_ne!(c.field(&["node", "n1"], ".spec.podCIDR"), c.field(&["node", "n2"], ".spec.podCIDR"));
    let port: u16 = c.field(&["svc", "web"], ".spec.ports[0].nodePort").parse().unwrap();
    assert!((30000..=32767).contains(&port));
    assert!(c.field(&["svc", "web"], ".spec.clusterIP").starts_with("10.43."));

    for (i, pod) in pods(&c, "app=web").iter().enumerate() {
        let status = format!(
            r#"{{"status":{{"phase":"Running","podIP":"10.42.0.{0}","podIPs":[{{"ip":"10.42.0.{0}"}}],"conditions":[{{"type":"Ready","status":"True"}}]}}}}"#,
            i + 2
        );
        set_pod_status(&c, pod, &status);
    }
    eventually("the slice has three endpoints", || {
        c.kubectl(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=web",
            "-o",
            "jsonpath={.items[*].endpoints[*].conditions.ready}",
        ]) == "true true true"
    });
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"]);

    set_pod_status(&c, &pods(&c, "job-name=job")[0], r#"{"status":{"phase":"Succeeded"}}"#);
    c.kubectl(&["wait", "--for=condition=complete", "job/job", "--timeout=20s"]);
    assert_eq!(c.field(&["job", "job"], ".status.succeeded"), "1");

    c.kubectl(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"nginx:2"}]}}}}"#,
    ]);
    eventually("a second replica set", || {
        c.kubectl(&["get", "rs", "-l", "app=web", "-o", "name"]).lines().count() == 2
    });
    assert_eq!(c.field(&["deployment", "web"], ".metadata.annotations.deployment\\.kubernetes\\.io/revision"), "2");
    c.kubectl(&["rollout", "undo", "deployment/web", "--to-revision=1"]);
    eventually("the first template is back as revision 3", || {
        c.field(&["deployment", "web"], ".metadata.annotations.deployment\\.kubernetes\\.io/revision") == "3"
    });
    c.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    eventually("no pod is wanted", || {
        c.field(&["deployment", "web"], ".status.replicas") == "0"
            || c.field(&["deployment", "web"], ".status.replicas").is_empty()
    });
}

#[test]
fn deleting_an_owner_in_each_way_does_what_upstream_does() {
    let c = Cluster::start();
    let all = |selector: &str| c.kubectl(&["get", "rs,pods", "-l", selector, "-o", "name"]).lines().count();
    for policy in ["background", "foreground", "orphan"] {
        c.apply(WORKLOAD);
        eventually("the pods", || pods(&c, "app=web").len() == 3);
        c.kubectl(&["delete", "deployment", "web", &format!("--cascade={policy}")]);
        if policy == "orphan" {
            eventually("the replica set has no owner", || {
                c.kubectl(&["get", "rs", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.ownerReferences}"])
                    .is_empty()
            });
            assert_eq!(pods(&c, "app=web").len(), 3);
        } else {
            eventually("the dependents go", || all("app=web") == 0);
        }
    }
}

#[test]
fn a_namespace_goes_with_everything_in_it() {
    let c = Cluster::start();
    c.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: space}\n");
    eventually("its account", || c.field(&["sa", "default", "-n", "space"], ".metadata.name") == "default");
    c.apply_with(&["apply", "-n", "space", "-f", "-"], WORKLOAD);
    c.kubectl(&["delete", "namespace", "space", "--timeout=40s"]);
    assert_eq!(c.field(&["ns", "space"], ".metadata.name"), "");
    assert_eq!(c.kubectl(&["get", "all,cm,sa", "-n", "space", "-o", "name"]), "");
}

#[test]
fn a_silent_node_is_given_up_and_its_pods_move() {
    let c = Cluster::with(&["--disable-agent", "--node-monitor-grace-period=3"]);
    c.add_fake_node("quiet");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: i}]\n  tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}]\n";
    c.apply(pod);
    eventually("the pod is bound", || c.field(&["pod", "p"], ".spec.nodeName") == "quiet");
    eventually("the node is given up", || {
        c.field(&["node", "quiet"], ".status.conditions[?(@.type==\"Ready\")].status") == "Unknown"
    });
    eventually("the pod is told to go", || !c.field(&["pod", "p"], ".metadata.deletionTimestamp").is_empty());
}

#[test]
fn a_disruption_budget_lets_go_as_many_pods_as_it_can_spare() {
    let c = Cluster::start();
    c.add_fake_node("n1");
    c.apply(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\n\
         spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}\n---\n\
         apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: web}\n\
         spec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    \
         metadata: {labels: {app: web}}\n    spec: {containers: [{name: c, image: i}]}\n",
    );
    eventually("two pods", || pods(&c, "app=web").len() == 2);
    let all = pods(&c, "app=web");
    let running = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    all.iter().for_each(|p| set_pod_status(&c, p, running));
    eventually("one may go", || c.field(&["pdb", "web"], ".status.disruptionsAllowed") == "1");
    let evict = |pod: &str| {
        let body = format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}"}}}}"#);
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        c.kubectl_with(&["create", "--raw", &path, "-f", "-"], &body)
    };
    assert!(evict(&all[0]).status.success());
    assert_eq!(
        c.field(&["pod", &all[0]], ".status.conditions[?(@.type=='DisruptionTarget')].reason"),
        "EvictionByEvictionAPI"
    );
    eventually("none may go", || c.field(&["pdb", "web"], ".status.currentHealthy") == "1");
    let told = String::from_utf8_lossy(&evict(&all[1]).stderr).into_owned();
    assert!(told.contains("violate the pod's disruption budget"), "{told}");
}

#[test]
fn endpoints_made_by_hand_are_mirrored_into_slices() {
    let c = Cluster::start();
    c.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n---\n\
         apiVersion: v1\nkind: Endpoints\nmetadata: {name: s}\nsubsets: [{addresses: [{ip: 10.1.2.3}], ports: [{port: 80}]}]\n",
    );
    let addresses = || {
        let path = "jsonpath={.items[*].endpoints[*].addresses[0]}";
        c.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=s", "-o", path])
    };
    eventually("the address is mirrored", || addresses() == "10.1.2.3");
    c.kubectl(&[
        "patch",
        "ep",
        "s",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/subsets/0/addresses/0/ip","value":"10.1.2.4"}]"#,
    ]);
    eventually("the change is mirrored", || addresses() == "10.1.2.4");
    c.kubectl(&["delete", "ep", "s"]);
    eventually("the slice is gone", || addresses().is_empty());
}

#[test]
fn a_finished_job_goes_with_its_pods_when_it_asked_for_it() {
    let c = Cluster::start();
    c.add_fake_node("n1");
    c.apply(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec:\n  ttlSecondsAfterFinished: 0\n  \
         template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}\n",
    );
    eventually("the job has its pod", || pods(&c, "job-name=j").len() == 1);
    set_pod_status(&c, &pods(&c, "job-name=j")[0], r#"{"status":{"phase":"Succeeded"}}"#);
    eventually("the job is gone", || c.kubectl(&["get", "jobs,pods", "-o", "name"]).is_empty());
}
