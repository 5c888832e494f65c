//! Conversion between the versions of a custom resource by a webhook, as its definition declares it.

use std::sync::Arc;

use serde_json::Value;

use super::schema::Props;
use super::{defaulting, text, texts};

/// The webhook of a definition.
#[derive(Debug)]
pub struct Webhook {
    /// The definition's name.
    pub definition: String,
    /// The definition's generation: another one may convert otherwise.
    pub generation: i64,
    /// `spec.conversion.webhook.clientConfig`
    pub client_config: Value,
    /// The forms of ConversionReview that it knows, preferred first.
    pub review_versions: Vec<String>,
    /// What each version's schema fills in, by `apiVersion`.
    defaults: Vec<(String, Props)>,
}

impl Webhook {
    /// The webhook of a definition; `None` where its versions are all alike.
    pub fn of(definition: &Value) -> Option<Arc<Webhook>> {
        let spec = &definition["spec"];
        if spec["conversion"]["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &spec["conversion"]["webhook"];
        let versions = spec["versions"].as_array().into_iter().flatten();
        let group = text(&spec["group"]);
        Some(Arc::new(Webhook {
            definition: text(&definition["metadata"]["name"]),
            generation: definition["metadata"]["generation"].as_i64().unwrap_or(1),
            client_config: webhook["clientConfig"].clone(),
            review_versions: texts(&webhook["conversionReviewVersions"]),
            defaults: versions
                .map(|v| {
                    let props = Props::parse(&v["schema"]["openAPIV3Schema"]);
                    (format!("{group}/{}", text(&v["name"])), props)
                })
                .collect(),
        }))
    }

    /// Fills in what the schema of the object's own version has defaults for: a stored object may
    /// be older than they are.
    pub fn complete(&self, object: &mut Value) {
        let own = self.defaults.iter().find(|(version, _)| object["apiVersion"] == version.as_str());
        if let Some((_, props)) = own {
            defaulting::apply(props, object);
        }
    }
}
