//! The scheduling queue (upstream: `pkg/scheduler/backend/queue`).
//!
//! A pod is *active* (by priority, then age), in *back-off* until a time, or *unschedulable* until an
//! event that may help, at the latest [`crate::UNSCHEDULABLE_TIMEOUT`]. Every attempt that fails doubles
//! a pod's back-off from one to ten seconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use api::k8s::core::v1::Pod;
use api::meta::apis::meta::v1::Time;
use tokio::sync::Notify;
use tokio::time::Instant;

/// `namespace/name`.
pub type Key = String;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// Higher priority first, then older, then in order of arrival.
type Rank = (std::cmp::Reverse<i32>, i64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    Waiting(Instant, u64),
    Unschedulable(Instant),
    /// Handed out; comes back by `park` or `back_off`.
    Cycle,
}

struct Entry {
    place: Place,
    rank: Rank,
    attempts: u32,
    generation: Option<i64>,
    gated: bool,
    /// Something helpful happened while the pod was in its cycle.
    moved: bool,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    active: BTreeMap<Rank, Key>,
    waiting: BTreeMap<(Instant, u64), Key>,
    sequence: u64,
}

/// See the module.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

/// What a pod waits for before it may be scheduled at all.
pub fn gates(pod: &Pod) -> Option<String> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref().filter(|g| !g.is_empty())?;
    let names: Vec<&str> = gates.iter().map(|g| g.name.as_str()).collect();
    Some(format!("Scheduling is blocked due to non-empty scheduling gates: [{}]", names.join(" ")))
}

impl State {
    fn take(&mut self, key: &str) {
        match self.entries.get(key).map(|e| e.place) {
            Some(Place::Active(rank)) => {
                self.active.remove(&rank);
            }
            Some(Place::Waiting(at, n)) => {
                self.waiting.remove(&(at, n));
            }
            _ => {}
        }
    }

    fn activate(&mut self, key: &str) {
        self.take(key);
        if let Some(e) = self.entries.get_mut(key) {
            e.place = Place::Active(e.rank);
            self.active.insert(e.rank, key.to_owned());
        }
    }

    fn wait(&mut self, key: &str, at: Instant) {
        self.take(key);
        self.sequence += 1;
        let n = self.sequence;
        if let Some(e) = self.entries.get_mut(key) {
            e.place = Place::Waiting(at, n);
            self.waiting.insert((at, n), key.to_owned());
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LAST_BACKOFF)
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a pending pod, or takes note of its change: a new spec or fewer gates are reasons to try again,
    /// a new status is not.
    pub fn add(&self, key: Key, pod: &Pod) {
        let mut s = self.lock();
        let generation = pod.metadata.generation;
        let gated = gates(pod).is_some();
        if let Some(e) = s.entries.get_mut(&key) {
            let changed = e.generation != generation || e.gated != gated;
            e.generation = generation;
            e.gated = gated;
            if !changed {
                return;
            }
            e.moved = true;
            if matches!(e.place, Place::Unschedulable(_)) {
                s.activate(&key);
            }
        } else {
            s.sequence += 1;
            let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |Time(t)| t.as_second());
            let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            let rank = (std::cmp::Reverse(priority), created, s.sequence);
            let e = Entry { place: Place::Active(rank), rank, attempts: 0, generation, gated, moved: false };
            s.entries.insert(key.clone(), e);
            s.active.insert(rank, key);
        }
        drop(s);
        self.wake.notify_one();
    }

    /// Forgets a pod.
    pub fn remove(&self, key: &str) {
        let mut s = self.lock();
        s.take(key);
        s.entries.remove(key);
    }

    /// The next pod to schedule.
    pub async fn next(&self) -> Key {
        loop {
            let notified = self.wake.notified();
            let due = {
                let mut s = self.lock();
                let now = Instant::now();
                while let Some((&(at, n), _)) = s.waiting.first_key_value() {
                    if at > now {
                        break;
                    }
                    if let Some(key) = s.waiting.remove(&(at, n)) {
                        s.activate(&key);
                    }
                }
                if let Some((_, key)) = s.active.pop_first() {
                    if let Some(e) = s.entries.get_mut(&key) {
                        e.place = Place::Cycle;
                        e.attempts += 1;
                        e.moved = false;
                    }
                    return key;
                }
                s.waiting.first_key_value().map(|((at, _), _)| *at)
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// Puts a pod that found no node aside until something changes.
    pub fn park(&self, key: Key, pod: &Pod) {
        let mut s = self.lock();
        let Some(e) = s.entries.get_mut(&key) else { return };
        let (moved, attempts) = (e.moved, e.attempts);
        e.place = Place::Unschedulable(Instant::now());
        if gates(pod).is_some() {
            return;
        }
        // Something may have helped while the decision was made; else look again much later.
        let wait = if moved { backoff(attempts) } else { crate::UNSCHEDULABLE_TIMEOUT };
        if moved {
            s.wait(&key, Instant::now() + wait);
        }
        drop(s);
        self.wake.notify_one();
    }

    /// Tries a pod again after its back-off.
    pub fn back_off(&self, key: Key, _pod: &Pod) {
        let mut s = self.lock();
        let Some(attempts) = s.entries.get(&key).map(|e| e.attempts) else { return };
        s.wait(&key, Instant::now() + backoff(attempts));
        drop(s);
        self.wake.notify_one();
    }

    /// Something changed that may help: unschedulable pods are tried again, once their back-off is over.
    pub fn wake_unschedulable(&self) {
        let mut s = self.lock();
        let mut due = Vec::new();
        for (key, e) in &mut s.entries {
            match e.place {
                Place::Unschedulable(since) if !e.gated => due.push((key.clone(), since + backoff(e.attempts))),
                Place::Cycle => e.moved = true,
                _ => {}
            }
        }
        let any = !due.is_empty();
        for (key, at) in due {
            s.wait(&key, at);
        }
        drop(s);
        if any {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(priority: i32) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": {"containers": [], "priority": priority}}))
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn higher_priority_goes_first_and_equals_in_order() {
        let q = Queue::default();
        q.add("low".into(), &pod(0));
        q.add("low2".into(), &pod(0));
        q.add("high".into(), &pod(10));
        assert_eq!(q.next().await, "high");
        assert_eq!(q.next().await, "low");
        assert_eq!(q.next().await, "low2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_pod_waits_for_an_event_and_its_back_off() {
        let q = Queue::default();
        q.add("a".into(), &pod(0));
        assert_eq!(q.next().await, "a");
        q.park("a".into(), &pod(0));
        let none = tokio::time::timeout(Duration::from_secs(60), q.next()).await;
        assert!(none.is_err());
        let start = Instant::now();
        q.wake_unschedulable();
        assert_eq!(q.next().await, "a");
        assert!(start.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_cycle_is_not_lost() {
        let q = Queue::default();
        q.add("a".into(), &pod(0));
        assert_eq!(q.next().await, "a");
        q.wake_unschedulable();
        q.park("a".into(), &pod(0));
        assert_eq!(tokio::time::timeout(Duration::from_secs(2), q.next()).await.unwrap(), "a");
    }
}
