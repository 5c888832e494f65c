//! How often writes that may wait get a sync of their own.
//!
//! The first few do not wait at all; a storm of them shares two syncs a second. It is a leaky
//! bucket, kept as the time at which it will be empty.

use std::time::{Duration, Instant};

/// The pace of a storm, and so the longest that a write waits.
const EVERY: Duration = Duration::from_millis(500);
/// How many syncs may follow each other without waiting.
const BURST: u32 = 10;

/// See the module.
#[derive(Default)]
pub(crate) struct Ration {
    empty: Option<Instant>,
}

impl Ration {
    /// How long the next sync must wait.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let full = self.empty.map_or(Duration::ZERO, |e| e.saturating_duration_since(now));
        full.saturating_sub(EVERY * (BURST - 1))
    }

    /// Counts a sync.
    pub(crate) fn take(&mut self, now: Instant) {
        self.empty = Some(self.empty.map_or(now, |e| e.max(now)) + EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_does_not_wait_and_a_storm_keeps_its_pace() {
        let (mut ration, start) = (Ration::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(ration.wait(start), Duration::ZERO);
            ration.take(start);
        }
        assert_eq!(ration.wait(start), EVERY);
        let later = start + EVERY;
        assert_eq!(ration.wait(later), Duration::ZERO);
        ration.take(later);
        assert_eq!(ration.wait(later), EVERY);
        assert_eq!(ration.wait(start + EVERY * (BURST + 1)), Duration::ZERO);
    }
}
