//! How many seats a request takes, and for how long after it (upstream: `flowcontrol/request`).

use std::time::Duration;

use super::FlowControl;
use super::classify::Schema;
use crate::Server;
use crate::request::{Query, RequestInfo};
use crate::storage;

/// What is read by a list takes a seat for so many bytes, …
const BYTES_PER_SEAT: usize = 100_000;
/// … but no more than this is in memory at a time.
const BYTES_AT_ONCE: usize = 1_000_000;
/// As many objects tell how large they are.
const SAMPLE: usize = 10;
/// The most seats that a list takes.
const LIST_SEATS: u64 = 100;
/// The most seats that the watchers of a write take.
const WRITE_SEATS: u64 = 10;
/// As many watchers take a seat, for so long.
const WATCHERS_PER_SEAT: usize = 10;
const EVENT: Duration = Duration::from_millis(5);

/// The seats of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// While it is served.
    pub seats: u64,
    /// After that, for those who watch.
    pub after: u64,
    /// For how long.
    pub lingers: Duration,
}

impl Width {
    /// So many seats, and nothing after.
    pub fn plain(seats: u64) -> Width {
        Width { seats, after: 0, lingers: Duration::ZERO }
    }

    /// What the watchers of a write take: the same work, with fewer seats, when `most` are fewer.
    fn of_write(watchers: usize, most: u64) -> Width {
        if watchers < WATCHERS_PER_SEAT {
            return Width::plain(1);
        }
        let after = watchers.div_ceil(WATCHERS_PER_SEAT) as u64;
        Width { seats: 1, after, lingers: EVENT }.within(most)
    }

    /// The same work on no more than so many seats after the request.
    pub fn within(self, most: u64) -> Width {
        if self.after <= most || most == 0 {
            return self;
        }
        let lingers = self.lingers.mul_f64(self.after as f64 / most as f64);
        Width { after: most, lingers, ..self }
    }

    /// What it takes from the beginning: upstream, too, has one number for both times.
    pub fn most(self) -> u64 {
        self.seats.max(self.after)
    }
}

impl FlowControl {
    /// The seats of a request; of a write also who may see it.
    pub(super) fn width(
        &self,
        server: &Server,
        schema: &Schema,
        info: &RequestInfo,
        query: &Query,
    ) -> (Width, Option<usize>) {
        let widest = |limit: u64| self.seats.widest(&schema.level).map_or(limit, |w| w.min(limit));
        match info.verb.as_str() {
            "list" | "watch" if info.is_resource => {
                let seats = list_seats(server, info, query);
                (Width::plain(if seats > 1 { seats.min(widest(LIST_SEATS)) } else { 1 }), None)
            }
            "create" | "update" | "patch" | "delete" if info.is_resource => {
                // A token changes nothing that is watched.
                if info.resource == "serviceaccounts" && info.subresource == "token" {
                    return (Width::plain(1), None);
                }
                let watchers = self.watchers.interested(info);
                let most = if watchers < WATCHERS_PER_SEAT { 1 } else { widest(WRITE_SEATS) };
                (Width::of_write(watchers, most), Some(watchers))
            }
            _ => (Width::plain(1), None),
        }
    }
}

/// What a list, or the beginning of a watch, reads.
fn list_seats(server: &Server, info: &RequestInfo, query: &Query) -> u64 {
    let from = query.get("resourceVersion").unwrap_or_default();
    let initial = matches!(from, "" | "0") || query.get("sendInitialEvents") == Some("true");
    if info.verb == "watch" && !initial {
        return 1;
    }
    // What is served elsewhere, or by nobody, costs little here.
    let Ok(resource) = server.resource(&info.group, &info.version, &info.resource) else { return 1 };
    let Some(cache) = server.registry().caches().get(&storage::prefix(&resource)) else { return 1 };
    let limit = query.get("limit").and_then(|l| l.parse().ok()).filter(|l| *l > 0);
    let count = if info.name.is_empty() { cache.len().min(limit.unwrap_or(usize::MAX)) } else { 1 };
    let objects = cache.objects();
    let sizes: Vec<usize> = objects.values().take(SAMPLE).map(|o| o.size()).collect();
    let average = sizes.iter().sum::<usize>() / sizes.len().max(1);
    count.saturating_mul(average).min(BYTES_AT_ONCE).div_ceil(BYTES_PER_SEAT).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_take_seats_after_the_write_and_longer_when_they_may_take_few() {
        assert_eq!(Width::of_write(9, 10), Width::plain(1));
        let wide = Width { seats: 1, after: 3, lingers: EVENT };
        assert_eq!(Width::of_write(25, 10), wide);
        assert_eq!((wide.most(), Width::of_write(1000, 10).lingers), (3, EVENT * 10));
        assert_eq!(Width::of_write(1000, 10).after, 10);
        assert_eq!(wide.within(1), Width { seats: 1, after: 1, lingers: EVENT * 3 });
    }
}
