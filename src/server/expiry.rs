//! Objects that are records of what happened (events) go some time after they were last written,
//! as upstream's storage does by leases. One task per such resource follows its cache and has one
//! timer; it deletes at most once in a while, and then all that is due at once.
//!
//! When an object was last written is told by its own times, so that a restart changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use store::Revision;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Server;
use crate::registry::Registry;
use crate::storage::{self, Storage, WriteError};
use crate::watch_cache::Change;

/// How many objects are deleted at a time; they share the syncs of the disk.
const AT_ONCE: usize = 128;
/// Deletions wait for others for this part of an object's life.
const PATIENCE: u32 = 60;

/// Starts to delete what has had its time.
pub fn start(server: &Arc<Server>, tasks: &TaskTracker, cancel: &CancellationToken) {
    let ttl = server.config().event_ttl;
    for prefix in server.registry().storage().transient().iter().cloned() {
        let (own, cancel) = (server.clone(), cancel.clone());
        tasks.spawn(async move {
            let expiry = Expiry { prefix, ttl, ends: BTreeSet::new(), known: HashMap::new() };
            if let Some(Err(s)) = cancel.run_until_cancelled(expiry.run(own.registry())).await {
                tracing::error!(error = %s, "objects are no longer deleted when their time is up");
            }
        });
    }
}

struct Expiry {
    prefix: String,
    ttl: Duration,
    ends: BTreeSet<(Timestamp, Arc<str>)>,
    known: HashMap<Arc<str>, (Timestamp, Revision)>,
}

impl Expiry {
    async fn run(mut self, registry: &Registry) -> Result<(), Status> {
        let cache = registry.caches().get(&self.prefix).ok_or_else(Status::no_such_resource)?;
        // Again when the cache was too fast for it.
        loop {
            let now = registry.caches().applied();
            let mut subscription = cache.subscribe("", 0, now, Box::new(|_| true))?;
            self.ends.clear();
            self.known.clear();
            for (key, object) in &std::mem::take(&mut subscription.objects) {
                self.written(key.clone(), object);
            }
            let mut earliest = tokio::time::Instant::now();
            loop {
                let next = self.ends.first().map(|(end, _)| earliest.max(at(*end)));
                let due = async {
                    match next {
                        Some(next) => tokio::time::sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    event = subscription.live.recv() => match event {
                        Some((Change::Deleted, d)) => self.forget(d.event.object.key()),
                        Some((_, d)) => self.written(d.event.object.key().into(), &d.event.object),
                        None => break,
                    },
                    () = due => {
                        self.delete(registry.storage()).await;
                        earliest = tokio::time::Instant::now() + self.ttl / PATIENCE;
                    }
                }
            }
        }
    }

    fn written(&mut self, key: Arc<str>, object: &Object) {
        self.forget(&key);
        let end = last_write(object).saturating_add(self.ttl).unwrap_or(Timestamp::MAX);
        self.known.insert(key.clone(), (end, object.revision()));
        self.ends.insert((end, key));
    }

    fn forget(&mut self, key: &str) {
        if let Some((key, (end, _))) = self.known.remove_entry(key) {
            self.ends.remove(&(end, key));
        }
    }

    /// Deletes all that is due; what cannot be deleted is tried again with the next.
    async fn delete(&self, storage: &Storage) {
        let now = Timestamp::now();
        let due = self.ends.iter().take_while(|(end, _)| *end <= now);
        let due: Vec<(String, Revision)> =
            due.filter_map(|(_, key)| Some((key.to_string(), self.known.get(key)?.1))).collect();
        let prefix = &self.prefix;
        let deleted = futures::stream::iter(due)
            .map(|(key, revision)| async move { storage::remove(storage, prefix, &key, revision).await })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await;
        match deleted {
            // It was written meanwhile, or is gone.
            Ok(()) | Err(WriteError::Conflict) => {}
            Err(WriteError::Status(s)) => tracing::warn!(error = %s, "objects whose time is up could not be deleted"),
        }
    }
}

/// When the clock shows a time.
fn at(time: Timestamp) -> tokio::time::Instant {
    let wait = Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::time::Instant::now() + wait
}

/// When an object was last written, by the times that the server itself puts into it.
fn last_write(object: &Object) -> Timestamp {
    let value = object.to_value();
    let metadata = &value["metadata"];
    let fields = metadata["managedFields"].as_array().into_iter().flatten().map(|f| &f["time"]);
    let times = [&metadata["creationTimestamp"]].into_iter().chain(fields);
    times.filter_map(|t| t.as_str()?.parse().ok()).max().unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use client::api::Verb;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Testing, admin, core};

    #[test]
    fn the_last_write_is_the_latest_of_the_servers_own_times() {
        let object = |v: Value| Object::from_value(&v).unwrap();
        let created = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(last_write(&object(created.clone())), "2026-01-01T00:00:00Z".parse().unwrap());
        let mut changed = created;
        changed["metadata"]["managedFields"] =
            json!([{"time": "2026-01-01T01:00:00Z"}, {"time": "2026-01-01T00:30:00Z"}]);
        changed["lastTimestamp"] = "2027-01-01T00:00:00Z".into();
        assert_eq!(last_write(&object(changed)), "2026-01-01T01:00:00Z".parse().unwrap());
    }

    #[tokio::test]
    async fn events_go_when_their_time_is_up_and_others_stay() {
        let t = Testing::with_event_ttl(Duration::from_secs(1)).await;
        let about = json!({"kind": "Pod", "namespace": "default", "name": "p"});
        let event = json!({"metadata": {"name": "e"}, "involvedObject": about, "reason": "R", "type": "Normal"});
        t.create(&core("events"), "default", &event).await;
        t.create(&core("configmaps"), "default", &json!({"metadata": {"name": "c"}})).await;
        let resource = t.server.resource("", "v1", "events").unwrap();
        let cache = t.server.registry().cache(&resource).unwrap();
        let mut watch = cache.subscribe("", 0, 0, Box::new(|_| true)).unwrap();
        assert_eq!(watch.objects.len(), 1);
        let gone = tokio::time::timeout(Duration::from_secs(20), watch.live.recv()).await.unwrap().unwrap();
        assert_eq!(gone.0, Change::Deleted);
        t.call(&admin(), Verb::Get, &core("configmaps"), "default/c", &Value::Null).await.unwrap();
    }
}
