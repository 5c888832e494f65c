//! Root CA publisher: every active namespace has the config map `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{ConfigMap, Namespace};
use api::meta::apis::meta::v1::ObjectMeta;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::runtime::{self, Action, Config, Context, Controller, Queue};

const NAME: &str = "root-ca-cert-publisher";
const CONFIG_MAP: &str = "kube-root-ca.crt";

struct RootCa {
    client: Client,
    config: Arc<Config>,
    namespaces: Informer,
    maps: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let maps = context.informers.of::<ConfigMap>();
    let queue = Queue::default();
    runtime::enqueue_own(&namespaces, &queue);
    {
        let queue = queue.clone();
        maps.on_change(move |c| {
            if c.object().meta().name == CONFIG_MAP {
                queue.add(c.object().meta().namespace.to_owned());
            }
        });
    }
    let caches = vec![namespaces.clone(), maps.clone()];
    let controller = RootCa { client, config: context.config.clone(), namespaces, maps };
    runtime::run(context, Arc::new(controller), queue, caches, 1);
}

#[async_trait]
impl Controller for RootCa {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "root_ca_cert_publisher"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        if self.namespaces.object(key).is_none_or(|n| n.meta().deletion_timestamp.is_some()) {
            return Ok(Action::Done);
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.config.root_ca_pem.clone())]);
        let Some(existing) = self.maps.get::<ConfigMap>(&api::key_of(key, CONFIG_MAP)) else {
            let note = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(CONFIG_MAP.into()),
                    namespace: Some(key.to_owned()),
                    annotations: Some(BTreeMap::from([("kubernetes.io/description".to_owned(), note.to_owned())])),
                    ..Default::default()
                },
                data: Some(data),
                ..Default::default()
            };
            return match self.client.create(&map).await {
                Err(s) if !s.is_already_exists() => Err(s),
                _ => Ok(Action::Done),
            };
        };
        if existing.data.as_ref() != Some(&data) {
            let mut map = (*existing).clone();
            map.data = Some(data);
            self.client.update(&map).await?;
        }
        Ok(Action::Done)
    }
}
