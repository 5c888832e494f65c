//! Webhooks that convert custom resources between their versions
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#webhook-conversion>).
//!
//! * here – which webhook, and for which objects.  [`review`] – what is said.
//!
//! Such objects are stored in the storage version of the time of their writing; the pipeline works
//! on the version of the request. The conversion stands at its two ends.

mod review;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use api::custom::conversion::Webhook;
use api::{Object, Resource, Status};
use serde_json::Value;

use crate::Server;
use crate::webhook_client::{Client, ClientConfig};

/// How long a conversion may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Conversions of a definition that are remembered, for those who watch or list the same objects.
const RECENT: usize = 2048;

/// The webhook of one definition, ready to be called.
struct Hook {
    declared: Arc<Webhook>,
    client: Client,
    /// By UID, revision and version.
    recent: Mutex<HashMap<(String, u64, String), Arc<Object>>>,
}

impl Hook {
    fn new(declared: &Arc<Webhook>) -> Result<Hook, Status> {
        let config: ClientConfig =
            serde_json::from_value(declared.client_config.clone()).map_err(|e| review::failure(e.to_string()))?;
        Ok(Hook { declared: declared.clone(), client: Client::new(config), recent: Mutex::default() })
    }

    fn is(&self, declared: &Webhook) -> bool {
        self.declared.generation == declared.generation && self.declared.client_config == declared.client_config
    }

    fn recall(&self, object: &Object, to: &str) -> Option<Arc<Object>> {
        let recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        recent.get(&(object.meta().uid.to_owned(), object.revision(), to.to_owned())).cloned()
    }

    fn remember(&self, object: &Arc<Object>, to: &str) {
        let mut recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        if recent.len() >= RECENT {
            recent.clear();
        }
        recent.insert((object.meta().uid.to_owned(), object.revision(), to.to_owned()), object.clone());
    }
}

/// See the module.
pub struct Conversions {
    server: Weak<Server>,
    /// By definition.
    hooks: Mutex<HashMap<String, Arc<Hook>>>,
}

impl Conversions {
    /// Conversions by webhooks that are reached through the services of a server.
    pub fn new(server: Weak<Server>) -> Conversions {
        Conversions { server, hooks: Mutex::default() }
    }

    /// Forgets the webhook of a definition that is gone.
    pub fn forget(&self, definition: &str) {
        self.hooks.lock().unwrap_or_else(|e| e.into_inner()).remove(definition);
    }

    fn hook(&self, declared: &Arc<Webhook>) -> Result<Arc<Hook>, Status> {
        let mut hooks = self.hooks.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(hook) = hooks.get(&declared.definition).filter(|h| h.is(declared)) {
            return Ok(hook.clone());
        }
        let hook = Arc::new(Hook::new(declared)?);
        hooks.insert(declared.definition.clone(), hook.clone());
        Ok(hook)
    }

    async fn call(&self, hook: &Hook, to: &str, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
        let server = self.server.upgrade().ok_or_else(|| Status::unavailable("the server is shutting down"))?;
        let Some(first) = objects.first() else { return Ok(objects) };
        let what = review::kind_of(first);
        let uid = uuid::Uuid::new_v4().to_string();
        let (version, question) = review::question(&hook.declared.review_versions, to, &objects, &uid)?;
        let failed = |why: String| review::failure(format!("conversion webhook for {what} failed: {why}"));
        let answer = hook.client.post(&server, TIMEOUT, question).await.map_err(failed)?;
        let converted = review::answer(&answer, version, &uid).map_err(failed)?;
        review::check(&what, to, &objects, converted)
    }

    /// Brings objects into a version; those that are in it already stay as they are.
    ///
    /// # Errors
    /// 500 in upstream's words, when the webhook fails.
    pub async fn convert(
        &self,
        declared: &Arc<Webhook>,
        to: &str,
        mut objects: Vec<Value>,
    ) -> Result<Vec<Value>, Status> {
        let others: Vec<usize> = (0..objects.len()).filter(|i| objects[*i]["apiVersion"] != to).collect();
        if others.is_empty() {
            return Ok(objects);
        }
        let hook = self.hook(declared)?;
        let asked = others.iter().map(|i| objects[*i].take()).collect();
        let converted = self.call(&hook, to, asked).await?;
        others.into_iter().zip(converted).for_each(|(i, new)| objects[i] = new);
        Ok(objects)
    }

    /// One object in a version.
    ///
    /// # Errors
    /// As [`Conversions::convert`].
    pub async fn convert_one(&self, declared: &Arc<Webhook>, to: &str, object: Value) -> Result<Value, Status> {
        Ok(self.convert(declared, to, vec![object]).await?.pop().unwrap_or_default())
    }

    /// A stored object in the version that a resource is served in.
    ///
    /// # Errors
    /// As [`Conversions::convert`].
    pub async fn value(&self, resource: &Resource, object: &Object) -> Result<Value, Status> {
        let mut value = object.to_value();
        let Some(declared) = resource.webhook() else { return Ok(value) };
        declared.complete(&mut value);
        self.convert_one(declared, &resource.api_version(), value).await
    }

    /// Stored objects in the version that a resource is served in, by one call.
    ///
    /// # Errors
    /// As [`Conversions::convert`].
    pub async fn served(&self, resource: &Resource, mut objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
        let Some(declared) = resource.webhook() else { return Ok(objects) };
        let (hook, to) = (self.hook(declared)?, resource.api_version());
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (i, object) in objects.iter_mut().enumerate() {
            if let Some(known) = hook.recall(object, &to) {
                *object = known;
                continue;
            }
            let mut value = object.to_value();
            declared.complete(&mut value);
            places.push(i);
            values.push(value);
        }
        let converted = self.convert(declared, &to, values).await?;
        for (i, value) in places.into_iter().zip(converted) {
            let object = Arc::new(Object::from_value(&value).map_err(Status::internal)?);
            hook.remember(&object, &to);
            objects[i] = object;
        }
        Ok(objects)
    }

    /// As [`Conversions::served`], of one object, asking the webhook anew.
    ///
    /// # Errors
    /// As [`Conversions::convert`].
    pub async fn served_one(&self, resource: &Resource, object: Arc<Object>) -> Result<Arc<Object>, Status> {
        if resource.webhook().is_none() {
            return Ok(object);
        }
        let value = self.value(resource, &object).await?;
        Ok(Arc::new(Object::from_value(&value).map_err(Status::internal)?))
    }
}
