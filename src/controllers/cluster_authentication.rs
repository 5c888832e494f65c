//! Cluster authentication trust: the config map `kube-system/extension-apiserver-authentication`
//! says how aggregated API servers know this one's clients, and the front proxy
//! (upstream: `pkg/controlplane/controller/clusterauthenticationtrust`).
//!
//! Keys of others in the config map are left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::ConfigMap;
use api::meta::apis::meta::v1::ObjectMeta;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::runtime::{self, Action, Config, Context, Controller, Queue};

const NAME: &str = "cluster-authentication";
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";

struct ClusterAuthentication {
    client: Client,
    config: Arc<Config>,
    maps: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let maps = context.informers.of::<ConfigMap>();
    let queue = Queue::default();
    // It must be there although nothing has happened to it.
    queue.add(api::key_of(NAMESPACE, CONFIG_MAP));
    {
        let queue = queue.clone();
        maps.on_change(move |c| {
            let key = c.object().key();
            if key == api::key_of(NAMESPACE, CONFIG_MAP) {
                queue.add(key.to_owned());
            }
        });
    }
    let client = (context.client_for)(NAME);
    let controller = ClusterAuthentication { client, config: context.config.clone(), maps: maps.clone() };
    runtime::run(context, Arc::new(controller), queue, vec![maps], 1);
}

/// The data with what must be in it; `None` when it is.
fn completed(data: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut all = data.clone();
    all.extend(wanted.clone());
    (all != *data).then_some(all)
}

#[async_trait]
impl Controller for ClusterAuthentication {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "cluster_authentication_trust_controller"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let wanted = &self.config.cluster_authentication;
        let Some(existing) = self.maps.get::<ConfigMap>(key) else {
            let metadata =
                ObjectMeta { name: Some(CONFIG_MAP.into()), namespace: Some(NAMESPACE.into()), ..Default::default() };
            let map = ConfigMap { metadata, data: Some(wanted.clone()), ..Default::default() };
            return self.client.create(&map).await.map(|_| Action::Done);
        };
        if let Some(data) = completed(existing.data.as_ref().unwrap_or(&BTreeMap::new()), wanted) {
            let mut map = (*existing).clone();
            map.data = Some(data);
            self.client.update(&map).await?;
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_stays() {
        let map = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let wanted = map(&[("a", "1"), ("b", "2")]);
        assert_eq!(
            completed(&map(&[("a", "0"), ("x", "y")]), &wanted),
            Some(map(&[("a", "1"), ("b", "2"), ("x", "y")]))
        );
        assert_eq!(completed(&map(&[("a", "1"), ("b", "2"), ("x", "y")]), &wanted), None);
    }
}
