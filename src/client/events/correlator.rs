//! Keeps events few (upstream: `EventCorrelator` of `client-go/tools/record`): the same event
//! again raises its count; many that differ only in their message become one; a source that says
//! too much about an object is not heard for a while.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use api::k8s::core::v1::ObjectReference;
use jiff::Timestamp;

use super::Note;

/// How many of each kind of key are remembered.
const REMEMBERED: usize = 4096;
/// So many different messages become one event …
const SIMILAR: usize = 10;
/// … when no two are further apart.
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const COMBINED: &str = "(combined from similar events): ";
/// What may be said about an object at once, and how long it takes until one more may be.
const BURST: f64 = 25.0;
const ONE_MORE: Duration = Duration::from_secs(300);

/// An object that events are about.
#[derive(Clone, PartialEq, Eq, Hash)]
struct About {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

impl From<&ObjectReference> for About {
    fn from(o: &ObjectReference) -> About {
        About {
            api_version: o.api_version.clone(),
            kind: o.kind.clone(),
            namespace: o.namespace.clone(),
            name: o.name.clone(),
            uid: o.uid.clone(),
        }
    }
}

/// What events have in common that differ in their message.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Similar {
    about: About,
    kind: &'static str,
    reason: String,
}

/// What tells events apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    One(SimilarKey, Option<String>, String),
    Combined(SimilarKey),
}

/// What events have in common that differ in their message.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SimilarKey(Similar);

/// What is known of an event that was written.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) count: i32,
    pub(super) first: Timestamp,
    /// Namespace and name, once it is written.
    pub(super) written: Option<(String, String)>,
}

struct Bucket {
    left: f64,
    at: Timestamp,
}

/// See the module.
#[derive(Default)]
pub(super) struct Correlator {
    similar: HashMap<SimilarKey, (HashSet<String>, Timestamp)>,
    seen: HashMap<Key, Seen>,
    buckets: HashMap<About, Bucket>,
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn make_room<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.len() >= REMEMBERED {
        map.clear();
    }
}

impl Correlator {
    /// What is to be written of a note, under which key; `None` when nothing is.
    pub(super) fn correlate(&mut self, note: &Note, now: Timestamp) -> Option<(Key, String)> {
        let about = About::from(&note.about);
        let similar = SimilarKey(Similar { about: about.clone(), kind: note.kind, reason: note.reason.clone() });
        let (key, message) = if self.are_many(&similar, &note.message, now) {
            (Key::Combined(similar), format!("{COMBINED}{}", note.message))
        } else {
            (Key::One(similar, note.about.field_path.clone(), note.message.clone()), note.message.clone())
        };
        make_room(&mut self.seen);
        let seen = self.seen.entry(key.clone()).or_insert(Seen { count: 0, first: now, written: None });
        seen.count += 1;
        self.may_speak(about, now).then_some((key, message))
    }

    /// What is known of an event.
    pub(super) fn seen(&self, key: &Key) -> Option<&Seen> {
        self.seen.get(key)
    }

    /// Remembers how an event is called; `None` begins to count anew.
    pub(super) fn written(&mut self, key: Key, named: Option<(String, String)>) {
        match named {
            None => drop(self.seen.remove(&key)),
            Some(_) => {
                if let Some(seen) = self.seen.get_mut(&key) {
                    seen.written = named;
                }
            }
        }
    }

    fn are_many(&mut self, similar: &SimilarKey, message: &str, now: Timestamp) -> bool {
        make_room(&mut self.similar);
        let (messages, last) = self.similar.entry(similar.clone()).or_insert((HashSet::new(), now));
        if since(now, *last) > SIMILAR_WITHIN {
            messages.clear();
        }
        *last = now;
        if messages.len() < SIMILAR {
            messages.insert(message.to_owned());
        }
        messages.len() >= SIMILAR
    }

    fn may_speak(&mut self, about: About, now: Timestamp) -> bool {
        make_room(&mut self.buckets);
        let bucket = self.buckets.entry(about).or_insert(Bucket { left: BURST, at: now });
        let gained = since(now, bucket.at).as_secs_f64() / ONE_MORE.as_secs_f64();
        bucket.left = (bucket.left + gained).min(BURST);
        bucket.at = now;
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(object: &str, message: &str) -> Note {
        Note {
            about: ObjectReference { name: Some(object.into()), ..Default::default() },
            kind: "Normal",
            reason: "R".into(),
            message: message.into(),
        }
    }

    #[test]
    fn the_same_again_is_counted() {
        let (mut c, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let (key, _) = c.correlate(&note("a", "m"), now).unwrap();
        c.written(key.clone(), Some(("n".into(), "e".into())));
        let (again, message) = c.correlate(&note("a", "m"), now).unwrap();
        assert!(again == key && message == "m");
        let seen = c.seen(&key).unwrap();
        assert_eq!((seen.count, seen.written.is_some()), (2, true));
        let (other, _) = c.correlate(&note("b", "m"), now).unwrap();
        assert!(other != key && c.seen(&other).unwrap().written.is_none());
    }

    #[test]
    fn the_tenth_similar_message_within_ten_minutes_becomes_combined() {
        let (mut c, start) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let mut said = Vec::new();
        for i in 0..12 {
            said.push(c.correlate(&note("a", &format!("m{i}")), start).unwrap());
        }
        assert_eq!(said[8].1, "m8");
        assert_eq!(said[9].1, "(combined from similar events): m9");
        assert!(said[9].0 == said[11].0);
        assert_eq!(c.seen(&said[11].0).unwrap().count, 3);
        let later = start + Duration::from_secs(601);
        assert_eq!(c.correlate(&note("a", "m99"), later).unwrap().1, "m99");
    }

    #[test]
    fn who_says_too_much_about_an_object_is_not_heard_for_a_while() {
        let (mut c, start) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let heard = (0..100).filter(|_| c.correlate(&note("a", "m"), start).is_some()).count();
        assert_eq!(heard, 25);
        assert!(c.correlate(&note("b", "m"), start).is_some(), "others are");
        let later = start + Duration::from_secs(300);
        assert!(c.correlate(&note("a", "m"), later).is_some());
        assert!(c.correlate(&note("a", "m"), later).is_none());
        let key = Key::One(
            SimilarKey(Similar { about: About::from(&note("a", "m").about), kind: "Normal", reason: "R".into() }),
            None,
            "m".into(),
        );
        assert_eq!(c.seen(&key).unwrap().count, 102, "but all are counted");
    }
}
