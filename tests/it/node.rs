//! A real pod on this machine: our own containerd, an image made here, logs, exec, restart, deletion.

use std::process::Command;

use crate::lab::{Cluster, eventually, has, skipped};

const POD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "hello from a config map"}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  volumes: [{name: page, configMap: {name: page}}]
  containers:
  - name: c
    image: docker.io/library/sampan-test:1
    command: [/bin/busybox, sh, -c, "/bin/busybox cat /page/index.html; echo; while /bin/busybox sleep 1; do echo tick; done"]
    volumeMounts: [{name: page, mountPath: /page}]
"#;

#[test]
fn a_pod_runs_logs_executes_survives_the_server_and_ends() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a node needs root");
    }
    for program in ["containerd", "runc", "busybox"] {
        if !has(program) {
            return skipped(&format!("{program} is not installed"));
        }
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let kubelet = format!("--kubelet-port={port}");
    let mut c = Cluster::with(&[
        "--run-dir={dir}/run",
        "--node-name=it",
        &kubelet,
        "--cgroup-root=/sampan-it",
        "--node-ip=127.0.0.1",
    ]);
    let images = c.directory().join("data/agent/images");
    std::fs::create_dir_all(&images).unwrap();
    crate::image::write(&images.join("test.tar"));
    eventually("the node registers", || c.field(&["node", "it"], ".metadata.name") == "it");
    eventually("the image is there", || c.log().contains("image imported"));
    c.apply(POD);
    eventually("the pod runs", || c.field(&["pod", "p"], ".status.phase") == "Running");
    let started = c.field(&["pod", "p"], ".status.containerStatuses[0].containerID");
    eventually("its log shows the config map", || c.kubectl(&["logs", "p"]).contains("hello from a config map"));
    assert_eq!(c.kubectl(&["exec", "p", "--", "/bin/busybox", "echo", "hi"]).trim(), "hi");
    c.kill();
    c.run();
    eventually("the node is back", || c.log().contains("node registered"));
    assert_eq!(c.field(&["pod", "p"], ".status.containerStatuses[0].containerID"), started, "the container went on");
    c.kubectl(&["delete", "pod", "p", "--timeout=30s"]);
    c.stop();
    let end = Command::new(env!("CARGO_BIN_EXE_sampan"))
        .args(["uninstall", "--data-dir"])
        .arg(c.directory().join("data"))
        .arg("--run-dir")
        .arg(c.directory().join("run"))
        .args(["--cgroup-root=/sampan-it", "--write-kubeconfig"])
        .arg(c.kubeconfig())
        .output()
        .unwrap();
    assert!(end.status.success(), "{}", String::from_utf8_lossy(&end.stderr));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&c.directory().display().to_string()), "mounts are left");
    assert!(!c.directory().join("data").exists());
}

#[test]
fn a_machine_that_lacks_a_program_says_which_and_how_to_get_it() {
    if let Some(why) = crate::hosts::lacking() {
        return skipped(&why);
    }
    let mut lab = crate::hosts::Lab::new();
    for (program, package) in [("containerd", "containerd"), ("nft", "nftables")] {
        let mut host = lab.host();
        host.serve_without(program);
        assert!(!host.ended());
        let log = host.log();
        assert!(log.contains("this machine lacks") && log.contains(&format!("install -y {package}")), "{log}");
    }
}
