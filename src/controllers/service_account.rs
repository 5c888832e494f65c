//! ServiceAccount: every active namespace has the account `default`.

use std::sync::Arc;

use api::Status;
use api::k8s::core::v1::{Namespace, ServiceAccount};
use api::meta::apis::meta::v1::ObjectMeta;
use async_trait::async_trait;
use client::{Client, Informer};

use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "service-account-controller";

struct ServiceAccountController {
    client: Client,
    namespaces: Informer,
    accounts: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    let queue = Queue::default();
    runtime::enqueue_own(&namespaces, &queue);
    {
        let queue = queue.clone();
        accounts.on_change(move |c| {
            if c.new.is_none() {
                queue.add(c.object().meta().namespace.to_owned());
            }
        });
    }
    let caches = vec![namespaces.clone(), accounts.clone()];
    runtime::run(context, Arc::new(ServiceAccountController { client, namespaces, accounts }), queue, caches, 1);
}

#[async_trait]
impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "serviceaccount"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let active = self.namespaces.object(key).is_some_and(|n| n.meta().deletion_timestamp.is_none());
        if !active || self.accounts.object(&api::key_of(key, "default")).is_some() {
            return Ok(Action::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some("default".into()),
                namespace: Some(key.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        match self.client.create(&account).await {
            Err(s) if !s.is_already_exists() => Err(s),
            _ => Ok(Action::Done),
        }
    }
}
