//! The whole agent against a private containerd: needs root, containerd and a static busybox.

use std::path::Path;
use std::sync::Arc;

use api::k8s::core::v1::Pod;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::FakeApi;
use super::until;
use crate::Config;

/// `None`, with a line that says why, where the machine lacks something.
fn machine() -> Option<()> {
    let missing = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/usr/bin/containerd").exists() {
        "no containerd"
    } else if !Path::new("/bin/busybox").exists() {
        "no static busybox"
    } else {
        return Some(());
    };
    eprintln!("skipped: {missing}");
    None
}

/// An image of the machine's static busybox, as `docker save` would write it.
fn busybox_tar(to: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let program = std::fs::read("/bin/busybox").unwrap();
    let mut add = |name: &str, data: &[u8]| {
        let mut h = tar::Header::new_gnu();
        h.set_size(data.len() as u64);
        h.set_mode(0o755);
        h.set_cksum();
        layer.append_data(&mut h, name, data).unwrap();
    };
    add("bin/busybox", &program);
    for applet in ["sh", "sleep", "cat", "echo", "id", "kill", "touch"] {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(tar::EntryType::Symlink);
        h.set_size(0);
        h.set_mode(0o777);
        layer.append_link(&mut h, format!("bin/{applet}"), "busybox").unwrap();
    }
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(tar::EntryType::Directory);
    h.set_size(0);
    h.set_mode(0o1777);
    h.set_cksum();
    layer.append_data(&mut h, "tmp/", std::io::empty()).unwrap();
    let layer = layer.into_inner().unwrap();
    let config = json!({"architecture": crate::images::oci::go_arch(), "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [crate::images::oci::digest(&layer)]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": ["busybox:1"], "Layers": ["layer.tar"]}]);
    let mut out = tar::Builder::new(std::fs::File::create(to).unwrap());
    for (name, data) in [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut h = tar::Header::new_gnu();
        h.set_size(data.len() as u64);
        h.set_mode(0o644);
        h.set_cksum();
        out.append_data(&mut h, name, data.as_slice()).unwrap();
    }
    out.finish().unwrap();
}

struct Host {
    config: Config,
    api: Arc<FakeApi>,
    cancel: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), crate::Error>>>,
    _dir: tempfile::TempDir,
}

impl Host {
    fn new(name: &str) -> Host {
        let dir = tempfile::Builder::new().prefix("sampan-agent-").tempdir_in("/var/tmp").unwrap();
        let api = FakeApi::new();
        let (network, receiver) = tokio::sync::watch::channel(Ok(()));
        std::mem::forget(network);
        let mut config = Config::new(name, vec!["127.0.0.1".parse().unwrap()], api.client(), receiver);
        config.data_dir = dir.path().join("data");
        config.run_dir = dir.path().join("run");
        config.pod_logs_dir = dir.path().join("logs");
        config.static_pod_dir = dir.path().join("manifests");
        config.cgroup_parent = format!("sampan-test-{name}-{}", std::process::id());
        config.cni_program = Some("/bin/false".into());
        let images = config.paths().images();
        std::fs::create_dir_all(&images).unwrap();
        std::fs::create_dir_all(&config.static_pod_dir).unwrap();
        busybox_tar(&images.join("busybox.tar"));
        Host { config, api, cancel: CancellationToken::new(), task: None, _dir: dir }
    }

    fn start(&mut self) {
        self.cancel = CancellationToken::new();
        self.task = Some(tokio::spawn(crate::run(self.config.clone(), self.cancel.clone())));
    }

    async fn stop(&mut self) {
        self.cancel.cancel();
        if let Some(t) = self.task.take() {
            t.await.unwrap().unwrap();
        }
    }

    fn pod(&self, key: &str) -> Option<Pod> {
        self.api.get::<Pod>(key)
    }

    async fn until_pod<T>(&self, key: &str, what: &str, f: impl Fn(&Pod) -> Option<T>) -> T {
        until(&self.api, what, || {
            if let Some(t) = &self.task {
                assert!(!t.is_finished(), "the agent ended");
            }
            self.pod(key).and_then(|p| f(&p))
        })
        .await
    }

    fn log(&self, pod: &Pod, container: &str, attempt: u32) -> String {
        let m = &pod.metadata;
        let annotations = m.annotations.clone().unwrap_or_default();
        // A static pod's own UID is in its mirror's annotation.
        let uid = annotations.get("kubernetes.io/config.mirror").or(m.uid.as_ref()).unwrap();
        let dir = self.config.paths().pod_log(m.namespace.as_ref().unwrap(), m.name.as_ref().unwrap(), uid);
        std::fs::read_to_string(dir.join(container).join(format!("{attempt}.log"))).unwrap_or_default()
    }

    async fn end(mut self) {
        self.stop().await;
        crate::containerd::stop_all(&self.config.paths(), &self.config.cgroup_parent).await;
        // Above our own tree; it was named by the test.
        for mount in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(mount.path().join(&self.config.cgroup_parent));
        }
    }
}

fn phase(p: &Pod) -> &str {
    p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn manifest(spec: Value) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_pod_runs_survives_the_agent_and_goes_with_its_manifest() {
    if machine().is_none() {
        return;
    }
    let mut host = Host::new("static");
    let text = manifest(json!({
        "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", "echo hello $WHO; exec sleep 1000"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "e", "mountPath": "/e"}]}],
        "volumes": [{"name": "e", "emptyDir": {}}]}));
    std::fs::write(host.config.static_pod_dir.join("web.yaml"), text).unwrap();
    let begun = std::time::Instant::now();
    host.start();
    let pod = host.until_pod("default/web-static", "a running static pod", |p| (phase(p) == "Running").then(|| p.clone())).await;
    eprintln!("static pod running after {:?}", begun.elapsed());
    let id = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].container_id.clone().unwrap();
    assert!(host.log(&pod, "c", 0).contains("stdout F hello web-static"), "{}", host.log(&pod, "c", 0));
    // The agent goes and comes; the very same container runs on.
    host.stop().await;
    host.start();
    until(&host.api, "a registered node", || host.api.get::<api::k8s::core::v1::Node>("static").and_then(|n| n.status)).await;
    let again = host.until_pod("default/web-static", "the pod again", |p| (phase(p) == "Running").then(|| p.clone())).await;
    let status = &again.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.container_id.as_ref(), Some(&id));
    assert_eq!(status.restart_count, 0);
    std::fs::remove_file(host.config.static_pod_dir.join("web.yaml")).unwrap();
    until(&host.api, "no mirror pod", || host.pod("default/web-static").is_none().then_some(())).await;
    host.end().await;
}
