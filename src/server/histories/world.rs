//! A server on a durable store, which is started again now and then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::{DurableStore, Error, Options};
use tokio::sync::watch;

use super::{KINDS, NAMESPACES};
use crate::http::respond::Reply;
use crate::testing::{Testing, admin};

/// See the module.
pub(super) struct World {
    /// The server of the moment; none while it is started again.
    server: watch::Sender<Option<Arc<crate::Server>>>,
    running: Mutex<Option<Testing>>,
    directory: tempfile::TempDir,
    keys: Arc<tempfile::TempDir>,
    /// Each acknowledged write by its revision: its kind and key.
    acknowledged: Mutex<BTreeMap<u64, (usize, String)>>,
    /// The highest revision that anybody was told.
    told: AtomicU64,
    finished: AtomicBool,
    pub(super) seed: u64,
}

impl World {
    pub(super) async fn start(seed: u64) -> Arc<World> {
        let world = Arc::new(World {
            server: watch::Sender::new(None),
            running: Mutex::default(),
            directory: tempfile::tempdir().unwrap(),
            keys: Arc::new(tempfile::tempdir().unwrap()),
            acknowledged: Mutex::default(),
            told: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            seed,
        });
        world.start_again().await;
        for name in NAMESPACES {
            let body = json!({"metadata": {"name": name}});
            let (code, answer) = world.ask("POST", "/api/v1/namespaces", "application/json", &body).await;
            assert_eq!(code, 201, "{answer}");
        }
        world
    }

    /// Ends the server, whatever it is asked just then, and starts another on the same store.
    pub(super) async fn start_again(&self) {
        self.end().await;
        let store = Arc::new(self.open().await);
        let testing = Testing::on(store, self.keys.clone()).await;
        self.server.send_replace(Some(testing.server.clone()));
        *self.running.lock().unwrap() = Some(testing);
    }

    /// The store, as soon as the last stream of the server before has let go of it.
    async fn open(&self) -> DurableStore {
        let begun = Instant::now();
        loop {
            match DurableStore::open(Options::new(self.directory.path())) {
                Err(Error::Locked(_)) if begun.elapsed() < Duration::from_secs(30) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return opened.unwrap(),
            }
        }
    }

    pub(super) async fn end(&self) {
        self.server.send_replace(None);
        let running = self.running.lock().unwrap().take();
        if let Some(testing) = running {
            testing.end().await;
        }
    }

    /// The server of the moment, or the next one.
    pub(super) async fn server(&self) -> Arc<crate::Server> {
        let mut server = self.server.subscribe();
        let server = server.wait_for(Option::is_some).await.expect("the world has its end");
        server.clone().expect("it was waited for")
    }

    /// The answer to a request, which may be a stream.
    pub(super) async fn reply(&self, method: &str, path: &str, media: &str, body: &Value) -> Reply {
        let server = self.server().await;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", media);
        server.serve_as(admin(), request.body(body.into()).unwrap()).await
    }

    pub(super) async fn ask(&self, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let reply = self.reply(method, path, media, body).await;
        let code = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    /// Notes what a client was told.
    pub(super) fn tell(&self, revision: u64) {
        self.told.fetch_max(revision, Ordering::SeqCst);
    }

    pub(super) fn acknowledge(&self, revision: u64, kind: usize, key: String) {
        let other = self.acknowledged.lock().unwrap().insert(revision, (kind, key));
        assert!(other.is_none(), "revision {revision} was given twice (seed {})", self.seed);
        self.tell(revision);
    }

    /// The acknowledged writes to objects of a kind in a range of revisions.
    pub(super) fn acknowledged(&self, kind: usize, after: u64, up_to: u64) -> Vec<(u64, String)> {
        let all = self.acknowledged.lock().unwrap();
        let of_kind = all.range(after + 1..=up_to).filter(|(_, (k, _))| *k == kind);
        of_kind.map(|(revision, (_, key))| (*revision, key.clone())).collect()
    }

    /// No more is written: what was last told.
    pub(super) fn finish(&self) -> u64 {
        self.finished.store(true, Ordering::SeqCst);
        self.told()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst)
    }
}

/// The path of a collection.
pub(super) fn path(kind: usize, namespace: Option<&str>, query: &str) -> String {
    let collection = match namespace {
        Some(n) => KINDS[kind].replace('%', &format!("namespaces/{n}")),
        None => KINDS[kind].replace("%/", ""),
    };
    format!("/{collection}?{query}")
}

/// An object's `namespace/name` and revision.
pub(super) fn key_and_revision(object: &Value) -> (String, u64) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let revision = text("resourceVersion").parse().unwrap_or_else(|e| panic!("{e}: {object}"));
    (format!("{}/{}", text("namespace"), text("name")), revision)
}
