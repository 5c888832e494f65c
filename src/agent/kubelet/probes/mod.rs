//! Probes: one small task for each probe of each running container.
//!
//! A probe task owns its counters; it tells [`Results`] when a verdict changes, and that wakes the
//! pod's worker. Startup first: until it succeeds, the others wait. A liveness or startup verdict
//! "failed" is final for that container: the worker kills it.
//!
//! Upstream: `pkg/kubelet/prober`.

mod check;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::k8s::core::v1::{Container, ObjectReference, Probe};
use client::EventRecorder;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cri::Runtime;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// The verdicts of a pod's probes, by container id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Startup succeeded, or there is none.
    pub started: HashSet<String>,
    /// Readiness succeeded, or there is none.
    pub ready: HashSet<String>,
    /// Liveness or startup failed: the words for the event.
    pub unhealthy: HashMap<String, String>,
}

/// A pod's verdicts, shared between its probe tasks and its worker.
#[derive(Debug)]
pub struct Results {
    verdicts: Mutex<Verdicts>,
    wake: Arc<Notify>,
    /// Wakes the other probes of a container that has started.
    started: tokio::sync::watch::Sender<u64>,
}

impl Results {
    /// No verdicts yet; `wake` is notified at each change.
    pub fn new(wake: Arc<Notify>) -> Results {
        Results { verdicts: Mutex::default(), wake, started: tokio::sync::watch::Sender::new(0) }
    }

    /// A copy of the verdicts.
    pub fn get(&self) -> Verdicts {
        self.verdicts.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn change(&self, f: impl FnOnce(&mut Verdicts)) {
        let mut v = self.verdicts.lock().unwrap_or_else(|e| e.into_inner());
        let before = v.clone();
        f(&mut v);
        if *v != before {
            let begun = v.started != before.started;
            drop(v);
            if begun {
                self.started.send_modify(|n| *n += 1);
            }
            self.wake.notify_one();
        }
    }

    fn is_started(&self, id: &str) -> bool {
        self.verdicts.lock().unwrap_or_else(|e| e.into_inner()).started.contains(id)
    }

    /// Containers that do not run any more have no verdicts.
    pub fn retain(&self, running: &HashSet<String>) {
        let mut v = self.verdicts.lock().unwrap_or_else(|e| e.into_inner());
        v.started.retain(|id| running.contains(id));
        v.ready.retain(|id| running.contains(id));
        v.unhealthy.retain(|id, _| running.contains(id));
    }
}

/// What a probe task needs to know of its container.
#[derive(Clone)]
pub struct Target {
    /// How to exec.
    pub runtime: Arc<dyn Runtime>,
    /// Where events go.
    pub recorder: EventRecorder,
    /// What events are about.
    pub about: ObjectReference,
    /// Its spec.
    pub container: Container,
    /// Its id.
    pub id: String,
    /// The pod's address.
    pub ip: String,
    /// When it was started, ns since the epoch.
    pub started_ns: i64,
}

/// The probe tasks of a pod.
pub struct Probes {
    results: Arc<Results>,
    tasks: TaskTracker,
    running: HashMap<String, CancellationToken>,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probes")
    }
}

impl Probes {
    /// None yet.
    pub fn new(results: Arc<Results>, tasks: TaskTracker) -> Probes {
        Probes { results, tasks, running: HashMap::new() }
    }

    /// Probes just these containers from now on; those that are probed already go on.
    pub fn set(&mut self, targets: Vec<Target>, cancel: &CancellationToken) {
        let ids: HashSet<String> = targets.iter().map(|t| t.id.clone()).collect();
        self.running.retain(|id, end| {
            let keep = ids.contains(id);
            if !keep {
                end.cancel();
            }
            keep
        });
        self.results.retain(&ids);
        for t in targets {
            if self.running.contains_key(&t.id) {
                continue;
            }
            let end = cancel.child_token();
            self.running.insert(t.id.clone(), end.clone());
            let c = &t.container;
            let (startup, liveness, readiness) =
                (c.startup_probe.clone(), c.liveness_probe.clone(), c.readiness_probe.clone());
            self.results.change(|v| {
                if startup.is_none() {
                    v.started.insert(t.id.clone());
                }
                if readiness.is_none() {
                    v.ready.insert(t.id.clone());
                }
            });
            for (kind, probe) in [(Kind::Startup, startup), (Kind::Liveness, liveness), (Kind::Readiness, readiness)] {
                let Some(probe) = probe else { continue };
                let (task, end) = (Task { kind, probe, target: t.clone(), results: self.results.clone() }, end.clone());
                self.tasks.spawn(async move {
                    let _ = end.run_until_cancelled(task.run()).await;
                });
            }
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for end in self.running.values() {
            end.cancel();
        }
    }
}

struct Task {
    kind: Kind,
    probe: Probe,
    target: Target,
    results: Arc<Results>,
}

fn number(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

impl Task {
    async fn run(self) {
        let period = Duration::from_secs(number(self.probe.period_seconds, 10).into());
        let timeout = Duration::from_secs(number(self.probe.timeout_seconds, 1).into());
        let failures_max = number(self.probe.failure_threshold, 3);
        let successes_min = number(self.probe.success_threshold, 1);
        let delay =
            Duration::from_secs(self.probe.initial_delay_seconds.and_then(|d| u64::try_from(d).ok()).unwrap_or(0));
        if self.kind != Kind::Startup {
            let mut begun = self.results.started.subscribe();
            while !self.results.is_started(&self.target.id) {
                if begun.changed().await.is_err() {
                    return;
                }
            }
        }
        let age = jiff::Timestamp::now().duration_since(super::actions::time_of(self.target.started_ns));
        let age = Duration::try_from(age).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let (mut failed, mut succeeded) = (0u32, 0u32);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = check::check(&self.target, &self.probe, timeout).await;
            let id = &self.target.id;
            match outcome {
                Ok(()) => {
                    failed = 0;
                    succeeded = succeeded.saturating_add(1);
                    if succeeded >= successes_min {
                        match self.kind {
                            Kind::Startup => {
                                self.results.change(|v| {
                                    v.started.insert(id.clone());
                                });
                                return;
                            }
                            Kind::Liveness => {}
                            Kind::Readiness => self.results.change(|v| {
                                v.ready.insert(id.clone());
                            }),
                        }
                    }
                }
                Err(why) => {
                    succeeded = 0;
                    failed = failed.saturating_add(1);
                    let message = format!("{} probe failed: {why}", self.kind.title());
                    self.target.recorder.warning(self.target.about.clone(), "Unhealthy", message);
                    if failed >= failures_max {
                        let name = &self.target.container.name;
                        match self.kind {
                            Kind::Readiness => self.results.change(|v| {
                                v.ready.remove(id);
                            }),
                            kind => {
                                let title = kind.title().to_lowercase();
                                self.results.change(|v| {
                                    let words = format!("Container {name} failed {title} probe, will be restarted");
                                    v.unhealthy.insert(id.clone(), words);
                                });
                                return;
                            }
                        }
                    }
                }
            }
        }
    }
}
