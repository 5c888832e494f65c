//! Clients that list and watch, leave now and then, and come back where they were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::world::{World, key_and_revision, path};

/// See the module.
pub(super) struct Watcher {
    world: Arc<World>,
    kind: usize,
    namespace: Option<&'static str>,
    selector: &'static str,
    random: StdRng,
    /// The revision of each object, as the events tell it.
    state: BTreeMap<String, u64>,
    /// Everything up to here was seen.
    at: u64,
    /// Where the events begin that were seen without a gap, and those events.
    since: u64,
    events: Vec<(u64, String)>,
}

/// Why a stream was left.
enum Left {
    /// It ended, or was tired of.
    Open,
    /// What follows is not known any more.
    Gone,
}

impl Watcher {
    pub(super) fn new(
        world: &Arc<World>,
        kind: usize,
        namespace: Option<&'static str>,
        selector: &'static str,
        seed: u64,
    ) -> Watcher {
        let random = StdRng::seed_from_u64(seed);
        let (state, events) = (BTreeMap::new(), Vec::new());
        Watcher { world: world.clone(), kind, namespace, selector, random, state, at: 0, since: 0, events }
    }

    fn path(&self, query: &str) -> String {
        path(self.kind, self.namespace, &format!("{}&{query}", self.selector))
    }

    /// What a list shows: revisions by key, and its own.
    async fn listed(&self, query: &str) -> Option<(BTreeMap<String, u64>, u64)> {
        let (code, list) = self.world.ask("GET", &self.path(query), "", &Value::Null).await;
        if code != 200 {
            assert!(code == 410 || code >= 500, "{list}");
            return None;
        }
        let items = list["items"].as_array().unwrap().iter().map(key_and_revision).collect();
        Some((items, list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()))
    }

    /// Watches until everything that was ever told has been seen.
    pub(super) async fn run(mut self) -> Watcher {
        let mut known = false;
        loop {
            let mut initial = false;
            if !known {
                initial = self.random.random();
                if !initial {
                    let Some((state, at)) = self.listed("").await else { continue };
                    (self.state, self.at, self.since) = (state, at, at);
                    self.world.tell(at);
                } else {
                    (self.state, self.at) = (BTreeMap::new(), 0);
                }
                self.events.clear();
            }
            known = matches!(self.stream(initial).await, Left::Open) && self.at > 0;
            if known && self.world.is_finished() && self.at >= self.world.told() {
                return self;
            }
        }
    }

    async fn stream(&mut self, initial: bool) -> Left {
        let begin = if initial {
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".into()
        } else {
            format!("resourceVersion={}", self.at)
        };
        let query = format!("watch=1&allowWatchBookmarks=true&timeoutSeconds=1&{begin}");
        let mut body = self.world.reply("GET", &self.path(&query), "", &Value::Null).await.into_body();
        let (mut left, mut initial) = (self.random.random_range(1..40), initial);
        let mut text = Vec::new();
        loop {
            // A stream may hang for as long as it likes to; a client may leave at any time.
            let patience = Duration::from_millis(self.random.random_range(1..2500));
            let Ok(Some(Ok(frame))) = tokio::time::timeout(patience, body.frame()).await else { return Left::Open };
            text.extend(frame.into_data().unwrap_or_default());
            while let Some(end) = text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                if event["type"] == "ERROR" {
                    let code = event["object"]["code"].as_u64().unwrap();
                    assert!(code == 410 || code >= 500, "{event}");
                    return if code == 410 { Left::Gone } else { Left::Open };
                }
                self.take(&event, &mut initial).await;
            }
            left -= 1;
            if left == 0 && !initial {
                return Left::Open;
            }
        }
    }

    async fn take(&mut self, event: &Value, initial: &mut bool) {
        let (key, revision) = match event["type"].as_str() {
            Some("BOOKMARK") => {
                (String::new(), event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
            }
            _ => key_and_revision(&event["object"]),
        };
        let seed = self.world.seed;
        if event["type"] == "BOOKMARK" {
            assert!(revision >= self.at, "a bookmark goes back from {} to {revision} (seed {seed})", self.at);
            if *initial {
                let end = &event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
                assert_eq!(end, "true", "{event}");
                (*initial, self.since) = (false, revision);
            }
            self.at = revision;
            self.world.tell(revision);
            // A stream that waits for the next server would keep it from starting.
            let exact = format!("resourceVersion={revision}&resourceVersionMatch=Exact");
            let listed = tokio::time::timeout(Duration::from_secs(1), self.listed(&exact)).await;
            if let Ok(Some((listed, _))) = listed {
                assert_eq!(self.state, listed, "at bookmark {revision} (seed {seed})");
            }
            return;
        }
        if *initial {
            assert_eq!(event["type"], "ADDED", "{event}");
            self.state.insert(key, revision);
            return;
        }
        assert!(revision > self.at, "{revision} after {} (seed {seed}): {event}", self.at);
        let before = match event["type"].as_str() {
            Some("DELETED") => self.state.remove(&key),
            _ => self.state.insert(key.clone(), revision),
        };
        assert_eq!(before.is_none(), event["type"] == "ADDED", "of {key}, {before:?} was known (seed {seed}): {event}");
        self.at = revision;
        self.world.tell(revision);
        self.events.push((revision, key));
    }

    /// Holds what was seen against what was written and what is there.
    pub(super) async fn check(&self, world: &World, end: u64) {
        let (listed, _) = self.listed("").await.expect("a list of now is there");
        assert_eq!(self.state, listed, "at the end (seed {})", world.seed);
        if self.namespace.is_none() && self.selector.is_empty() {
            let mut seen = self.events.iter();
            for write in world.acknowledged(self.kind, self.since, end) {
                assert!(seen.any(|e| *e == write), "{write:?} was acknowledged and not seen (seed {})", world.seed);
            }
        }
    }
}
