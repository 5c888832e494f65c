//! Seats: how many requests of each priority level are served at once, and who waits for how long.
//!
//! A level has a nominal number of seats, of which it lends a part to others while it does not need
//! it: every ten seconds it is found out by the demand of all ([`super::allocation`]) how many each
//! may take. Requests that find no seat wait in queues. A flow is dealt a hand of its level's queues and joins
//! the shortest; queues are served by start time, in seats, so that a flow that asks for much waits
//! for itself and not for others (upstream: `apiserver/pkg/util/flowcontrol/fairqueuing`).

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::allocation::{Claim, allocate};
use super::counters::Counters;
use super::demand::{Figures, SeatDemand};
use super::estimate::Width;

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

/// What becomes of requests that find no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is always one.
    Exempt,
    /// They are turned away.
    Reject,
    /// They wait.
    Queue(Queuing),
}

/// What a priority level may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// By its shares.
    pub nominal: u64,
    /// What it keeps when all others borrow.
    pub least: u64,
    /// What it may have when it borrows.
    pub most: u64,
    /// How it is limited.
    pub kind: Kind,
}

impl Limits {
    /// Of what is not limited, and lends nothing.
    pub const EXEMPT: Limits = Limits { nominal: 0, least: 0, most: 0, kind: Kind::Exempt };

    /// Before the demand is known: half of what can be lent is.
    fn initial(&self) -> u64 {
        self.nominal - (self.nominal - self.least) / 2
    }
}

/// What a level has and could use, for the metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) limits: Limits,
    pub(super) current: u64,
    pub(super) demand: Figures,
    pub(super) target: f64,
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
    pub width: Width,
    /// Whether it is the beginning of a watch.
    pub is_watch: bool,
    /// Of a write: how many watch what it writes.
    pub watchers: Option<usize>,
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
    /// How many seats may be taken until the next division.
    current: u64,
    /// Taken seats.
    taken: u64,
    waiting: usize,
    /// The seats that those who wait want.
    wanted: u64,
    demand: SeatDemand,
    target: f64,
    queues: Vec<Queue>,
    /// The virtual start of what was served last.
    clock: f64,
    /// No longer configured: it goes once it is empty.
    removed: bool,
}

impl Level {
    fn new(limits: Limits) -> Level {
        Level {
            limits,
            current: limits.initial(),
            taken: 0,
            waiting: 0,
            wanted: 0,
            demand: SeatDemand::new(Instant::now()),
            target: 0.0,
            queues: Vec::new(),
            clock: 0.0,
            removed: false,
        }
    }

    fn is_exempt(&self) -> bool {
        self.limits.kind == Kind::Exempt
    }

    /// After every change of what is taken or waited for.
    fn note(&mut self) {
        self.demand.set(self.taken + self.wanted, Instant::now());
    }

    fn fits(&self, seats: u64) -> bool {
        // What is wider than the level goes alone, as upstream: so does what comes to one of no seats.
        let alone = self.taken == 0;
        self.is_exempt() || self.taken + seats <= self.current || alone
    }

    fn waits(&mut self, at: usize, waiter: Waiter) {
        self.waiting += 1;
        self.wanted += waiter.seats;
        self.queues[at].waiters.push_back(waiter);
        self.note();
    }

    fn left(&mut self, waiter: &Waiter) {
        self.waiting -= 1;
        self.wanted -= waiter.seats;
        self.note();
    }

    fn claim(&mut self, now: Instant) -> Claim {
        let Limits { nominal, least, most, .. } = self.limits;
        let demand = self.demand.settle(now);
        Claim { exempt: self.is_exempt(), nominal, least, most, demand, current: self.current }
    }

    /// Takes the waiter that is next, if there is room: the first of the queue that starts first.
    fn next(&mut self) -> Option<Waiter> {
        let nonempty = self.queues.iter().enumerate().filter(|(_, q)| !q.waiters.is_empty());
        let (at, _) = nonempty.min_by(|(_, a), (_, b)| a.start.total_cmp(&b.start))?;
        let seats = self.queues[at].waiters.front()?.seats;
        if !self.fits(seats) {
            return None;
        }
        let queue = &mut self.queues[at];
        let waiter = queue.waiters.pop_front()?;
        self.clock = self.clock.max(queue.start);
        queue.start += seats as f64;
        self.left(&waiter);
        Some(waiter)
    }
}

#[derive(Default)]
struct State {
    levels: HashMap<Arc<str>, Level>,
    /// Which part of its demand each level gets that can use it.
    fair: f64,
    next_id: u64,
    counters: Counters,
}

impl State {
    /// Gives seats to those who wait for them.
    fn serve(&mut self, name: &Arc<str>) {
        let Some(level) = self.levels.get_mut(name) else { return };
        while let Some(waiter) = level.next() {
            // Whoever has gone meanwhile takes no seat.
            if waiter.granted.send(()).is_ok() {
                level.taken += waiter.seats;
                level.note();
            }
        }
    }

    fn serve_all(&mut self) {
        let names: Vec<Arc<str>> = self.levels.keys().cloned().collect();
        names.iter().for_each(|n| self.serve(n));
    }

    /// Divides the seats by the demand since the last time.
    fn divide(&mut self) {
        let now = Instant::now();
        let mut levels: Vec<&mut Level> = self.levels.values_mut().filter(|l| !l.removed).collect();
        let claims: Vec<Claim> = levels.iter_mut().map(|l| l.claim(now)).collect();
        let (seats, fair) = allocate(&claims);
        self.fair = fair;
        for ((level, claim), seats) in levels.into_iter().zip(&claims).zip(seats) {
            (level.current, level.target) = (seats, claim.target());
        }
        self.serve_all();
    }
}

/// All levels. Cheap to clone.
#[derive(Clone, Default)]
pub struct Seats(Arc<Mutex<State>>);

impl std::fmt::Debug for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seats")
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
        s.divide();
    }

    /// Divides the seats by the demand since the last time; upstream does it every ten seconds.
    pub fn divide(&self) {
        self.lock().divide();
    }

    /// The most seats that one request of a level takes, where that is limited.
    pub fn widest(&self, level: &str) -> Option<u64> {
        match self.lock().levels.get(level).map(|l| l.limits)? {
            Limits { nominal, kind: Kind::Queue(q), .. } => {
                Some(((nominal as f64 * 0.15).ceil() as u64).min(nominal / q.hand as u64).max(1))
            }
            _ => None,
        }
    }

    /// Takes seats, or waits for them.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn take(&self, demand: Demand<'_>) -> Result<Ticket, Refusal> {
        let arrived = Instant::now();
        let mut width = demand.width;
        let outcome = match self.try_take(&demand, &mut width) {
            Ok(None) => Ok(()),
            Ok(Some(waiting)) => waiting.wait(demand.patience).await,
            Err(refusal) => Err(refusal),
        };
        let mut s = self.lock();
        s.counters.arrived(&demand, outcome.err(), arrived.elapsed());
        drop(s);
        outcome?;
        let (schema, level) = (demand.schema.clone(), demand.level.clone());
        Ok(Ticket { all: self.clone(), schema, level, width, is_watch: demand.is_watch, since: Instant::now() })
    }

    fn try_take(&self, demand: &Demand<'_>, width: &mut Width) -> Result<Option<Waiting>, Refusal> {
        let mut s = self.lock();
        let id = s.next_id;
        let level = s.levels.entry(demand.level.clone()).or_insert_with(|| Level::new(Limits::EXEMPT));
        if !level.is_exempt() {
            *width = width.within(level.current);
        }
        let seats = width.most();
        if level.waiting == 0 && level.fits(seats) {
            level.taken += seats;
            level.note();
            s.counters.executing(demand.schema, demand.level, 1, seats as i64);
            return Ok(None);
        }
        let Kind::Queue(queuing) = level.limits.kind else {
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
        level.waits(at, Waiter { id, seats, granted });
        let length = level.queues[at].waiters.len();
        s.next_id += 1;
        s.counters.queued(demand.schema, demand.level, 1, seats as i64);
        s.counters.joined(demand.schema, demand.level, length);
        // It may be the first that fits, behind one that needs more.
        s.serve(demand.level);
        let (schema, level) = (demand.schema.clone(), demand.level.clone());
        Ok(Some(Waiting { all: self.clone(), schema, level, queue: at, id, seats, grant, done: false }))
    }

    fn give_back(&self, level: &Arc<str>, seats: u64) {
        let mut s = self.lock();
        let Some(l) = s.levels.get_mut(level) else { return };
        l.taken = l.taken.saturating_sub(seats);
        l.note();
        if l.removed && l.taken == 0 && l.waiting == 0 {
            s.levels.remove(level);
            return;
        }
        s.serve(level);
    }

    /// The metrics.
    pub fn write_metrics(&self, out: &mut String) {
        let s = self.lock();
        let standing =
            |l: &Level| Standing { limits: l.limits, current: l.current, demand: l.demand.figures(), target: l.target };
        let mut levels: Vec<_> = s.levels.iter().map(|(n, l)| (n.clone(), standing(l))).collect();
        levels.sort_by(|(a, _), (b, _)| a.cmp(b));
        s.counters.write(out, &levels, s.fair);
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
        s.counters.queued(&self.schema, &self.level, -1, -(self.seats as i64));
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
        let Some(waiter) = queue.waiters.remove(at) else { return false };
        level.left(&waiter);
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
        self.all.lock().counters.queued(&self.schema, &self.level, -1, -(self.seats as i64));
        if !left {
            self.all.give_back(&self.level, self.seats);
        }
    }
}

/// Seats that are taken; given back when it is dropped, or when those who watch have been served.
#[derive(Debug)]
pub struct Ticket {
    all: Seats,
    schema: Arc<str>,
    level: Arc<str>,
    width: Width,
    is_watch: bool,
    since: Instant,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let seats = self.width.most();
        let mut s = self.all.lock();
        s.counters.executing(&self.schema, &self.level, -1, 0);
        s.counters.executed(&self.schema, &self.level, self.is_watch, self.since.elapsed());
        drop(s);
        let (all, schema, level, lingers) =
            (self.all.clone(), self.schema.clone(), self.level.clone(), self.width.lingers);
        let give_back = move || {
            all.lock().counters.executing(&schema, &level, 0, -(seats as i64));
            all.give_back(&level, seats);
        };
        match tokio::runtime::Handle::try_current() {
            // Nobody waits for the end of these milliseconds, not even the end of the process.
            Ok(runtime) if !lingers.is_zero() => drop(runtime.spawn(async move {
                tokio::time::sleep(lingers).await;
                give_back();
            })),
            _ => give_back(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand: 2, length: 2 };

    fn limited(nominal: u64, least: u64, most: u64, queuing: Option<Queuing>) -> Limits {
        Limits { nominal, least, most, kind: queuing.map_or(Kind::Reject, Kind::Queue) }
    }

    fn seats(levels: &[(&str, Limits)]) -> Seats {
        let all = Seats::default();
        all.configure(&levels.iter().map(|(n, l)| (Arc::from(*n), *l)).collect());
        all
    }

    async fn take(all: &Seats, level: &str, flow: &str, seats: u64) -> Result<Ticket, Refusal> {
        wide(all, level, flow, Width::plain(seats)).await
    }

    async fn wide(all: &Seats, level: &str, flow: &str, width: Width) -> Result<Ticket, Refusal> {
        let level: Arc<str> = level.into();
        let patience = Duration::from_secs(5);
        all.take(Demand { schema: &"s".into(), level: &level, flow, width, is_watch: false, watchers: None, patience })
            .await
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
    async fn a_level_borrows_what_others_did_not_need_from_the_next_division_on() {
        let all = seats(&[("a", limited(4, 2, 12, None)), ("b", limited(8, 2, 12, None))]);
        let fill = async |level: &str| {
            let mut taken = Vec::new();
            while let Ok(t) = take(&all, level, "", 1).await {
                taken.push(t);
            }
            taken
        };
        let mut taken = fill("a").await;
        // Without demand what is lent is shared evenly.
        assert_eq!(taken.len(), 6);
        for _ in 0..8 {
            all.divide();
            taken.extend(fill("a").await);
        }
        assert_eq!((taken.len(), fill("b").await.len()), (10, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_seats_of_a_write_stay_taken_while_its_watchers_are_served() {
        let all = seats(&[("a", limited(3, 3, 3, None))]);
        let width = Width { seats: 1, after: 3, lingers: Duration::from_millis(5) };
        drop(wide(&all, "a", "", width).await.unwrap());
        assert_eq!(take(&all, "a", "", 1).await.unwrap_err(), Refusal::ConcurrencyLimit);
        tokio::time::sleep(Duration::from_millis(6)).await;
        assert!(take(&all, "a", "", 1).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_wider_than_its_level_goes_alone() {
        let all = seats(&[("a", limited(2, 2, 2, None))]);
        let alone = take(&all, "a", "", 5).await.unwrap();
        assert_eq!(take(&all, "a", "", 1).await.unwrap_err(), Refusal::ConcurrencyLimit);
        drop(alone);
        let _one = take(&all, "a", "", 1).await.unwrap();
        assert_eq!(take(&all, "a", "", 5).await.unwrap_err(), Refusal::ConcurrencyLimit);
    }

    #[tokio::test]
    async fn a_level_of_no_seats_serves_one_after_the_other() {
        let all = seats(&[("a", limited(0, 0, 0, None))]);
        let one = take(&all, "a", "", 1).await.unwrap();
        assert_eq!(take(&all, "a", "", 1).await.unwrap_err(), Refusal::ConcurrencyLimit);
        drop(one);
        assert!(take(&all, "a", "", 1).await.is_ok());
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
