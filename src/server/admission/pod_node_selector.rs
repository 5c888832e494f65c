//! PodNodeSelector: an annotation of the namespace says on which nodes its pods run.

use std::collections::BTreeMap;
use std::sync::Weak;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

type Labels = BTreeMap<String, String>;

/// `clusterDefaultNodeSelector`, and what pods of a namespace may choose from, by namespace.
#[derive(Clone, Debug, Default)]
pub struct Configuration(BTreeMap<String, Labels>);

impl Configuration {
    /// Reads `podNodeSelectorPluginConfig`; null says nothing.
    ///
    /// # Errors
    /// A selector that is none.
    pub fn parse(v: &Value) -> Result<Configuration, String> {
        let all = v["podNodeSelectorPluginConfig"].as_object().into_iter().flatten();
        let parsed = all.map(|(k, s)| Ok((k.clone(), labels(s.as_str().unwrap_or_default())?)));
        parsed.collect::<Result<_, String>>().map(Configuration)
    }

    fn of(&self, name: &str) -> Labels {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// `a=b,c=d`
fn labels(selector: &str) -> Result<Labels, String> {
    let terms = selector.split(',').map(str::trim).filter(|t| !t.is_empty());
    let pair = |t: &str| {
        let (k, v) = t.split_once('=').ok_or_else(|| format!("invalid selector: {t}"))?;
        Ok((k.trim().to_owned(), v.trim_start_matches('=').trim().to_owned()))
    };
    terms.map(pair).collect()
}

pub(super) struct PodNodeSelector {
    pub(super) server: Weak<Server>,
    pub(super) configuration: Configuration,
}

#[async_trait]
impl Admission for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let is_pod = a.resource.group.is_empty() && a.resource.plural == "pods" && a.subresource.is_empty();
        if a.operation != Operation::Create || !is_pod {
            return Ok(());
        }
        let server = alive(&self.server)?;
        let namespaces = server.resource("", "v1", "namespaces")?;
        let namespace = server.registry().get(&namespaces, "", a.namespace).await?.to_value();
        let mut selector = match namespace["metadata"]["annotations"][ANNOTATION].as_str() {
            Some(s) => labels(s).map_err(Status::internal_plain)?,
            None => self.configuration.of("clusterDefaultNodeSelector"),
        };
        let refuse = |why: &str| Status::forbidden("", "pods", a.name, why);
        for (k, v) in pod["spec"]["nodeSelector"].as_object().into_iter().flatten() {
            let v = v.as_str().unwrap_or_default();
            if selector.get(k).is_some_and(|wanted| wanted != v) {
                return Err(refuse("pod node label selector conflicts with its namespace node label selector"));
            }
            selector.insert(k.clone(), v.to_owned());
        }
        let allowed = self.configuration.of(a.namespace);
        if !allowed.is_empty() && selector.iter().any(|(k, v)| allowed.get(k) != Some(v)) {
            return Err(refuse("pod node label selector labels conflict with its namespace whitelist"));
        }
        if !selector.is_empty() {
            pod["spec"]["nodeSelector"] = serde_json::to_value(selector).map_err(Status::internal)?;
        }
        Ok(())
    }
}
