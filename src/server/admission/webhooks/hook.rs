//! One webhook: whether it is about a write, and its answer.

use std::sync::Arc;
use std::time::Duration;

use api::cel::authorizer::NAMES;
use api::{Object, Status};
use serde::Deserialize;
use serde_json::Value;

use super::super::Attributes;
use super::super::dynamic::authorizer::answered;
use super::super::dynamic::conditions::{self, Conditions};
use super::super::dynamic::matching::{self, Matching, Shown};
use super::super::dynamic::request::Request;
use super::review::{self, Answer};
use crate::Server;
use crate::webhook_client::{Client, ClientConfig};

/// Why a webhook does not let a write pass.
// Failures are rare: a box would cost more to read than it saves.
#[allow(clippy::large_enum_variant)]
pub(super) enum Failure {
    /// It says no, or cannot be asked about such a write.
    Refused(Status),
    /// It did not answer as it should; the failure policy decides.
    Call(String),
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    webhooks: Vec<Declared>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Declared {
    name: String,
    client_config: ClientConfig,
    failure_policy: String,
    side_effects: String,
    timeout_seconds: u64,
    admission_review_versions: Vec<String>,
    reinvocation_policy: String,
    match_conditions: Vec<conditions::Declared>,
    #[serde(flatten)]
    matching: matching::Declared,
}

/// A webhook, ready to be called.
pub(super) struct Hook {
    /// Distinguishes it from all others.
    pub(super) id: String,
    pub(super) name: String,
    /// The name of the configuration that declares it.
    pub(super) configuration: String,
    pub(super) ignores_failures: bool,
    /// Whether it is called again when others change the object after it.
    pub(super) again: bool,
    /// Whether it may be called for a dry run.
    dry_run: bool,
    timeout: Duration,
    /// The version of AdmissionReview that it is sent.
    version: &'static str,
    matching: Matching,
    conditions: Conditions,
    client: Client,
}

/// The webhooks of a configuration.
pub(super) fn all_of(configuration: &Object) -> Result<Vec<Hook>, Status> {
    let object = configuration.to_value();
    let declared: Configuration = serde_json::from_value(object).map_err(Status::internal)?;
    let id = |i: usize| format!("{}/{i}", configuration.meta().uid);
    let name = configuration.meta().name;
    declared.webhooks.into_iter().enumerate().map(|(i, d)| Hook::new(id(i), name, d)).collect()
}

impl Hook {
    fn new(id: String, configuration: &str, d: Declared) -> Result<Hook, Status> {
        // The server's preference is the webhook's first version that both know.
        let known = d.admission_review_versions.iter().find_map(|v| ["v1", "v1beta1"].into_iter().find(|k| k == v));
        Ok(Hook {
            id,
            configuration: configuration.to_owned(),
            ignores_failures: d.failure_policy == "Ignore",
            again: d.reinvocation_policy == "IfNeeded",
            dry_run: matches!(d.side_effects.as_str(), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(d.timeout_seconds.clamp(1, 30)),
            version: known.unwrap_or("v1"),
            matching: Matching::new(d.matching)?,
            conditions: Conditions::new(&d.match_conditions, &NAMES).map_err(Status::internal)?,
            client: Client::new(d.client_config),
            name: d.name,
        })
    }

    /// How a write that it is about is shown to it; `None` when it is not about it.
    pub(super) async fn matches(
        &self,
        server: &Arc<Server>,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Shown>, Status> {
        let Some(shown) = self.matching.matches(server, a, object, old).await? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(shown));
        }
        let request = Request { attributes: a, shown: shown.clone(), object, old };
        let held = answered(server, a.user, |questions| self.conditions.hold(&request.environment(questions)));
        match held.await {
            Ok(true) => Ok(Some(shown)),
            Ok(false) => Ok(None),
            Err(why) if self.ignores_failures => {
                tracing::warn!(
                    webhook = self.name,
                    error = why,
                    "match conditions cannot be evaluated; not calling it"
                );
                Ok(None)
            }
            Err(why) => Err(Status::forbidden(&a.resource.group, &a.resource.plural, a.name, &why)),
        }
    }

    /// Asks about a write; what it warns of is passed on.
    pub(super) async fn ask(&self, server: &Arc<Server>, request: &Request<'_>) -> Result<Option<Answer>, Failure> {
        let a = request.attributes;
        if a.dry_run && !self.dry_run {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Failure::Refused(Status::bad_request(why)));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let body = review::question(self.version, request, &uid);
        let failed = |e: String| Failure::Call(format!("failed to call webhook: {e}"));
        let answer = self.client.post(server, self.timeout, body).await.map_err(failed)?;
        let answer = review::answer(&answer, self.version, &uid)
            .map_err(|e| Failure::Call(format!("received invalid webhook response: {e}")))?;
        answer.warnings.iter().for_each(|w| a.warnings.add(w.clone()));
        for (key, value) in &answer.audit_annotations {
            a.annotate(&format!("{}/{key}", self.name), value);
        }
        if !answer.allowed {
            return Err(Failure::Refused(review::refusal(&self.name, answer.status)));
        }
        Ok(Some(answer))
    }
}
