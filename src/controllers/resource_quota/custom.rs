//! The custom resources that quotas count (`count/<plural>.<group>`): each is followed from when
//! a quota first names it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use api::Status;
use api::custom::{is_true, priority};
use client::{Gvr, Informer, ListParams, Subscription};
use serde_json::Value;

use super::{enqueue_quotas, hard};
use crate::endpointslice::index_by_namespace;
use crate::runtime::{Context, Queue};

/// How long the first list of a resource may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Custom {
    context: Context,
    quotas: Informer,
    queue: Queue,
    definitions: Informer,
    /// By `<plural>.<group>`.
    followed: Mutex<HashMap<String, (Gvr, Subscription)>>,
}

/// The version of a definition that everybody follows: the preferred one.
fn preferred(definition: &Value) -> Option<Gvr> {
    let spec = &definition["spec"];
    let served = spec["versions"].as_array()?.iter().filter(|v| v["served"] == true);
    let version = served.filter_map(|v| v["name"].as_str()).max_by_key(|v| priority(v))?;
    let names = &definition["status"]["acceptedNames"];
    is_true(definition, "Established").then(|| {
        Gvr::dynamic(spec["group"].as_str().unwrap_or_default(), version, names["plural"].as_str().unwrap_or_default())
    })
}

impl Custom {
    pub(super) fn new(context: &Context, quotas: &Informer, queue: &Queue) -> Custom {
        let definitions = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        let definitions = context.informers.select(definitions, ListParams::all());
        {
            let (quotas, queue) = (quotas.clone(), queue.clone());
            definitions.on_change(move |c| {
                let name = format!("count/{}", c.object().meta().name);
                let naming = quotas.objects().into_iter().filter(|q| hard(&q.to_value()).contains_key(&name));
                naming.for_each(|q| queue.add(q.key().to_owned()));
            });
        }
        Custom {
            context: context.clone(),
            quotas: quotas.clone(),
            queue: queue.clone(),
            definitions,
            followed: Mutex::default(),
        }
    }

    /// The definitions, which have to be known first.
    pub(super) fn definitions(&self) -> &Informer {
        &self.definitions
    }

    /// Group, plural and objects of the resource that a quota's name counts; `None` when nothing
    /// of that name is served.
    pub(super) async fn counted(&self, name: &str) -> Result<Option<(Gvr, Informer)>, Status> {
        let Some(qualified) = name.strip_prefix("count/") else { return Ok(None) };
        // A definition has the name of its resource.
        let gvr = self.definitions.object(qualified).and_then(|d| preferred(&d.to_value()));
        let Some((gvr, informer)) = self.follow(qualified, gvr) else { return Ok(None) };
        let synced = tokio::time::timeout(PATIENCE, informer.synced()).await;
        synced.map_err(|_| Status::unavailable(format!("{qualified} cannot be counted: it is not listed")))?;
        Ok(Some((gvr, informer)))
    }

    /// Follows what is served under a name now, and that alone.
    fn follow(&self, qualified: &str, served: Option<Gvr>) -> Option<(Gvr, Informer)> {
        let mut followed = self.followed.lock().unwrap_or_else(|e| e.into_inner());
        let Some(gvr) = served else {
            followed.remove(qualified);
            return None;
        };
        if let Some((_, informer)) = followed.get(qualified).filter(|(of, _)| *of == gvr) {
            return Some((gvr, Informer::clone(informer)));
        }
        let subscription = self.context.informers.subscribe(gvr.clone(), ListParams::all());
        index_by_namespace(&subscription);
        enqueue_quotas(&subscription, &gvr.group, &gvr.plural, &self.quotas, &self.queue);
        let informer = Informer::clone(&subscription);
        followed.insert(qualified.to_owned(), (gvr.clone(), subscription));
        Some((gvr, informer))
    }
}
