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
    }
}

/// Whatever became of the test, nothing of it stays.
impl Drop for Host {
    fn drop(&mut self) {
        self.cancel.cancel();
        let config = self.config.clone();
        let clean = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(crate::containerd::stop_all(&config.paths(), &config.cgroup_parent));
            // Above our own tree; it was named by the test.
            for mount in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(mount.path().join(&config.cgroup_parent));
            }
        });
        let _ = clean.join();
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
    let pod = host
        .until_pod("default/web-static", "a running static pod", |p| (phase(p) == "Running").then(|| p.clone()))
        .await;
    eprintln!("static pod running after {:?}", begun.elapsed());
    let id = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].container_id.clone().unwrap();
    assert!(host.log(&pod, "c", 0).contains("stdout F hello web-static"), "{}", host.log(&pod, "c", 0));
    // The agent goes and comes; the very same container runs on.
    host.stop().await;
    host.start();
    until(&host.api, "a registered node", || host.api.get::<api::k8s::core::v1::Node>("static").and_then(|n| n.status))
        .await;
    let again =
        host.until_pod("default/web-static", "the pod again", |p| (phase(p) == "Running").then(|| p.clone())).await;
    let status = &again.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.container_id.as_ref(), Some(&id));
    assert_eq!(status.restart_count, 0);
    std::fs::remove_file(host.config.static_pod_dir.join("web.yaml")).unwrap();
    until(&host.api, "no mirror pod", || host.pod("default/web-static").is_none().then_some(())).await;
    host.end().await;
}

/// A certificate authority's worth of TLS for one test: server settings, and a client that is a master.
fn tls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut ca_params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca_params, ca_key);
    let leaf = |name: &str, group: &str| {
        let mut p = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        p.distinguished_name.push(rcgen::DnType::CommonName, name);
        p.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert: CertificateDer<'static> = p.signed_by(&key, &issuer).unwrap().der().clone();
        (vec![cert], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let (cert, key) = leaf("node", "nodes");
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(cert, key)
        .unwrap();
    let (cert, key) = leaf("admin", "system:masters");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(cert, key)
        .unwrap();
    (Arc::new(server), Arc::new(client))
}

async fn connect(port: u16, tls: &Arc<rustls::ClientConfig>) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await.unwrap()
}

/// One request; the whole answer as text.
async fn get(port: u16, tls: &Arc<rustls::ClientConfig>, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut s = connect(port, tls).await;
    s.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut out = Vec::new();
    let _ = s.read_to_end(&mut out).await;
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_the_api_have_limits_volumes_hooks_logs_and_exec() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if machine().is_none() {
        return;
    }
    let mut host = Host::new("api");
    let (server, client) = tls();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    host.config.serving_tls = Some(server);
    host.config.kubelet_bind = ([127, 0, 0, 1], port).into();
    let secret: api::k8s::core::v1::Secret =
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "d"}, "data": {"key": "dmFsdWU="}}))
            .unwrap();
    host.api.client().create(&secret).await.unwrap();
    let out = tempfile::tempdir_in("/var/tmp").unwrap();
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "labels": {"l": "x"}}, "spec": {
        "nodeName": "api", "hostNetwork": true, "terminationGracePeriodSeconds": 5,
        "initContainers": [{"name": "i", "image": "busybox:1", "command": ["sh", "-c", "echo made > /e/init"],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}, "volumeMounts": [{"name": "e", "mountPath": "/e"}]}],
        "containers": [{"name": "c", "image": "busybox:1",
            "command": ["sh", "-c", "cat /e/init /s/key /p/labels /p/token; id -u; touch /e/ready; trap 'exit 0' TERM; while :; do sleep 1; done"],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
                "seccompProfile": {"type": "RuntimeDefault"}, "allowPrivilegeEscalation": false},
            "readinessProbe": {"exec": {"command": ["cat", "/e/ready"]}, "periodSeconds": 1},
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /out/stopped"]}}},
            "volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "s", "mountPath": "/s"},
                {"name": "p", "mountPath": "/p"}, {"name": "o", "mountPath": "/out"}]}],
        "volumes": [{"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "o", "hostPath": {"path": out.path(), "type": "Directory"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]}}))
    .unwrap();
    std::os::unix::fs::chown(out.path(), Some(1000), None).unwrap();
    host.start();
    host.api.client().create(&pod).await.unwrap();
    let ready = |p: &Pod| {
        p.status
            .as_ref()?
            .conditions
            .as_ref()?
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
            .then(|| p.clone())
    };
    let begun = std::time::Instant::now();
    let pod = host.until_pod("d/p", "ready", ready).await;
    // Events carry a pod forward; the relist would have taken a minute.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    eprintln!("pod of the API ready after {:?}", begun.elapsed());
    let log = get(port, &client, "/containerLogs/d/p/c").await;
    for line in ["made", "value", "l=\"x\"", "token-of-default", "1000"] {
        assert!(log.contains(line), "{line} is not in {log}");
    }
    let tail = get(port, &client, "/containerLogs/d/p/c?tailLines=1&timestamps=1").await;
    assert!(tail.contains("Z valuel=\"x\"token-of-default1000") && !tail.contains("made"), "{tail}");
    assert!(get(port, &client, "/containerLogs/d/p/none").await.starts_with("HTTP/1.1 404"));
    let uid = pod.metadata.uid.clone().unwrap();
    let group = host.config.cgroup_parent.clone();
    let limit = format!("/sys/fs/cgroup/memory/{group}/kubepods/pod{uid}/memory.limit_in_bytes");
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(std::fs::read_to_string(&limit).unwrap().trim(), "67108864");
    }
    // exec by WebSocket v4: the upgrade is passed through, and frames come back.
    let mut s = connect(port, &client).await;
    let ask = "GET /exec/d/p/c?command=echo&command=hi&output=1&error=1 HTTP/1.1\r\nhost: localhost\r\n\
        connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n";
    s.write_all(ask.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"status\":\"Success\"") {
        let n = s.read_buf(&mut seen).await.unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.starts_with("HTTP/1.1 101") && seen.contains("hi\n"), "{seen}");
    // A protocol that containerd does not have is refused, so that kubectl falls back.
    let mut s = connect(port, &client).await;
    s.write_all(ask.replace("v4.channel", "v5.channel").as_bytes()).await.unwrap();
    let mut answer = vec![0u8; 12];
    s.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 403");
    assert!(get(port, &client, "/stats/summary").await.contains("\"podRef\":{\"name\":\"p\",\"namespace\":\"d\""));
    assert!(
        get(port, &client, "/metrics/resource")
            .await
            .contains("container_memory_working_set_bytes{container=\"c\",namespace=\"d\",pod=\"p\"}")
    );
    host.api.client().delete::<Pod>("d", "p").await.unwrap();
    until(&host.api, "gone", || host.pod("d/p").is_none().then_some(())).await;
    assert_eq!(std::fs::read_to_string(out.path().join("stopped")).unwrap(), "bye\n");
    assert!(!host.config.paths().pod(&uid).exists());
    assert!(!std::path::Path::new(&limit).exists());
    host.end().await;
}
