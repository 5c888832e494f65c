//! Seats: how many requests of each priority level are served at once, and who waits for how long.
//!
//! A level has a nominal number of seats, of which it lends a part to others while it does not need
//! it: what each level takes beyond the part that it keeps comes out of one pool of all that is lent.
//! Requests that find no seat wait in queues. A flow is dealt a hand of its level's queues and joins
//! the shortest; queues are served by start time, in seats, so that a flow that asks for much waits
//! for itself and not for others (upstream: `apiserver/pkg/util/flowcontrol/fairqueuing`).
//!
//! Differs from upstream: borrowing follows demand at once instead of every ten seconds, and the
//! work that watchers make for a write is not counted.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::counters::Counters;

/// How requests of a level wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    /// Number of queues.
    pub queues: usize,
    /// How many of them a flow is dealt.
    pub hand: usize,
    /// How many requests fit into one.
    pub length: usize,
}

/// What a priority level may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    /// Everything, at once.
    Exempt,
    /// Seats.
    Limited {
        /// By its shares.
        nominal: u64,
        /// What it keeps when all others borrow.
        least: u64,
        /// What it may have when it borrows.
        most: u64,
        /// `None` turns away what finds no seat.
        queuing: Option<Queuing>,
    },
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The level does not queue.
    ConcurrencyLimit,
    /// The shortest queue of its hand is full.
    QueueFull,
    /// It has waited too long.
    TimeOut,
}

impl Refusal {
    /// The label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimeOut => "time-out",
        }
    }
}

/// A request as far as seats matter.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// The name of its flow schema.
    pub schema: &'a Arc<str>,
    /// The name of its level.
    pub level: &'a Arc<str>,
    /// The flow in the schema.
    pub flow: &'a str,
    /// How many seats it takes.
    pub seats: u64,
    /// How long it may wait.
    pub patience: Duration,
}

struct Waiter {
    id: u64,
    seats: u64,
    granted: oneshot::Sender<()>,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// The virtual time at which its first waiter starts.
    start: f64,
}

struct Level {
    limits: Limits,
    /// Taken seats.
    taken: u64,
    waiting: usize,
    queues: Vec<Queue>,
    /// The virtual start of what was served last.
    clock: f64,
    /// No longer configured: it goes once it is empty.
    removed: bool,
}

impl Level {
    fn new(limits: Limits) -> Level {
        Level { limits, taken: 0, waiting: 0, queues: Vec::new(), clock: 0.0, removed: false }
    }

    /// What so many seats take out of the pool.
    fn drawn(&self, seats: u64) -> u64 {
        match self.limits {
            Limits::Exempt => 0,
            Limits::Limited { least, .. } => seats.saturating_sub(least),
        }
    }

    fn fits(&self, seats: u64, pool: u64) -> bool {
        let after = self.taken + seats;
        match self.limits {
            Limits::Exempt => true,
            Limits::Limited { most, .. } => {
                after <= most && self.drawn(after).saturating_sub(self.drawn(self.taken)) <= pool
            }
        }
    }

    /// Takes the waiter that is next: the first of the queue that starts first.
    fn next(&mut self) -> Option<(usize, Waiter)> {
        let nonempty = self.queues.iter().enumerate().filter(|(_, q)| !q.waiters.is_empty());
        let (at, _) = nonempty.min_by(|(_, a), (_, b)| a.start.total_cmp(&b.start))?;
        let waiter = self.queues[at].waiters.pop_front()?;
        self.waiting -= 1;
        Some((at, waiter))
    }
}

struct State {
    levels: HashMap<Arc<str>, Level>,
    /// What is lent and not taken.
    pool: u64,
    next_id: u64,
    counters: Counters,
}

impl State {
    /// Counts taken seats up or down.
    fn take(&mut self, name: &Arc<str>, seats: u64) {
        let Some(level) = self.levels.get_mut(name) else { return };
        let before = level.drawn(level.taken);
        level.taken += seats;
        // What is over after a change of the configuration is given back before it is lent again.
        self.pool = self.pool.saturating_sub(level.drawn(level.taken) - before);
    }

    /// Gives seats to those who wait for them.
    fn serve(&mut self, name: &Arc<str>) {
        loop {
            let pool = self.pool;
            let Some(level) = self.levels.get_mut(name).filter(|l| l.waiting > 0) else { return };
            let Some((at, waiter)) = level.next() else { return };
            if !level.fits(waiter.seats, pool) {
                level.queues[at].waiters.push_front(waiter);
                level.waiting += 1;
                return;
            }
            let start = level.queues[at].start;
            level.clock = level.clock.max(start);
            level.queues[at].start = start + waiter.seats as f64;
            // Whoever has gone meanwhile takes no seat.
            if waiter.granted.send(()).is_ok() {
                self.take(name, waiter.seats);
            }
        }
    }

    fn recount(&mut self) {
        let lent: u64 = self
            .levels
            .values()
            .map(|l| match l.limits {
                Limits::Limited { nominal, least, .. } if !l.removed => nominal.saturating_sub(least),
                _ => 0,
            })
            .sum();
        let drawn: u64 = self.levels.values().map(|l| l.drawn(l.taken)).sum();
        self.pool = lent.saturating_sub(drawn);
    }
}

/// All levels. Cheap to clone.
#[derive(Clone)]
pub struct Seats(Arc<Mutex<State>>);

impl std::fmt::Debug for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seats")
    }
}

impl Default for Seats {
    fn default() -> Seats {
        let state = State { levels: HashMap::new(), pool: 0, next_id: 0, counters: Counters::default() };
        Seats(Arc::new(Mutex::new(state)))
    }
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers and queues: nothing that a panic elsewhere could leave half-done matters more than going on.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sets what each level may use. Levels that are no longer there serve those who wait.
    pub fn configure(&self, limits: &HashMap<Arc<str>, Limits>) {
        let mut s = self.lock();
        for (name, limits) in limits {
            let level = s.levels.entry(name.clone()).or_insert_with(|| Level::new(*limits));
            (level.limits, level.removed) = (*limits, false);
        }
        for (name, level) in &mut s.levels {
            level.removed = !limits.contains_key(name);
        }
        s.levels.retain(|_, l| !l.removed || l.taken > 0 || l.waiting > 0);
        s.recount();
        let names: Vec<Arc<str>> = s.levels.keys().cloned().collect();
        names.iter().for_each(|n| s.serve(n));
    }

    /// The most seats that one request of a level takes.
    pub fn widest(&self, level: &str) -> u64 {
        match self.lock().levels.get(level).map(|l| l.limits) {
            Some(Limits::Limited { nominal, .. }) => ((nominal as f64 * 0.15).ceil() as u64).max(1),
            _ => 1,
        }
    }

    /// Takes seats, or waits for them.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn take(&self, demand: Demand<'_>) -> Result<Ticket, Refusal> {
        let arrived = Instant::now();
        let outcome = match self.try_take(&demand) {
            Ok(None) => Ok(()),
            Ok(Some(waiting)) => waiting.wait(demand.patience).await,
            Err(refusal) => Err(refusal),
        };
        let mut s = self.lock();
        s.counters.arrived(demand.schema, demand.level, outcome.err(), arrived.elapsed());
        drop(s);
        outcome?;
        let (schema, level) = (demand.schema.clone(), demand.level.clone());
        Ok(Ticket { all: self.clone(), schema, level, seats: demand.seats, since: Instant::now() })
    }

    fn try_take(&self, demand: &Demand<'_>) -> Result<Option<Waiting>, Refusal> {
        let mut s = self.lock();
        let (pool, id) = (s.pool, s.next_id);
        let level = s.levels.entry(demand.level.clone()).or_insert_with(|| Level::new(Limits::Exempt));
        if level.waiting == 0 && level.fits(demand.seats, pool) {
            s.take(demand.level, demand.seats);
            s.counters.executing(demand.schema, demand.level, 1, demand.seats as i64);
            return Ok(None);
        }
        let Limits::Limited { queuing: Some(queuing), .. } = level.limits else {
            return Err(Refusal::ConcurrencyLimit);
        };
        level.queues.resize_with(queuing.queues.max(level.queues.len()), Queue::default);
        let hand = deal(demand.schema, demand.flow, queuing);
        let Some(at) = hand.into_iter().min_by_key(|q| level.queues[*q].waiters.len()) else {
            return Err(Refusal::QueueFull);
        };
        let (clock, queue) = (level.clock, &mut level.queues[at]);
        if queue.waiters.len() >= queuing.length {
            return Err(Refusal::QueueFull);
        }
        if queue.waiters.is_empty() {
            queue.start = queue.start.max(clock);
        }
        let (granted, grant) = oneshot::channel();
        queue.waiters.push_back(Waiter { id, seats: demand.seats, granted });
        level.waiting += 1;
        s.next_id += 1;
        s.counters.queued(demand.schema, demand.level, 1);
        // It may be the first that fits, behind one that needs more.
        s.serve(demand.level);
        let (schema, level) = (demand.schema.clone(), demand.level.clone());
        Ok(Some(Waiting { all: self.clone(), schema, level, queue: at, id, seats: demand.seats, grant, done: false }))
    }

    fn give_back(&self, level: &Arc<str>, seats: u64) {
        let mut s = self.lock();
        let Some(l) = s.levels.get_mut(level) else { return };
        l.taken = l.taken.saturating_sub(seats);
        let gone = l.removed && l.taken == 0 && l.waiting == 0;
        let limited = l.limits != Limits::Exempt;
        if gone {
            s.levels.remove(level);
        }
        if !limited {
            return;
        }
        s.recount();
        s.serve(level);
        // What went back to the pool may be what others wait for.
        let others: Vec<Arc<str>> =
            s.levels.iter().filter(|(n, l)| *n != level && l.waiting > 0).map(|(n, _)| n.clone()).collect();
        others.iter().for_each(|n| s.serve(n));
    }

    /// The metrics.
    pub fn write_metrics(&self, out: &mut String) {
        let s = self.lock();
        let levels = s.levels.iter().map(|(n, l)| (n, &l.limits));
        s.counters.write(out, levels);
    }
}

/// The queues that a flow is dealt.
fn deal(schema: &str, flow: &str, queuing: Queuing) -> Vec<usize> {
    let mut hasher = DefaultHasher::new();
    (schema, flow).hash(&mut hasher);
    let mut rest = hasher.finish();
    let mut deck: Vec<usize> = Vec::with_capacity(queuing.hand);
    for dealt in 0..queuing.hand.min(queuing.queues) {
        let left = (queuing.queues - dealt) as u64;
        let mut card = (rest % left) as usize;
        rest /= left;
        // The card is counted among those that have not been dealt.
        deck.sort_unstable();
        for taken in &deck {
            card += usize::from(card >= *taken);
        }
        deck.push(card);
    }
    deck
}

/// A request in a queue; leaves it when it is dropped.
struct Waiting {
    all: Seats,
    schema: Arc<str>,
    level: Arc<str>,
    queue: usize,
    id: u64,
    seats: u64,
    grant: oneshot::Receiver<()>,
    done: bool,
}

impl Waiting {
    async fn wait(mut self, patience: Duration) -> Result<(), Refusal> {
        let granted = tokio::time::timeout(patience, &mut self.grant).await;
        // At the last moment both may have happened; then the seat counts.
        let served = matches!(granted, Ok(Ok(()))) || !self.leave();
        self.done = true;
        let mut s = self.all.lock();
        s.counters.queued(&self.schema, &self.level, -1);
        if !served {
            return Err(Refusal::TimeOut);
        }
        s.counters.executing(&self.schema, &self.level, 1, self.seats as i64);
        Ok(())
    }

    /// Leaves the queue; false when it was no longer in it.
    fn leave(&self) -> bool {
        let mut s = self.all.lock();
        let Some(level) = s.levels.get_mut(&self.level) else { return false };
        let Some(queue) = level.queues.get_mut(self.queue) else { return false };
        let Some(at) = queue.waiters.iter().position(|w| w.id == self.id) else { return false };
        queue.waiters.remove(at);
        level.waiting -= 1;
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Its client has gone while it waited, perhaps just when it was served.
        let left = self.leave();
        self.all.lock().counters.queued(&self.schema, &self.level, -1);
        if !left {
            self.all.give_back(&self.level, self.seats);
        }
    }
}

/// Seats that are taken; given back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    all: Seats,
    schema: Arc<str>,
    level: Arc<str>,
    seats: u64,
    since: Instant,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut s = self.all.lock();
        s.counters.executing(&self.schema, &self.level, -1, -(self.seats as i64));
        s.counters.executed(&self.schema, &self.level, self.since.elapsed());
        drop(s);
        self.all.give_back(&self.level, self.seats);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand: 2, length: 2 };

    fn limited(nominal: u64, least: u64, most: u64, queuing: Option<Queuing>) -> Limits {
        Limits::Limited { nominal, least, most, queuing }
    }

    fn seats(levels: &[(&str, Limits)]) -> Seats {
        let all = Seats::default();
        all.configure(&levels.iter().map(|(n, l)| (Arc::from(*n), *l)).collect());
        all
    }

    async fn take(all: &Seats, level: &str, flow: &str, seats: u64) -> Result<Ticket, Refusal> {
        let level: Arc<str> = level.into();
        let patience = Duration::from_secs(5);
        all.take(Demand { schema: &"s".into(), level: &level, flow, seats, patience }).await
    }

    #[tokio::test]
    async fn what_finds_no_seat_is_turned_away_where_nothing_queues() {
        let all = seats(&[("a", limited(2, 2, 2, None))]);
        let first = take(&all, "a", "", 1).await.unwrap();
        let _second = take(&all, "a", "", 1).await.unwrap();
        assert_eq!(take(&all, "a", "", 1).await.unwrap_err(), Refusal::ConcurrencyLimit);
        drop(first);
        assert!(take(&all, "a", "", 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_level_borrows_what_others_do_not_need_and_no_more() {
        let all = seats(&[("a", limited(2, 1, 10, None)), ("b", limited(4, 1, 10, None))]);
        let mut taken = Vec::new();
        while let Ok(t) = take(&all, "a", "", 1).await {
            taken.push(t);
        }
        // Its own two, and what b lends.
        assert_eq!(taken.len(), 5);
        let kept = take(&all, "b", "", 1).await.unwrap();
        assert_eq!(take(&all, "b", "", 1).await.unwrap_err(), Refusal::ConcurrencyLimit);
        taken.pop();
        assert!(take(&all, "b", "", 1).await.is_ok());
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_a_seat_or_with_patience() {
        let all = seats(&[("a", limited(1, 1, 1, Some(QUEUING)))]);
        let first = take(&all, "a", "f", 1).await.unwrap();
        let waiting = tokio::spawn({
            let all = all.clone();
            async move { take(&all, "a", "f", 1).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert_eq!(take(&all, "a", "f", 1).await.unwrap_err(), Refusal::TimeOut);
        drop(second);
        assert!(take(&all, "a", "f", 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loud_flow_fills_its_own_queues_and_a_quiet_one_is_served_next() {
        let queuing = Queuing { queues: 64, hand: 1, length: 3 };
        let all = seats(&[("a", limited(1, 1, 1, Some(queuing)))]);
        let busy = take(&all, "a", "loud", 1).await.unwrap();
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for flow in ["loud", "loud", "loud", "loud", "quiet"] {
            let (all, order) = (all.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let result = take(&all, "a", flow, 1).await;
                let _ = order.send((flow, result.is_ok()));
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(served.recv().await.unwrap(), ("loud", false));
        drop(busy);
        let mut flows = Vec::new();
        for _ in 0..4 {
            flows.push(served.recv().await.unwrap());
        }
        assert!(flows.iter().all(|(_, ok)| *ok));
        assert!(flows[..2].iter().any(|(f, _)| *f == "quiet"), "{flows:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_while_it_waits_leaves_no_trace() {
        let all = seats(&[("a", limited(1, 1, 1, Some(QUEUING)))]);
        let first = take(&all, "a", "f", 1).await.unwrap();
        {
            let waiting = take(&all, "a", "f", 1);
            tokio::pin!(waiting);
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            drop(first);
        }
        assert!(take(&all, "a", "f", 1).await.is_ok());
    }

    #[test]
    fn a_hand_has_different_cards() {
        for flow in 0..200 {
            let mut hand = deal("s", &flow.to_string(), Queuing { queues: 7, hand: 6, length: 1 });
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == 6 && hand.iter().all(|c| *c < 7), "{hand:?}");
        }
    }
}
