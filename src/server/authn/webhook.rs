//! Tokens that a service elsewhere knows: it is sent a TokenReview
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication>).

use std::path::PathBuf;
use std::time::Duration;

use api::Status;
use serde_json::{Value, json};
use sha2::Digest;

use super::bearer::{Identity, Known};
use crate::expiring::Expiring;
use crate::request::User;
use crate::reviewer::Reviewer;

/// How long the service may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Where the service is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A kubeconfig.
    pub config_file: PathBuf,
    /// The version of the reviews: `v1` or `v1beta1`.
    pub version: String,
    /// How long its answers are remembered.
    pub cache_ttl: Duration,
}

/// See the module.
pub(super) struct Webhook {
    reviewer: Reviewer,
    version: String,
    cache_ttl: Duration,
    remembered: Expiring<[u8; 32], Option<(User, Vec<String>)>>,
}

impl Webhook {
    /// # Errors
    /// A kubeconfig that cannot be used.
    pub(super) fn new(settings: &Settings) -> Result<Webhook, Status> {
        Ok(Webhook {
            reviewer: Reviewer::from_kubeconfig(&settings.config_file)?,
            version: settings.version.clone(),
            cache_ttl: settings.cache_ttl,
            remembered: Expiring::new(REMEMBERED_MAX),
        })
    }

    /// Whom a token names. Where the service says nothing of audiences, it is for `own`.
    ///
    /// # Errors
    /// What the service says against it, or that it cannot be asked.
    pub(super) async fn authenticate(&self, token: &str, audiences: &[String], own: &[String]) -> Known {
        let known = |k: Option<(User, Vec<String>)>| k.map(|(user, audiences)| Identity { user, audiences });
        // Tokens are not kept in memory.
        let key: [u8; 32] = sha2::Sha256::digest(json!([token, audiences]).to_string()).into();
        if let Some(answer) = self.remembered.get(&key) {
            return Ok(known(answer));
        }
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version), "kind": "TokenReview",
            "metadata": {"creationTimestamp": null}, "spec": {"token": token, "audiences": audiences}, "status": {"user": {}},
        });
        let answer = self.reviewer.post(&review, PATIENCE).await.inspect_err(|e| {
            tracing::error!(error = e, "the authentication webhook cannot be asked");
        })?;
        let answer = read(&answer["status"], audiences, own)?;
        self.remembered.put(key, answer.clone(), self.cache_ttl);
        Ok(known(answer))
    }
}

/// Reads the status of a review.
fn read(status: &Value, wanted: &[String], own: &[String]) -> Result<Option<(User, Vec<String>)>, String> {
    let strings = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut meant = strings(&status["audiences"]);
    if meant.is_empty() {
        meant = own.to_vec();
    }
    let fits: Vec<String> = wanted.iter().filter(|a| meant.contains(a)).cloned().collect();
    if fits.is_empty() {
        return Ok(None);
    }
    if status["authenticated"] != true {
        return match status["error"].as_str().filter(|e| !e.is_empty()) {
            Some(why) => Err(why.to_owned()),
            None => Ok(None),
        };
    }
    let u = &status["user"];
    let text = |f: &str| u[f].as_str().unwrap_or_default().to_owned();
    let extra = u["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), strings(v))).collect();
    Ok(Some((User { name: text("username"), uid: text("uid"), groups: strings(&u["groups"]), extra }, fits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audiences_of_an_answer_must_be_among_those_that_were_asked_for() {
        let own = ["own".to_owned()];
        let ask = |status: Value, wanted: &str| read(&status, &[wanted.to_owned()], &own);
        let good = json!({"authenticated": true, "user": {"username": "ann", "groups": ["g"], "extra": {"k": ["v"]}}});
        let (user, fits) = ask(good.clone(), "own").unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.extra["k"].join("")), ("ann", "v".to_owned()));
        assert_eq!(fits, own);
        assert_eq!(ask(good.clone(), "other"), Ok(None));
        let mut named = good;
        named["audiences"] = json!(["other"]);
        assert!(ask(named, "other").unwrap().is_some());
        assert_eq!(ask(json!({"authenticated": false, "error": "no"}), "own"), Err("no".to_owned()));
        assert_eq!(ask(json!({"authenticated": false}), "own"), Ok(None));
    }
}
