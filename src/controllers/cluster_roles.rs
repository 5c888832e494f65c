//! ClusterRole aggregation: a role with an aggregation rule has the rules of all it selects
//! (upstream: `pkg/controller/clusterroleaggregation`).

use std::sync::Arc;

use api::Status;
use api::k8s::rbac::v1::{ClusterRole, PolicyRule};
use async_trait::async_trait;
use client::{Client, Informer};

use crate::pod_control::selector;
use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "clusterrole-aggregation-controller";

struct Aggregation {
    client: Client,
    roles: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let roles = context.informers.of::<ClusterRole>();
    let queue = Queue::default();
    {
        // Any role may be part of any aggregate.
        let (queue, all) = (queue.clone(), roles.clone());
        roles.on_change(move |_| {
            for o in all.objects() {
                if o.typed::<ClusterRole>().is_ok_and(|r| r.aggregation_rule.is_some()) {
                    queue.add(o.meta().name.to_owned());
                }
            }
        });
    }
    runtime::run(context, Arc::new(Aggregation { client, roles: roles.clone() }), queue, vec![roles], 1);
}

#[async_trait]
impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "ClusterRoleAggregator"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(role) = self.roles.get::<ClusterRole>(key) else { return Ok(Action::Done) };
        let Some(rule) = &role.aggregation_rule else { return Ok(Action::Done) };
        let mut rules: Vec<PolicyRule> = Vec::new();
        for s in rule.cluster_role_selectors.iter().flatten() {
            let selector = selector(s)?;
            let mut parts: Vec<_> =
                self.roles.objects().into_iter().filter(|o| selector.matches(o.meta().labels)).collect();
            parts.sort_by(|a, b| a.meta().name.cmp(b.meta().name));
            for o in parts.iter().filter(|o| o.meta().name != key) {
                for r in o.typed::<ClusterRole>()?.rules.iter().flatten() {
                    if !rules.contains(r) {
                        rules.push(r.clone());
                    }
                }
            }
        }
        if role.rules.clone().unwrap_or_default() != rules {
            let mut new = (*role).clone();
            new.rules = Some(rules);
            self.client.update(&new).await?;
        }
        Ok(Action::Done)
    }
}
