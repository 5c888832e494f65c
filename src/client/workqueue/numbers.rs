//! What queues count (upstream: `client-go/util/workqueue/metrics.go`). A queue counts under the
//! lock that it holds anyway; a reader of the numbers takes that lock for a copy.

use std::hash::Hash;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::WorkQueue;
use crate::histogram::Histogram;

/// Upper bounds of times, in seconds; upstream's.
const TIMES: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

/// What is known of a queue at one time.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// Keys that wait for a worker, those that wait for their own among them.
    pub depth: usize,
    /// Keys that were added, but for those that waited already.
    pub adds: u64,
    /// Keys that were to be added later.
    pub retries: u64,
    /// How long keys waited.
    pub waited: Histogram,
    /// How long workers took.
    pub worked: Histogram,
    /// How long all workers have been at it by now.
    pub unfinished: Duration,
    /// How long the one that has been at it longest.
    pub longest: Duration,
}

/// What a queue counts by itself.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) adds: u64,
    pub(super) retries: u64,
    pub(super) waited: Histogram,
    pub(super) worked: Histogram,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { adds: 0, retries: 0, waited: Histogram::new(TIMES), worked: Histogram::new(TIMES) }
    }
}

/// A queue of whatever keys, as far as its numbers go.
trait Counted: Send + Sync {
    fn numbers(&self) -> Numbers;
}

impl<K: Clone + Eq + Hash + Send> Counted for WorkQueue<K> {
    fn numbers(&self) -> Numbers {
        WorkQueue::numbers(self)
    }
}

/// The queues of a process by name, for those who show their numbers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Queues(Arc<Mutex<Vec<Named>>>);

/// A queue and its name.
type Named = (String, Weak<dyn Counted>);

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queues")
    }
}

impl Queues {
    /// Adds a queue; it leaves when it is dropped.
    pub fn add<K: Clone + Eq + Hash + Send + 'static>(&self, name: &str, queue: &Arc<WorkQueue<K>>) {
        let queue: Arc<dyn Counted> = queue.clone();
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.push((name.to_owned(), Arc::downgrade(&queue)));
    }

    /// The numbers of all queues, by name.
    pub fn numbers(&self) -> Vec<(String, Numbers)> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.retain(|(_, q)| q.strong_count() > 0);
        let living: Vec<_> = all.iter().filter_map(|(name, q)| Some((name.clone(), q.upgrade()?))).collect();
        drop(all);
        let mut numbers: Vec<_> = living.into_iter().map(|(name, q)| (name, q.numbers())).collect();
        numbers.sort_by(|(a, _), (b, _)| a.cmp(b));
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(h: &Histogram, what: &str) -> String {
        let mut out = String::new();
        h.write(&mut out, "t", "");
        out.lines().find_map(|l| l.strip_prefix(what)).unwrap().trim().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_counts_while_it_waits_and_while_it_is_handled() {
        let (queues, q) = (Queues::default(), Arc::new(WorkQueue::default()));
        queues.add("one", &q);
        let second = Duration::from_secs(1);
        q.add("a");
        q.add("a");
        q.add("b");
        tokio::time::advance(second).await;
        assert_eq!(q.get().await, Some("a"));
        q.add("a");
        tokio::time::advance(2 * second).await;
        let n = queues.numbers().remove(0).1;
        assert_eq!((n.depth, n.adds, n.retries), (2, 3, 0));
        assert_eq!((n.unfinished, n.longest), (2 * second, 2 * second));
        q.done(&"a");
        q.add_rate_limited("c");
        let n = queues.numbers().remove(0).1;
        assert_eq!((n.depth, n.adds, n.retries, n.longest), (2, 3, 1, Duration::ZERO));
        assert_eq!([shown(&n.waited, "t_sum{}"), shown(&n.worked, "t_sum{}")], ["1", "2"]);
        assert_eq!(shown(&n.worked, "t_bucket{le=\"1e-05\"}"), "0");
        drop(q);
        assert!(queues.numbers().is_empty());
    }
}
