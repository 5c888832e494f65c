//! ServiceAccount: a pod runs as a service account that exists, and gets its token, the
//! cluster's CA and its namespace mounted.

use std::sync::Weak;

use api::Status;
use api::k8s::core::v1::ServiceAccount as Account;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Upstream's lifetime of a mounted token: an hour and a little, so that it is told from others.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct ServiceAccount(pub(super) Weak<Server>);

fn refuse(a: &Attributes<'_>, why: &str) -> Status {
    Status::forbidden("", "pods", a.name, why)
}

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods";
        if !is_pod || a.operation != Operation::Create || !a.subresource.is_empty() {
            return Ok(());
        }
        if pod["metadata"]["annotations"].get(MIRROR).is_some() {
            if pod["spec"]["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty()) {
                return Err(refuse(a, "a mirror pod may not reference service accounts"));
            }
            return Ok(());
        }
        if pod["spec"]["serviceAccountName"].as_str().is_none_or(str::is_empty) {
            pod["spec"]["serviceAccountName"] = "default".into();
        }
        let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().to_owned();
        pod["spec"]["serviceAccount"] = name.clone().into();
        let server = alive(&self.0)?;
        let accounts = server.resource("", "v1", "serviceaccounts")?;
        let account = server.registry().get(&accounts, a.namespace, &name).await.map_err(|e| {
            refuse(a, &format!("error looking up service account {}/{name}: {}", a.namespace, e.message))
        })?;
        let account = account.typed::<Account>()?;
        let wanted = pod["spec"]["automountServiceAccountToken"]
            .as_bool()
            .or(account.automount_service_account_token)
            .unwrap_or(true);
        if wanted {
            mount_token(pod);
        }
        let has_pull_secrets = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|l| !l.is_empty());
        if !has_pull_secrets && let Some(secrets) = account.image_pull_secrets.as_ref().filter(|s| !s.is_empty()) {
            pod["spec"]["imagePullSecrets"] = json!(secrets);
        }
        Ok(())
    }
}

fn mount_token(pod: &mut Value) {
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten().find_map(|v| {
        let name = v["name"].as_str()?;
        (name.starts_with(VOLUME_PREFIX) && v.get("projected").is_some()).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| api::names::generate(VOLUME_PREFIX));
    let mut mounted = false;
    for list in ["containers", "initContainers"] {
        for c in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = c.get_mut("volumeMounts").and_then(Value::as_array_mut);
            let has = mounts.as_ref().is_some_and(|m| m.iter().any(|m| m["mountPath"] == MOUNT_PATH));
            if has {
                continue;
            }
            mounted = true;
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match mounts {
                Some(m) => m.push(mount),
                None => c["volumeMounts"] = json!([mount]),
            }
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    match pod["spec"].get_mut("volumes").and_then(Value::as_array_mut) {
        Some(v) => v.push(volume),
        None => pod["spec"]["volumes"] = json!([volume]),
    }
}
