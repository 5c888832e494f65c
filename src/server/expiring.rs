//! Answers that are remembered for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// A cache whose entries end by themselves. It never holds more than a number of them.
pub(crate) struct Expiring<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
    most: usize,
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    /// An empty one for at most that many entries.
    pub(crate) fn new(most: usize) -> Expiring<K, V> {
        Expiring { entries: Mutex::default(), most }
    }

    /// What is remembered.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(|e| e.into_inner());
        entries.get(key).filter(|(end, _)| *end > Instant::now()).map(|(_, v)| v.clone())
    }

    /// Remembers something; not at all when the time is zero.
    pub(crate) fn put(&self, key: K, value: V, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(|e| e.into_inner());
        if entries.len() >= self.most {
            entries.retain(|_, (end, _)| *end > now);
        }
        if entries.len() >= self.most {
            // Callers ask again: better than to hold what a flood of questions leaves behind.
            entries.clear();
        }
        entries.insert(key, (now + time, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_end_and_are_limited() {
        let cache = Expiring::new(2);
        cache.put("a", 1, Duration::from_secs(10));
        cache.put("b", 2, Duration::ZERO);
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None));
        cache.put("b", 2, Duration::from_secs(20));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (None, Some(2)));
        for (key, value) in [("c", 3), ("d", 4), ("e", 5)] {
            cache.put(key, value, Duration::from_secs(5));
            assert!(cache.entries.lock().unwrap().len() <= 2);
        }
        assert_eq!(cache.get(&"e"), Some(5));
    }
}
