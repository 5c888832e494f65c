//! Secrets on the disk: nothing of them can be read there, and their keys change while the server
//! runs and is killed.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use serde_json::{Value, json};

use crate::https::Endpoint;
use crate::lab::Cluster;

const HIDDEN: &str = "tell-nobody-a8f31c";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn sampan(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sampan"));
    command.args(arguments).arg("--kubeconfig").arg(cluster.kubeconfig()).stdin(Stdio::null());
    command
}

fn said(out: Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn secret(name: &str) -> String {
    let data = json!({"password": BASE64_STANDARD.encode(HIDDEN)});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}).to_string()
}

/// The files below `directory` that hold any of `texts`.
fn holding(directory: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, texts));
            continue;
        }
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let holds = |text: &&str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        if texts.iter().any(holds) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The names of the secrets whose contents are what they should be.
async fn intact(cluster: &Cluster) -> usize {
    let mut api = Endpoint::of(&cluster.kubeconfig()).unwrap().connect().await.unwrap();
    let list: Value = api.json(Method::GET, SECRETS, "").await.unwrap();
    let hidden = BASE64_STANDARD.encode(HIDDEN);
    list["items"].as_array().unwrap().iter().filter(|s| s["data"]["password"] == hidden.as_str()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_shows_what_a_secret_holds() {
    let mut cluster = Cluster::start();
    let mut api = Endpoint::of(&cluster.kubeconfig()).unwrap().connect().await.unwrap();
    for n in 0..50 {
        api.json(Method::POST, SECRETS, secret(&format!("s-{n}"))).await.unwrap();
    }
    let token = said(sampan(&cluster, &["token", "create"]).output().unwrap());
    let token = token.trim().rsplit(':').next().unwrap().to_owned();
    assert_eq!(token.len(), 16, "{token}");
    let in_base64 = (BASE64_STANDARD.encode(HIDDEN), BASE64_STANDARD.encode(&token));
    let texts = [HIDDEN, &in_base64.0, &token, &in_base64.1];
    let data = cluster.directory().join("data");
    assert_eq!(holding(&data, &texts), [] as [&str; 0], "while it runs");
    cluster.kill();
    cluster.run();
    assert_eq!(intact(&cluster).await, 50);
    cluster.stop();
    assert_eq!(holding(&data, &texts), [] as [&str; 0], "after it ended");
    // The search does find what is there.
    assert!(!holding(&data, &["/registry/core/secrets/default/s-1"]).is_empty());

    let keys = data.join("server/cred/encryption-config.json");
    std::fs::rename(&keys, data.join("aside")).unwrap();
    let complaint = cluster.run_in_vain();
    assert!(complaint.contains(&keys.display().to_string()), "{complaint}");
    assert!(!keys.exists());
    std::fs::rename(data.join("aside"), &keys).unwrap();
    cluster.run();
    assert_eq!(intact(&cluster).await, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_while_the_server_runs_and_when_it_is_killed() {
    const COUNT: usize = 400;
    let mut cluster = Cluster::start();
    let mut api = Endpoint::of(&cluster.kubeconfig()).unwrap().connect().await.unwrap();
    for n in 0..COUNT {
        api.json(Method::POST, SECRETS, secret(&format!("s-{n}"))).await.unwrap();
    }
    let status = |cluster: &Cluster| said(sampan(cluster, &["secrets-encrypt", "status"]).output().unwrap());
    let active = |status: &str| {
        let keys: Vec<String> = status.lines().filter(|l| l.contains("AES-GCM")).map(str::to_owned).collect();
        assert_eq!(keys.len(), 1, "{status}");
        assert!(keys[0].starts_with(" *"), "{status}");
        keys[0].clone()
    };
    let first = active(&status(&cluster));
    let rotated = active(&said(sampan(&cluster, &["secrets-encrypt", "rotate-keys"]).output().unwrap()));
    assert_ne!(first, rotated);
    assert_eq!(intact(&cluster).await, COUNT);
    for milliseconds in [20, 40, 80, 160] {
        let mut rotation = sampan(&cluster, &["secrets-encrypt", "rotate-keys"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        cluster.kill();
        rotation.wait().unwrap();
        cluster.run();
        active(&status(&cluster));
        assert_eq!(intact(&cluster).await, COUNT);
    }
    let disabled = said(sampan(&cluster, &["secrets-encrypt", "disable"]).output().unwrap());
    assert!(disabled.contains("Encryption Status: Disabled"), "{disabled}");
    assert_eq!(intact(&cluster).await, COUNT);
    // Nobody but an administrator sees or changes any of it.
    let refused = cluster.refused(&["get", "--raw", "/v1-sampan/encrypt/status", "--as=somebody"], "");
    assert!(refused.contains("forbidden"), "{refused}");
}
