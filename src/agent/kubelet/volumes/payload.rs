//! What ConfigMaps, Secrets, the downward API and service account tokens put into files.

use std::collections::HashMap;
use std::sync::Mutex;

use api::k8s::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use api::k8s::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, SecretVolumeSource, ServiceAccount,
    ServiceAccountTokenProjection,
};
use client::Client;
use jiff::{SignedDuration, Timestamp};

use super::Setup;
use super::writer::{File, Files};
use crate::kubelet::env;
use crate::kubelet::objects::{Data, Kind};
use crate::kubelet::spec::identity;

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(0o644)).unwrap_or(0o644) & 0o777
}

/// The keys that are wanted, or all.
fn select(data: &Data, items: Option<&Vec<KeyToPath>>, default: Option<i32>, optional: bool) -> Result<Files, String> {
    let mut files = Files::new();
    match items.filter(|i| !i.is_empty()) {
        None => {
            for (k, v) in data.iter() {
                files.insert(k.clone(), File { data: v.clone(), mode: mode(None, default), uid: None });
            }
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(v) => {
                        let file = File { data: v.to_vec(), mode: mode(item.mode, default), uid: None };
                        files.insert(item.path.clone(), file);
                    }
                    None if optional => {}
                    None => return Err(format!("references non-existent config key: {}", item.key)),
                }
            }
        }
    }
    Ok(files)
}

async fn object(
    setup: &Setup<'_>,
    kind: Kind,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
) -> Result<Files, String> {
    let id = identity(setup.pod);
    match setup.objects.data(&id.uid, kind, &id.namespace, name).await? {
        Some(data) => select(&data, items, default, optional),
        None if optional => Ok(Files::new()),
        None => Err(kind.not_found(name)),
    }
}

pub(super) async fn config_map(setup: &Setup<'_>, v: &ConfigMapVolumeSource) -> Result<Files, String> {
    object(setup, Kind::ConfigMap, &v.name, v.items.as_ref(), v.default_mode, v.optional == Some(true)).await
}

pub(super) async fn secret(setup: &Setup<'_>, v: &SecretVolumeSource) -> Result<Files, String> {
    let name = v.secret_name.as_deref().unwrap_or_default();
    object(setup, Kind::Secret, name, v.items.as_ref(), v.default_mode, v.optional == Some(true)).await
}

pub(super) fn downward(
    setup: &Setup<'_>,
    items: &[DownwardAPIVolumeFile],
    default: Option<i32>,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(f) = &item.field_ref {
            env::field(setup.pod, &f.field_path, setup.facts)?
        } else if let Some(r) = &item.resource_field_ref {
            env::resource_field(setup.pod, None, r, setup.facts)?
        } else {
            continue;
        };
        files.insert(item.path.clone(), File { data: text.into_bytes(), mode: mode(item.mode, default), uid: None });
    }
    Ok(files)
}

/// The one user that all containers run as, if there is one: it owns the tokens.
fn only_user(setup: &Setup<'_>) -> Option<u32> {
    let spec = setup.pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

pub(super) async fn projected(setup: &mut Setup<'_>, v: &ProjectedVolumeSource) -> Result<Files, String> {
    let mut files = Files::new();
    for source in v.sources.iter().flatten() {
        if let Some(c) = &source.config_map {
            let optional = c.optional == Some(true);
            files.extend(object(setup, Kind::ConfigMap, &c.name, c.items.as_ref(), v.default_mode, optional).await?);
        } else if let Some(s) = &source.secret {
            let optional = s.optional == Some(true);
            files.extend(object(setup, Kind::Secret, &s.name, s.items.as_ref(), v.default_mode, optional).await?);
        } else if let Some(d) = &source.downward_api {
            files.extend(downward(setup, d.items.as_deref().unwrap_or_default(), v.default_mode)?);
        } else if let Some(t) = &source.service_account_token {
            let token = setup.tokens.get(setup, t).await?;
            setup.refresh_at = Some(setup.refresh_at.map_or(token.refresh_at, |r| r.min(token.refresh_at)));
            // Only its user may read a token; a group given to the volume may, too.
            let owner = only_user(setup);
            let bits = if owner.is_some() || setup.fs_group.is_some() { 0o600 } else { mode(None, v.default_mode) };
            files.insert(t.path.clone(), File { data: token.text.into_bytes(), mode: bits, uid: owner });
        } else {
            return Err("a source of a projected volume is not supported by this node".into());
        }
    }
    Ok(files)
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    refresh_at: Timestamp,
}

/// Service account tokens, kept until four fifths of their life have passed, as upstream does.
#[derive(Debug)]
pub struct Tokens {
    client: Client,
    /// By pod UID, audience and lifetime.
    kept: Mutex<HashMap<(String, String, i64), Token>>,
}

impl Tokens {
    /// None yet.
    pub fn new(client: Client) -> Tokens {
        Tokens { client, kept: Mutex::default() }
    }

    /// A pod is gone.
    pub fn forget(&self, uid: &str) {
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).retain(|(u, _, _), _| u != uid);
    }

    async fn get(&self, setup: &Setup<'_>, source: &ServiceAccountTokenProjection) -> Result<Token, String> {
        let id = identity(setup.pod);
        let audience = source.audience.clone().unwrap_or_default();
        let seconds = source.expiration_seconds.unwrap_or(3600);
        let key = (id.uid.clone(), audience.clone(), seconds);
        let now = Timestamp::now();
        if let Some(t) = self.kept.lock().unwrap_or_else(|e| e.into_inner()).get(&key)
            && t.refresh_at > now
        {
            return Ok(t.clone());
        }
        let spec = setup.pod.spec.as_ref();
        let account =
            spec.and_then(|s| s.service_account_name.as_deref()).filter(|s| !s.is_empty()).unwrap_or("default");
        let ask = TokenRequest {
            spec: TokenRequestSpec {
                audiences: if audience.is_empty() { Vec::new() } else { vec![audience] },
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(id.name.clone()),
                    uid: Some(id.uid.clone()),
                }),
                expiration_seconds: Some(seconds),
            },
            ..Default::default()
        };
        let answer = self
            .client
            .post::<ServiceAccount>(&id.namespace, account, "token", &ask)
            .await
            .and_then(|o| o.typed::<TokenRequest>())
            .map_err(|s| format!("failed to fetch token: {s}"))?;
        let status = answer.status.as_ref().ok_or("failed to fetch token: the answer has none")?;
        let life = status.expiration_timestamp.0.duration_since(now).as_secs().max(10);
        let refresh_at = now + SignedDuration::from_secs((life * 4 / 5).min(24 * 3600));
        let token = Token { text: status.token.clone(), refresh_at };
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).insert(key, token.clone());
        Ok(token)
    }
}
