//! The kubelet over a runtime in memory: what a pod's life looks like from the API.
//! Times are real, and chosen short.

use std::sync::Arc;

use api::k8s::core::v1::{ConfigMap, Event, Node, Pod};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::FakeApi;
use super::until;
use crate::kubelet::cri::fake::FakeRuntime;
use crate::{Config, NetworkState};

struct Kubelet {
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    dir: tempfile::TempDir,
    cgroup: String,
}

impl Kubelet {
    async fn new(pullable: &[&str]) -> Kubelet {
        let (_, network) = tokio::sync::watch::channel(Ok(()));
        Kubelet::on(FakeApi::new(), network, pullable).await
    }

    async fn on(api: Arc<FakeApi>, network: watch::Receiver<NetworkState>, pullable: &[&str]) -> Kubelet {
        let dir = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new(&["docker.io/library/a:1"], pullable);
        let mut config = Config::new("n1", vec!["127.0.0.1".parse().unwrap()], api.client(), network);
        config.data_dir = dir.path().join("data");
        config.run_dir = dir.path().join("run");
        config.pod_logs_dir = dir.path().join("logs");
        config.static_pod_dir = dir.path().join("manifests");
        config.cgroup_parent = format!("sampan-fake-{}", uuid::Uuid::new_v4().simple());
        let cgroup = config.cgroup_parent.clone();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let paths = config.paths();
        paths.create().unwrap();
        let (_, imported) = tokio::sync::watch::channel(true);
        crate::assemble(config, paths, runtime.clone(), imported, &tasks, &cancel).await.unwrap();
        Kubelet { api, runtime, cancel, tasks, dir, cgroup }
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})).unwrap();
        self.api.client().create(&pod).await.unwrap();
    }

    async fn pod<T>(&self, name: &str, what: &str, f: impl Fn(&Pod) -> Option<T>) -> T {
        until(&self.api, what, || self.api.get::<Pod>(&format!("d/{name}")).and_then(|p| f(&p))).await
    }

    async fn phase(&self, name: &str, phase: &str) -> Pod {
        let is = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase);
        self.pod(name, phase, |p| is(p).then(|| p.clone())).await
    }

    async fn end(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let cgroups = crate::kubelet::cgroup::Cgroups::detect(&self.cgroup);
        cgroups.remove_all().await;
        for mount in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(mount.path().join(&self.cgroup));
        }
        for mount in crate::containerd::mounts_below(&[self.dir.path()]) {
            nix::mount::umount(&mount).unwrap();
        }
        drop(self.dir);
    }
}

fn waiting(p: &Pod) -> Option<String> {
    p.status.as_ref()?.container_statuses.as_ref()?[0].state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn condition(p: &Pod, kind: &str) -> String {
    let all = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    all.into_iter().find(|c| c.type_ == kind).map(|c| c.status).unwrap_or_default()
}

/// Making cgroups and tmpfs needs root.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}

#[tokio::test]
async fn a_pod_runs_becomes_ready_and_is_deleted_when_it_has_ended() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.create("p", json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "c", "image": "a:1"}]})).await;
    let pod = k.pod("p", "ready", |p| (condition(p, "Ready") == "True").then(|| p.clone())).await;
    let status = pod.status.unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("10.42.0.7"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(status.start_time.is_some());
    k.api.client().delete::<Pod>("d", "p").await.unwrap();
    until(&k.api, "gone", || k.api.get::<Pod>("d/p").is_none().then_some(())).await;
    assert!(k.runtime.calls().contains(&"stop c 7".to_owned()), "{:?}", k.runtime.calls());
    until(&k.api, "events", || {
        let reasons: Vec<_> = k.api.all::<Event>().into_iter().filter_map(|e| e.reason).collect();
        ["Pulled", "Created", "Started", "Killing"].iter().all(|r| reasons.iter().any(|x| x == r)).then_some(())
    })
    .await;
    k.end().await;
}

#[tokio::test]
async fn what_others_write_into_a_status_is_put_right_or_taken_up() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.create(
        "p",
        json!({"containers": [{"name": "c", "image": "a:1"}], "readinessGates": [{"conditionType": "x/gate"}]}),
    )
    .await;
    k.phase("p", "Running").await;
    let write = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
    let client = k.api.client();
    let patch = |body: Value| {
        let client = client.clone();
        async move { client.patch::<Pod>("d", "p", "status", client::PatchKind::Strategic, &body).await.unwrap() }
    };
    patch(write("x/gate", "True")).await;
    k.pod("p", "ready", |p| (condition(p, "Ready") == "True").then_some(())).await;
    // As the node controller does while a node is not heard of.
    patch(write("Ready", "False")).await;
    k.pod("p", "ready again", |p| (condition(p, "Ready") == "True").then_some(())).await;
    assert_eq!(condition(&k.phase("p", "Running").await, "x/gate"), "True");
    k.end().await;
}

#[tokio::test]
async fn init_containers_run_in_turn_and_a_sidecar_stays_until_the_end() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.create(
        "p",
        json!({"restartPolicy": "Never",
            "initContainers": [{"name": "i", "image": "a:1"}, {"name": "s", "image": "a:1", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "a:1"}]}),
    )
    .await;
    k.runtime.until("the init container", |r| r.running() == [("i".to_owned(), 0)]).await;
    k.pod("p", "PodInitializing", |p| (waiting(p).as_deref() == Some("PodInitializing")).then_some(())).await;
    k.runtime.exit("i", 0);
    k.runtime.until("both", |r| r.running() == [("c".to_owned(), 0), ("s".to_owned(), 0)]).await;
    k.phase("p", "Running").await;
    k.runtime.exit("c", 0);
    let pod = k.phase("p", "Succeeded").await;
    assert_eq!(condition(&pod, "Initialized"), "True");
    assert!(k.runtime.running().is_empty());
    k.end().await;
}

#[tokio::test]
async fn a_container_that_fails_is_restarted_with_a_back_off() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.create("p", json!({"containers": [{"name": "c", "image": "a:1"}]})).await;
    k.runtime.until("running", |r| r.running() == [("c".to_owned(), 0)]).await;
    k.runtime.exit("c", 3);
    k.runtime.until("restarted", |r| r.running() == [("c".to_owned(), 1)]).await;
    k.runtime.exit("c", 3);
    let pod = k.pod("p", "back-off", |p| (waiting(p).as_deref() == Some("CrashLoopBackOff")).then(|| p.clone())).await;
    let status = &pod.status.unwrap().container_statuses.unwrap()[0];
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert!(
        status.state.as_ref().unwrap().waiting.as_ref().unwrap().message.as_ref().unwrap().starts_with("back-off 10s")
    );
    k.end().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_tried_again_later() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&["docker.io/library/b:1"]).await;
    k.create("p", json!({"containers": [{"name": "c", "image": "missing:1"}]})).await;
    k.pod("p", "an error", |p| (waiting(p).as_deref() == Some("ErrImagePull")).then_some(())).await;
    k.create("q", json!({"containers": [{"name": "c", "image": "b:1"}]})).await;
    k.phase("q", "Running").await;
    assert!(k.runtime.calls().contains(&"pull docker.io/library/b:1".to_owned()));
    k.end().await;
}

#[tokio::test]
async fn probes_decide_about_readiness_and_restarts() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.runtime.answer("ready", 1);
    let probe = |c: &str| json!({"exec": {"command": [c]}, "periodSeconds": 1, "failureThreshold": 2});
    k.create(
        "p",
        json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "a:1",
            "startupProbe": probe("startup"), "readinessProbe": probe("ready"), "livenessProbe": probe("live")}]}),
    )
    .await;
    let started = |p: &Pod| p.status.as_ref()?.container_statuses.as_ref()?[0].started.filter(|s| *s).map(|_| ());
    k.pod("p", "started", started).await;
    let pod = k.phase("p", "Running").await;
    assert_eq!(condition(&pod, "Ready"), "False");
    k.runtime.answer("ready", 0);
    k.pod("p", "ready", |p| (condition(p, "Ready") == "True").then_some(())).await;
    k.runtime.answer("live", 1);
    k.runtime.until("a restart", |r| r.calls().iter().any(|c| c == "start c 1")).await;
    k.end().await;
}

#[tokio::test]
async fn config_maps_reach_files_and_environment_and_files_follow_their_changes() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    let map = |v: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "m", "namespace": "d"}, "data": {"k": v}})).unwrap()
    };
    k.create(
        "p",
        json!({"containers": [{"name": "c", "image": "a:1", "args": ["$(V)"],
            "env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}]}),
    )
    .await;
    until(&k.api, "FailedMount", || {
        k.api.all::<Event>().into_iter().find(|e| e.reason.as_deref() == Some("FailedMount"))
    })
    .await;
    k.api.client().create(&map("one")).await.unwrap();
    k.phase("p", "Running").await;
    let config = k.runtime.config("c").unwrap();
    assert_eq!(config.args, ["one"]);
    let file =
        std::path::PathBuf::from(&config.mounts.iter().find(|m| m.container_path == "/v").unwrap().host_path).join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    let dir = client::dirwatch::DirWatch::new(file.parent().unwrap());
    k.api.client().update(&map("two")).await.unwrap();
    let mut dir = dir.unwrap();
    while std::fs::read_to_string(&file).unwrap() != "two" {
        dir.changed().await.unwrap();
    }
    k.api.client().delete_with::<Pod>("d", "p", &json!({"gracePeriodSeconds": 1})).await.unwrap();
    until(&k.api, "gone", || k.api.get::<Pod>("d/p").is_none().then_some(())).await;
    k.end().await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_fails_with_the_reason() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.create("p", json!({"nodeSelector": {"none": "such"}, "containers": [{"name": "c", "image": "a:1"}]})).await;
    let pod = k.phase("p", "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("NodeAffinity"));
    k.create("q", json!({"containers": [{"name": "c", "image": "a:1", "resources": {"requests": {"cpu": "10000"}}}]}))
        .await;
    assert_eq!(k.phase("q", "Failed").await.status.unwrap().reason.as_deref(), Some("OutOfcpu"));
    k.end().await;
}

#[tokio::test]
async fn a_deadline_fails_the_pod() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    k.create("p", json!({"activeDeadlineSeconds": 1, "containers": [{"name": "c", "image": "a:1"}]})).await;
    k.runtime.until("running", |r| !r.running().is_empty()).await;
    assert_eq!(k.phase("p", "Failed").await.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    k.end().await;
}

#[tokio::test]
async fn the_node_registers_and_says_that_it_is_ready() {
    if !root() {
        return;
    }
    let k = Kubelet::new(&[]).await;
    let node = until(&k.api, "ready", || {
        let node = k.api.get::<Node>("n1")?;
        let ready = node.status.as_ref()?.conditions.as_ref()?.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        ready.then_some(node)
    })
    .await;
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "n1");
    let info = node.status.unwrap().node_info.unwrap();
    assert_eq!((info.container_runtime_version.as_str(), info.kubelet_version.as_str()), ("fake://1", api::VERSION));
    let lease = || k.api.get::<api::k8s::coordination::v1::Lease>("kube-node-lease/n1");
    until(&k.api, "a lease", || lease().and_then(|l| l.spec?.renew_time)).await;
    k.end().await;
}

#[tokio::test]
async fn a_restarted_node_does_not_say_that_it_is_not_ready_while_its_network_is_found() {
    if !root() {
        return;
    }
    let api = FakeApi::new();
    let ready = json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let node: Node = serde_json::from_value(ready).unwrap();
    api.client().create(&node).await.unwrap();
    let (found, network) = watch::channel(Err("not yet".to_owned()));
    let k = Kubelet::on(api.clone(), network, &[]).await;
    let node = || api.get::<Node>("n1").and_then(|n| n.status).unwrap_or_default();
    let condition = || node().conditions.into_iter().flatten().find(|c| c.type_ == "Ready").unwrap();
    let reported = || node().capacity.is_some();
    until(&api, "registered", || api.get::<Node>("n1").and_then(|n| n.metadata.labels)).await;
    // Nothing is reported before the network is there, and then that the node is ready.
    assert!(!reported());
    assert_eq!(condition().status, "True");
    found.send(Ok(())).unwrap();
    until(&api, "a status", || reported().then_some(())).await;
    assert_eq!(condition().reason.as_deref(), Some("KubeletReady"));
    k.end().await;
}
