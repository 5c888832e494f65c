//! How old revisions are: a state is shown for five minutes after it was superseded, as upstream
//! keeps it until its store is compacted. Without that a list could be continued for ever in a
//! cluster that does little, and its pages would keep objects in memory that are long gone.

use std::collections::VecDeque;
use std::time::Duration;

use store::Revision;
use tokio::time::Instant;

/// Upstream's compaction interval.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// How exactly times are remembered.
const GRAIN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// When each revision was the latest, at most one for each [`GRAIN`].
    marks: VecDeque<(Instant, Revision)>,
    oldest: Revision,
}

impl Ages {
    /// A revision is the latest now.
    pub(super) fn note(&mut self, now: Instant, revision: Revision) {
        self.expire(now);
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= GRAIN) {
            self.marks.push_back((now, revision));
        }
    }

    /// The oldest revision whose state is still shown.
    pub(super) fn oldest(&mut self, now: Instant) -> Revision {
        self.expire(now);
        self.oldest
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, revision)) = self.marks.front()
            && now.duration_since(*at) >= KEPT
        {
            self.oldest = *revision;
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_shown_for_five_minutes_after_it_was_superseded() {
        let (mut ages, start) = (Ages::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        ages.note(at(0), 10);
        ages.note(at(5), 11);
        ages.note(at(40), 12);
        assert_eq!(ages.oldest(at(299)), 0);
        assert_eq!(ages.oldest(at(301)), 10);
        assert_eq!(ages.oldest(at(341)), 12);
        // What is still the latest is never too old.
        assert_eq!(ages.oldest(at(9999)), 12);
    }
}
