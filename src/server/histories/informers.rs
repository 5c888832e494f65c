//! Informers whose watches break at random.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use client::api::{Api, Call, Client, Gvr, List, ListParams, Watch};
use client::informer::{Informer, Informers};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::world::World;
use crate::testing::admin;

/// The API of the server of the moment; its watches end after a few events.
struct Flaky {
    world: Arc<World>,
    random: Mutex<StdRng>,
}

impl Flaky {
    async fn current(&self) -> Client {
        self.world.server().await.client(admin())
    }
}

#[async_trait]
impl Api for Flaky {
    async fn call(&self, call: Call) -> Result<Arc<Object>, Status> {
        self.current().await.api().call(call).await
    }

    async fn list(&self, gvr: &Gvr, params: &ListParams) -> Result<List, Status> {
        self.current().await.api().list(gvr, params).await
    }

    async fn watch(&self, gvr: &Gvr, params: &ListParams) -> Result<Watch, Status> {
        let mut events = self.current().await.api().watch(gvr, params).await?;
        let some = self.random.lock().unwrap().random_range(0..20);
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            for _ in 0..some {
                // A watch may hang, and be given up.
                let next = tokio::time::timeout(Duration::from_secs(2), events.recv()).await;
                let Ok(Some(event)) = next else { return };
                if tx.send(event).await.is_err() {
                    return;
                }
            }
            // Each second one ends as an error does.
            if some % 2 == 1 {
                let gone = if some % 3 == 0 { Status::expired("too old") } else { Status::unavailable("broken") };
                let _ = tx.send(Err(gone)).await;
            }
        });
        Ok(rx)
    }

    async fn raw_get(&self, path: &str) -> Result<Bytes, Status> {
        self.current().await.api().raw_get(path).await
    }
}

type State = BTreeMap<String, String>;

/// Informers, and what their handlers have made of the changes.
pub(super) struct Informing {
    all: Vec<(Informer, Gvr, ListParams, Arc<Mutex<State>>)>,
    changed: Arc<Notify>,
    cancel: CancellationToken,
}

impl Drop for Informing {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(super) fn start(world: &Arc<World>, seed: u64) -> Arc<Informing> {
    let api = Flaky { world: world.clone(), random: Mutex::new(StdRng::seed_from_u64(seed)) };
    let (cancel, changed) = (CancellationToken::new(), Arc::new(Notify::new()));
    let informers = Informers::new(Client::new(Arc::new(api)), TaskTracker::new(), cancel.clone());
    let mut all = Vec::new();
    for plural in ["configmaps", "secrets"] {
        for (namespace, label_selector) in [("", ""), ("red", ""), ("", "side=left")] {
            let params =
                ListParams { namespace: namespace.into(), label_selector: label_selector.into(), ..Default::default() };
            let gvr = Gvr::dynamic("", "v1", plural);
            let informer = informers.select(gvr.clone(), params.clone());
            let state = Arc::new(Mutex::new(State::new()));
            follow(&informer, state.clone(), changed.clone());
            all.push((informer, gvr, params, state));
        }
    }
    Arc::new(Informing { all, changed, cancel })
}

/// Keeps a state by what the handler is told, which must fit what it was told before.
fn follow(informer: &Informer, state: Arc<Mutex<State>>, changed: Arc<Notify>) {
    informer.on_change(move |change| {
        let (key, mut state) = (change.object().key(), state.lock().unwrap());
        let version = |o: &Arc<Object>| o.meta().resource_version.to_owned();
        let before = match &change.new {
            Some(new) => state.insert(key.to_owned(), version(new)),
            None => state.remove(key),
        };
        assert_eq!(before, change.old.as_ref().map(version), "a change begins where the last has ended");
        changed.notify_one();
    });
}

impl Informing {
    /// Waits until every informer shows what a list shows.
    pub(super) async fn settle(&self, world: &Arc<World>) {
        for (informer, gvr, params, state) in &self.all {
            let listed = world.server().await.client(admin()).api().list(gvr, params).await.unwrap();
            let listed: State =
                listed.items.iter().map(|o| (o.key().to_owned(), o.meta().resource_version.to_owned())).collect();
            loop {
                let changed = self.changed.notified();
                let cached = informer
                    .objects()
                    .iter()
                    .map(|o| (o.key().to_owned(), o.meta().resource_version.to_owned()))
                    .collect();
                if listed == cached && *state.lock().unwrap() == listed {
                    break;
                }
                changed.await;
            }
        }
    }
}
