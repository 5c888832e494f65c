//! Whether the tasks of a component go on: what its health check finds out.
//!
//! A task that ends before it is cancelled, or panics, takes nobody else with it; here it is
//! remembered. A task that hangs is not noticed.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct State {
    started: bool,
    ended: BTreeSet<String>,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Liveness(Arc<Mutex<State>>);

impl Liveness {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Two plain fields: they are whole whatever panicked.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The work of a task of this component, until it is cancelled. The task counts from now on.
    pub fn keep<F: Future<Output = ()>>(
        &self,
        task: &str,
        cancel: &CancellationToken,
        work: F,
    ) -> impl Future<Output = ()> + use<F> {
        self.lock().started = true;
        let running = Running { of: self.clone(), task: task.to_owned(), cancel: cancel.clone() };
        async move {
            let _ = running.cancel.run_until_cancelled(work).await;
        }
    }

    /// Whether all tasks that were started go on.
    ///
    /// # Errors
    /// Which do not.
    pub fn check(&self) -> Result<(), String> {
        let s = self.lock();
        if !s.started {
            return Err("not started".to_owned());
        }
        match s.ended.iter().map(String::as_str).collect::<Vec<_>>() {
            ended if ended.is_empty() => Ok(()),
            ended => Err(format!("tasks have ended: {}", ended.join(", "))),
        }
    }
}

/// A task; its end is the drop.
struct Running {
    of: Liveness,
    task: String,
    cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.cancel.is_cancelled() {
            self.of.lock().ended.insert(std::mem::take(&mut self.task));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_missed_and_a_cancelled_one_is_not() {
        let (liveness, cancel) = (Liveness::default(), CancellationToken::new());
        assert_eq!(liveness.check().unwrap_err(), "not started");
        let panics = async { panic!("as it happens") };
        let first = tokio::spawn(liveness.keep("first", &cancel, panics));
        let second = tokio::spawn(liveness.keep("second", &cancel, async {}));
        let third = tokio::spawn(liveness.keep("third", &cancel, std::future::pending()));
        assert!(first.await.is_err() && second.await.is_ok());
        assert_eq!(liveness.check().unwrap_err(), "tasks have ended: first, second");
        cancel.cancel();
        third.await.unwrap();
        assert_eq!(liveness.check().unwrap_err(), "tasks have ended: first, second");
    }

    #[tokio::test]
    async fn a_component_whose_tasks_run_is_alive() {
        let (liveness, cancel) = (Liveness::default(), CancellationToken::new());
        let _task = tokio::spawn(liveness.keep("only", &cancel, std::future::pending()));
        assert!(liveness.check().is_ok());
        cancel.cancel();
    }
}
