//! A de-duplicating, rate-limited queue of keys (upstream: `client-go/util/workqueue`).
//!
//! Invariants: a key is handled by one worker at a time; a key that is added while it
//! is being handled is handled once more afterwards; the queue's size is bounded by the
//! number of distinct keys.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

mod numbers;

use numbers::Counts;
pub use numbers::{Numbers, Queues};

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, or waiting for their current worker to finish, and since when.
    dirty: HashMap<K, Instant>,
    /// Keys that are handled, and since when.
    processing: HashMap<K, Instant>,
    /// Keys that become due later; the earliest time of a key wins.
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
    counts: Counts,
}

/// See the module.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    base: Duration,
    max: Duration,
}

impl<K> std::fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkQueue")
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        WorkQueue::new(Duration::from_millis(5), Duration::from_secs(60))
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// A queue whose retries back off from `base`, doubling up to `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        WorkQueue {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashMap::new(),
                processing: HashMap::new(),
                later: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
                closed: false,
                counts: Counts::default(),
            }),
            wake: Notify::new(),
            base,
            max,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        // A panic while the lock is held cannot leave the plain collections half-changed.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add_locked(s: &mut State<K>, key: K) {
        if s.closed || s.dirty.contains_key(&key) {
            return;
        }
        s.dirty.insert(key.clone(), Instant::now());
        s.counts.adds += 1;
        if !s.processing.contains_key(&key) {
            s.ready.push_back(key);
        }
    }

    /// Adds a key, to be handled as soon as a worker is free.
    pub fn add(&self, key: K) {
        Self::add_locked(&mut self.lock(), key);
        self.wake.notify_one();
    }

    /// Adds a key after a delay.
    pub fn add_after(&self, key: K, delay: Duration) {
        {
            let mut s = self.lock();
            if s.closed {
                return;
            }
            s.counts.retries += 1;
            if delay.is_zero() {
                drop(s);
                return self.add(key);
            }
            let at = Instant::now() + delay;
            if let Some(old) = s.due.get(&key).copied() {
                if old.0 <= at {
                    return;
                }
                s.later.remove(&old);
            }
            s.sequence += 1;
            let slot = (at, s.sequence);
            s.later.insert(slot, key.clone());
            s.due.insert(key, slot);
        }
        self.wake.notify_one();
    }

    /// Adds a key after its back-off, which doubles with every call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut s = self.lock();
            let n = s.failures.entry(key.clone()).or_insert(0);
            *n += 1;
            self.base.saturating_mul(1u32.checked_shl(*n - 1).unwrap_or(u32::MAX)).min(self.max)
        };
        self.add_after(key, delay);
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// How often a key has been rate limited since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Number of keys that are ready now.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no key is ready now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key; `None` once the queue is closed. Must be answered by [`WorkQueue::done`].
    pub async fn get(&self) -> Option<K> {
        loop {
            let notified = self.wake.notified();
            let next_due = {
                let mut s = self.lock();
                if s.closed {
                    return None;
                }
                let now = Instant::now();
                while let Some((&slot, _)) = s.later.first_key_value() {
                    if slot.0 > now {
                        break;
                    }
                    if let Some(key) = s.later.remove(&slot) {
                        s.due.remove(&key);
                        Self::add_locked(&mut s, key);
                    }
                }
                if let Some(key) = s.ready.pop_front() {
                    if let Some(since) = s.dirty.remove(&key) {
                        s.counts.waited.observe((now - since).as_secs_f64());
                    }
                    s.processing.insert(key.clone(), now);
                    if !s.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                s.later.first_key_value().map(|(slot, _)| slot.0)
            };
            match next_due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// Ends the handling of a key.
    pub fn done(&self, key: &K) {
        let mut s = self.lock();
        if let Some(since) = s.processing.remove(key) {
            s.counts.worked.observe(since.elapsed().as_secs_f64());
        }
        if s.dirty.contains_key(key) {
            s.ready.push_back(key.clone());
            drop(s);
            self.wake.notify_one();
        }
    }

    /// What it has counted.
    pub fn numbers(&self) -> Numbers {
        let s = self.lock();
        let now = Instant::now();
        let ages = || s.processing.values().map(|since| now - *since);
        Numbers {
            depth: s.dirty.len(),
            adds: s.counts.adds,
            retries: s.counts.retries,
            waited: s.counts.waited.clone(),
            worked: s.counts.worked.clone(),
            unfinished: ages().sum(),
            longest: ages().max().unwrap_or_default(),
        }
    }

    /// Closes the queue: every worker's [`WorkQueue::get`] returns `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        // Every current and future waiter must see it: each one that wakes passes it on.
        self.wake.notify_waiters();
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handled_once() {
        let q = WorkQueue::default();
        q.add("a");
        q.add("a");
        assert_eq!(q.get().await, Some("a"));
        q.done(&"a");
        assert!(q.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_is_handled_comes_again_after_done() {
        let q = WorkQueue::default();
        q.add("a");
        assert_eq!(q.get().await, Some("a"));
        q.add("a");
        assert!(q.is_empty());
        q.done(&"a");
        assert_eq!(q.get().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_of_a_key_wins_and_back_off_doubles() {
        let q = WorkQueue::new(Duration::from_secs(1), Duration::from_secs(60));
        let start = Instant::now();
        q.add_after("a", Duration::from_secs(10));
        q.add_after("a", Duration::from_secs(3));
        q.add_after("a", Duration::from_secs(20));
        assert_eq!(q.get().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        q.done(&"a");
        for expected in [1, 2, 4] {
            let t = Instant::now();
            q.add_rate_limited("b");
            assert_eq!(q.get().await, Some("b"));
            assert_eq!(t.elapsed().as_secs(), expected);
            q.done(&"b");
        }
        q.close();
        assert_eq!(q.get().await, None);
    }
}
