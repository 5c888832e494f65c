//! Events are posted as lists to a service that a kubeconfig names, as upstream does
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#webhook-backend>).
//!
//! * In batches: events wait in a queue of limited length; one task makes lists of them, at a
//!   limited rate. An event that finds the queue full is dropped, counted and told of.
//! * Blocking: a request waits until each of its events was taken, or was given up.
//!
//! Upstream lets any number of lists be under way; here the queue fills when many are.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counts::{Counts, Fault};
use super::{event, truncate};
use crate::reviewer::Reviewer;

/// How often a list is posted, and by how much longer each pause is than the one before.
const TRIES: u32 = 5;
const LONGER: f64 = 1.5;
/// How long the service may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take when the server ends.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// How many lists are under way at once.
const UNDER_WAY_MAX: usize = 32;

/// Whether requests wait for their events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They do not.
    #[default]
    Batch,
    /// They do.
    Blocking,
    /// They do, and are not served when their first event is not taken.
    BlockingStrict,
}

/// How lists are made.
#[derive(Clone, Debug)]
pub struct Batch {
    /// How many events may wait.
    pub buffer_size: usize,
    /// How many make a list.
    pub max_size: usize,
    /// How long the first event of a list waits for others.
    pub max_wait: Duration,
    /// How many lists are sent a second, and how many at once after a pause.
    pub throttle: Option<(f64, u32)>,
}

/// Where events are posted, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A kubeconfig.
    pub config_file: PathBuf,
    /// Whether requests wait.
    pub mode: Mode,
    /// How long the first pause is before a list is posted again.
    pub initial_backoff: Duration,
    /// How lists are made where requests do not wait.
    pub batch: Batch,
    /// What is too large; nothing is without.
    pub truncate: Option<truncate::Limits>,
}

/// What is posted.
struct Service {
    reviewer: Reviewer,
    backoff: Duration,
    truncate: Option<truncate::Limits>,
    counts: Arc<Counts>,
    cancel: CancellationToken,
}

/// See the module.
pub(super) struct Webhook {
    service: Arc<Service>,
    way: Way,
}

enum Way {
    Queued { queue: mpsc::Sender<Bytes>, full: AtomicBool },
    Awaited { tasks: TaskTracker, runtime: tokio::runtime::Handle, strict: bool },
}

impl Webhook {
    /// Reads the kubeconfig; what is under way is part of `tasks`.
    ///
    /// # Errors
    /// A file that cannot be read, or is not fit for this.
    pub(super) fn start(
        settings: &Settings,
        counts: Arc<Counts>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Webhook, Status> {
        let service = Arc::new(Service {
            reviewer: Reviewer::from_kubeconfig(&settings.config_file)?,
            backoff: settings.initial_backoff,
            truncate: settings.truncate,
            counts,
            cancel: cancel.clone(),
        });
        let way = match settings.mode {
            Mode::Batch => {
                let (queue, waiting) = mpsc::channel(settings.batch.buffer_size.max(1));
                tasks.spawn(service.clone().run(settings.batch.clone(), waiting));
                Way::Queued { queue, full: AtomicBool::new(false) }
            }
            mode => Way::Awaited {
                tasks: tasks.clone(),
                runtime: tokio::runtime::Handle::current(),
                strict: mode == Mode::BlockingStrict,
            },
        };
        Ok(Webhook { service, way })
    }

    /// Takes an event, as its line. What is given says, when it is to be waited for, whether the
    /// request may go on.
    pub(super) fn take(&self, line: &[u8]) -> Option<JoinHandle<bool>> {
        let item = event::item(line);
        match &self.way {
            Way::Queued { queue, full } => {
                let taken = queue.try_send(item).is_ok();
                if !taken {
                    self.service.counts.failed(Fault::Queue, 1);
                }
                // Once for each time that it fills: the queue is full of what tells why.
                if full.swap(!taken, Ordering::Relaxed) == taken && !taken {
                    tracing::error!("audit events are dropped: the queue of the audit webhook is full");
                }
                None
            }
            Way::Awaited { tasks, runtime, strict } => {
                let (service, strict) = (self.service.clone(), *strict);
                let sent = async move { service.send(vec![item]).await || !strict };
                Some(tasks.spawn_on(sent, runtime))
            }
        }
    }
}

impl Service {
    /// Makes lists of what waits, until cancelled; then of the rest.
    async fn run(self: Arc<Service>, batch: Batch, mut waiting: mpsc::Receiver<Bytes>) {
        let (under_way, places) = (TaskTracker::new(), Arc::new(Semaphore::new(UNDER_WAY_MAX)));
        let mut pace = batch.throttle.map(|(rate, burst)| Pace::new(rate, burst));
        while let Some(events) = self.gather(&batch, &mut waiting).await {
            let pause = pace.as_mut().map_or(Duration::ZERO, |p| p.take(Instant::now()));
            let place = async {
                tokio::time::sleep(pause).await;
                places.clone().acquire_owned().await
            };
            // At the end nothing is waited for.
            let place = self.cancel.run_until_cancelled(place).await;
            let service = self.clone();
            under_way.spawn(async move {
                service.send(events).await;
                drop(place);
            });
        }
        under_way.close();
        under_way.wait().await;
    }

    /// The events of a list; `None` when all were given.
    async fn gather(&self, batch: &Batch, waiting: &mut mpsc::Receiver<Bytes>) -> Option<Vec<Bytes>> {
        let mut events = Vec::new();
        if self.cancel.run_until_cancelled(waiting.recv_many(&mut events, batch.max_size)).await.is_none() {
            waiting.close();
            waiting.recv_many(&mut events, batch.max_size).await;
        }
        let filled = async {
            while !events.is_empty() && events.len() < batch.max_size {
                let room = batch.max_size - events.len();
                if waiting.recv_many(&mut events, room).await == 0 {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(batch.max_wait, filled);
        // Either way: what has come by then is the list.
        let _ = self.cancel.run_until_cancelled(in_time).await;
        (!events.is_empty()).then_some(events)
    }

    /// Posts events; whether all were taken.
    async fn send(&self, mut events: Vec<Bytes>) -> bool {
        let Some(limits) = &self.truncate else { return self.post(&events).await };
        let before = events.len();
        events = events.into_iter().filter_map(|e| limits.fit(e)).collect();
        let mut all = events.len() == before;
        if !all {
            self.counts.failed(Fault::Truncate, before - events.len());
            tracing::error!(events = before - events.len(), "audit events are dropped: they are too large");
        }
        for part in limits.split(&events) {
            all &= self.post(part).await;
        }
        all
    }

    /// Posts a list, again and again when that fails.
    async fn post(&self, events: &[Bytes]) -> bool {
        let list = event::list(events);
        let mut pause = self.backoff;
        for left in (0..TRIES).rev() {
            let ending = self.cancel.is_cancelled();
            let patience = if ending { LAST_PATIENCE } else { PATIENCE };
            let Err(why) = self.reviewer.tell(list.clone(), patience).await else { return true };
            if left == 0 || ending {
                self.counts.failed(Fault::Webhook, events.len());
                tracing::error!(events = events.len(), error = why, "audit events could not be sent");
                return false;
            }
            tracing::warn!(error = why, "audit events are sent again");
            self.cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = pause.mul_f64(LONGER);
        }
        false
    }
}

/// A rate that may be exceeded for a moment, kept as the time at which nothing of it is used.
struct Pace {
    every: Duration,
    burst: u32,
    free: Option<Instant>,
}

impl Pace {
    fn new(rate: f64, burst: u32) -> Pace {
        Pace { every: Duration::from_secs_f64(rate.recip()), burst, free: None }
    }

    /// How long the next one, which is counted, must wait.
    fn take(&mut self, now: Instant) -> Duration {
        let used = self.free.map_or(Duration::ZERO, |f| f.saturating_duration_since(now));
        self.free = Some(now + used + self.every);
        (used + self.every).saturating_sub(self.every * self.burst)
    }
}

#[cfg(test)]
mod tests;
