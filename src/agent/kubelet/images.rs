//! Gets the images of containers: pull policy, credentials, back-off, events.
//!
//! Upstream: `pkg/kubelet/images/image_manager.go`, `pkg/credentialprovider`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::k8s::core::v1::{Container, ObjectReference, Pod};
use base64::Engine;
use client::EventRecorder;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;

use super::cri::{ErrorKind, Runtime, v1};
use super::objects::{Kind, Objects};
use super::pulled::Pulled;
use super::spec::identity;
use super::status::{Waiting, go_duration};
use crate::images::import::normalized;

const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Why there is no image, and until when not to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoImage {
    /// For the container's status.
    pub waiting: Waiting,
    /// When to try again.
    pub retry_at: Timestamp,
}

#[derive(Clone, Debug)]
struct Failure {
    delay: Duration,
    until: Timestamp,
    message: String,
}

/// See the module.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    recorder: EventRecorder,
    /// Whether the image files of this machine have been taken in.
    imported: watch::Receiver<bool>,
    pulled: Pulled,
    /// By pod UID and image.
    failures: Mutex<HashMap<(String, String), Failure>>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Images")
    }
}

/// `Always`, `IfNotPresent` or `Never`; `Always` for images without a tag or tagged `latest`.
fn policy(c: &Container, image: &str) -> String {
    c.image_pull_policy
        .clone()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| if image.ends_with(":latest") { "Always".into() } else { "IfNotPresent".into() })
}

/// What is wrong with an image's name, after upstream's "invalid reference format"
/// (`github.com/distribution/reference`); `None` for a good one.
fn malformed(spelled: &str) -> Option<String> {
    let unspecific = || Some(String::new());
    let (name, digest) = spelled.split_once('@').map_or((spelled, None), |(n, d)| (n, Some(d)));
    if digest.is_some_and(|d| d.split_once(':').is_none_or(|(_, hex)| hex.len() < 32)) {
        return unspecific();
    }
    let is_domain = |s: &str| s.contains(['.', ':']) || s == "localhost" || s.chars().any(|c| c.is_ascii_uppercase());
    let is_port = |p: &str| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit());
    let rest = match name.split_once('/') {
        Some((domain, rest)) if is_domain(domain) => {
            let port = domain.rsplit(']').next().and_then(|d| d.split_once(':'));
            if port.is_some_and(|(_, p)| !is_port(p)) {
                return unspecific();
            }
            rest.to_owned()
        }
        Some(_) => name.to_owned(),
        None => format!("library/{name}"),
    };
    let (path, tag) = rest.split_once(':').map_or((rest.as_str(), None), |(p, t)| (p, Some(t)));
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Some(format!(": repository name ({path}) must be lowercase"));
    }
    let part = |p: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(p.chars().next())
            && ends(p.chars().last())
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good_tag = |t: &str| t.len() <= 128 && t.starts_with(word) && t.chars().all(|c| word(c) || ".-".contains(c));
    if path.split('/').all(part) && tag.is_none_or(good_tag) { None } else { unspecific() }
}

/// Whether an entry of a docker configuration is for an image; the longer match wins.
fn matches(entry: &str, image: &str) -> bool {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://");
    let entry = entry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let host_fits = host == image_host
        || (host.contains('*')
            && host.split('.').count() == image_host.split('.').count()
            && host.split('.').zip(image_host.split('.')).all(|(p, h)| p == "*" || p == h));
    host_fits
        && (path.is_empty()
            || image_path == path
            || image_path.starts_with(&format!("{path}/"))
            || image_path.starts_with(&format!("{path}:")))
}

/// The credentials for an image in a docker configuration, the best match first.
fn credentials(config: &Value, image: &str) -> Vec<v1::AuthConfig> {
    let auths = config.get("auths").unwrap_or(config);
    let mut found: Vec<(&String, v1::AuthConfig)> = Vec::new();
    for (entry, v) in auths.as_object().into_iter().flatten() {
        if !matches(entry, image) {
            continue;
        }
        let text = |k: &str| v[k].as_str().unwrap_or_default().to_owned();
        let (mut username, mut password) = (text("username"), text("password"));
        if username.is_empty()
            && let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text("auth"))
            && let Some((u, p)) = String::from_utf8_lossy(&bytes).split_once(':')
        {
            (username, password) = (u.to_owned(), p.to_owned());
        }
        let auth = v1::AuthConfig { username, password, identity_token: text("identitytoken"), ..Default::default() };
        found.push((entry, auth));
    }
    found.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.len()));
    found.into_iter().map(|(_, a)| a).collect()
}

impl Images {
    /// A new one. An image that is absent is not missed before `imported` is true (or its sender gone).
    pub fn new(
        runtime: Arc<dyn Runtime>,
        recorder: EventRecorder,
        pulled: Pulled,
        imported: watch::Receiver<bool>,
    ) -> Images {
        Images { runtime, recorder, imported, pulled, failures: Mutex::default() }
    }

    /// A pod is gone.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(|e| e.into_inner()).retain(|(u, _), _| u != uid);
    }

    /// Makes sure a container's image is there, by its pull policy.
    ///
    /// # Errors
    /// What the container waits for.
    pub async fn ensure(
        &self,
        pod: &Pod,
        c: &Container,
        about: &ObjectReference,
        objects: &Objects,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<v1::Image, NoImage> {
        let spelled = c.image.clone().unwrap_or_default();
        let fail = |reason: &str, message: String, wait: Duration| NoImage {
            waiting: Waiting { reason: reason.to_owned(), message },
            retry_at: Timestamp::now() + SignedDuration::try_from(wait).unwrap_or_default(),
        };
        if let Some(why) = malformed(&spelled) {
            let message = format!(
                "Failed to apply default image tag {spelled:?}: couldn't parse image name {spelled:?}: invalid reference format{why}"
            );
            self.recorder.warning(about.clone(), "InspectFailed", message.clone());
            return Err(fail("InvalidImageName", message, BACKOFF_MAX));
        }
        let image = normalized(&spelled);
        let policy = policy(c, &image);
        let key = (identity(pod).uid, image.clone());
        let mut found = self.runtime.image(&image).await;
        if matches!(found, Ok(None)) && !*self.imported.borrow() {
            let _ = self.imported.clone().wait_for(|done| *done).await;
            found = self.runtime.image(&image).await;
        }
        let present = match found {
            Ok(i) => i,
            Err(e) => {
                let message = format!("Failed to inspect image {spelled:?}: {e}");
                self.recorder.warning(about.clone(), "InspectFailed", message.clone());
                return Err(fail("ImageInspectError", message, BACKOFF_FIRST));
            }
        };
        // Not asked for without need: the API may be away.
        let free = policy != "Always" && present.as_ref().is_some_and(|i| self.pulled.is_everyones(&i.id));
        let auths = if free { Vec::new() } else { self.auths(pod, &image, objects).await };
        let usable = present.as_ref().is_some_and(|i| self.pulled.may_use(&i.id, &image, &auths));
        match (policy.as_str(), present) {
            ("Never" | "IfNotPresent", Some(i)) if usable => {
                let message =
                    format!("Container image {spelled:?} already present on machine and can be accessed by the pod");
                self.recorder.normal(about.clone(), "Pulled", message);
                return Ok(i);
            }
            ("Never", present) => {
                let message = match present {
                    None => format!("Container image {spelled:?} is not present with pull policy of Never"),
                    Some(_) => format!(
                        "Container image {spelled:?} is present with pull policy of Never, but was pulled with credentials that the pod does not have"
                    ),
                };
                self.recorder.warning(about.clone(), "ErrImageNeverPull", message.clone());
                return Err(fail("ErrImageNeverPull", message, BACKOFF_FIRST));
            }
            _ => {}
        }
        let held = self.failures.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
        if let Some(f) = &held
            && f.until > Timestamp::now()
        {
            let message = format!("Back-off pulling image {spelled:?}");
            self.recorder.normal(about.clone(), "BackOff", message.clone());
            let message = format!("{message}: {}", f.message);
            return Err(NoImage { waiting: Waiting { reason: "ImagePullBackOff".into(), message }, retry_at: f.until });
        }
        self.recorder.normal(about.clone(), "Pulling", format!("Pulling image {spelled:?}"));
        let begun = std::time::Instant::now();
        match self.pull(&image, auths, sandbox).await {
            Ok(i) => {
                self.failures.lock().unwrap_or_else(|e| e.into_inner()).remove(&key);
                let took = go_duration(Duration::from_millis(begun.elapsed().as_millis() as u64));
                let message = format!(
                    "Successfully pulled image {spelled:?} in {took} ({took} including waiting). Image size: {} bytes.",
                    i.size
                );
                self.recorder.normal(about.clone(), "Pulled", message);
                Ok(i)
            }
            Err(e) => {
                let delay = held.map_or(BACKOFF_FIRST, |f| (f.delay * 2).min(BACKOFF_MAX));
                let until = Timestamp::now() + SignedDuration::try_from(delay).unwrap_or_default();
                let message = format!("failed to pull image {spelled:?}: {}", e.message);
                self.recorder.warning(
                    about.clone(),
                    "Failed",
                    format!("Failed to pull image {spelled:?}: {}", e.message),
                );
                let failure = Failure { delay, until, message: format!("ErrImagePull: {message}") };
                self.failures.lock().unwrap_or_else(|e| e.into_inner()).insert(key, failure);
                // The status shows the error once; the next attempt, which only finds the back-off, shows that.
                Err(NoImage {
                    waiting: Waiting { reason: "ErrImagePull".into(), message },
                    retry_at: Timestamp::now() + SignedDuration::from_secs(1),
                })
            }
        }
    }

    /// The credentials that a pod has for an image.
    async fn auths(&self, pod: &Pod, image: &str, objects: &Objects) -> Vec<v1::AuthConfig> {
        let id = identity(pod);
        let mut found = Vec::new();
        for s in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            let data = match objects.data(&id.uid, Kind::Secret, &id.namespace, &s.name).await {
                Ok(Some(data)) => data,
                Ok(None) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        s.name
                    );
                    self.recorder.warning(client::events::reference(pod), "FailedToRetrieveImagePullSecret", message);
                    continue;
                }
                Err(e) => {
                    tracing::warn!(secret = %s.name, error = %e, "an image pull secret cannot be read");
                    continue;
                }
            };
            for key in [".dockerconfigjson", ".dockercfg"] {
                if let Some(config) = data.get(key).and_then(|b| serde_json::from_slice::<Value>(b).ok()) {
                    found.extend(credentials(&config, image));
                }
            }
        }
        found
    }

    async fn pull(
        &self,
        image: &str,
        auths: Vec<v1::AuthConfig>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<v1::Image, super::cri::Error> {
        let mut tries: Vec<Option<v1::AuthConfig>> = auths.into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = super::cri::Error::new(ErrorKind::Other, "no credentials");
        for auth in tries {
            match self.runtime.pull_image(image, auth.clone(), sandbox.clone()).await {
                Ok(reference) => {
                    let found = match self.runtime.image(image).await? {
                        Some(i) => Some(i),
                        None => self.runtime.image(&reference).await?,
                    };
                    let vanished = || super::cri::Error::new(ErrorKind::NotFound, "the image vanished after its pull");
                    let found = found.ok_or_else(vanished)?;
                    self.pulled.note(&found.id, image, auth.as_ref(), &found.repo_tags);
                    return Ok(found);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_registry_can_have_are_found_out() {
        let long = format!("a/b@sha256:{}", "0".repeat(64));
        for good in ["nginx", "nginx:1.25_a", "ghcr.io/a/b-c:v1", "localhost:5000/x", "[::1]:5000/x", &long] {
            assert_eq!(malformed(good), None, "{good}");
        }
        for bad in ["", "a b", "nginx:", "nginx:-x", "a//b", "-a", "a/b@sha256:1", "nginx:a/b"] {
            assert_eq!(malformed(bad), Some(String::new()), "{bad}");
        }
        assert_eq!(malformed("Nginx:1").unwrap(), ": repository name (library/Nginx) must be lowercase");
        assert_eq!(malformed("a/B").unwrap(), ": repository name (a/B) must be lowercase");
    }

    #[test]
    fn the_longest_fitting_registry_wins() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": base64::engine::general_purpose::STANDARD.encode("a:b")},
            "quay.io/org": {"username": "x", "password": "y"},
            "quay.io": {"username": "z", "password": "y"},
        }});
        assert_eq!(credentials(&config, "docker.io/library/nginx:latest")[0].password, "b");
        let quay = credentials(&config, "quay.io/org/app:1");
        assert_eq!(quay.iter().map(|a| a.username.as_str()).collect::<Vec<_>>(), ["x", "z"]);
        assert!(credentials(&config, "ghcr.io/a/b:1").is_empty());
    }
}
