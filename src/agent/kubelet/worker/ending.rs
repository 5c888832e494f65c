//! The way out: stop what runs, clean up, and wait for the object to go.

use super::{Plan, State, Worker, stop};

impl Worker {
    pub(super) async fn terminate(&mut self) -> State {
        self.jobs.shutdown().await;
        self.memory.starting.clear();
        self.stopping.clear();
        let desired = self.now_desired();
        self.desired.mark_unchanged();
        self.verdict = self.verdict.take().or_else(|| desired.verdict.clone());
        if let Err(e) = self.look().await {
            tracing::warn!(pod = %self.id.name, error = %e, "the runtime does not answer about a pod that ends");
            let at = self.backoff();
            self.wait(Some(at)).await;
            return State::Terminating;
        }
        self.memory_from_probes(&desired.pod);
        self.report(&desired);
        let grace = desired.grace();
        let (shared, seen) = (self.shared.clone(), self.seen.clone());
        // Force deletion, or a shorter grace period, does not wait for a longer one.
        let shorter = async {
            loop {
                if self.desired.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if self.desired.borrow().grace() < grace {
                    return;
                }
            }
        };
        let stopped = tokio::select! {
            stopped = stop::pod(&shared, &desired.pod, &seen, grace) => stopped,
            () = shorter => return State::Terminating,
        };
        if let Err(e) = stopped {
            tracing::warn!(pod = %self.id.name, error = %e, "a pod does not stop");
            let message = format!("error killing pod: {e}");
            self.shared.recorder.warning(client::events::reference(&*desired.pod), "FailedKillPod", message);
            let at = self.backoff();
            self.wait(Some(at)).await;
            return State::Terminating;
        }
        self.probes.set(Vec::new(), &self.shared.cancel);
        match self.look().await {
            Ok(()) if self.seen.running().next().is_none() => State::Cleaning,
            _ => {
                let at = self.backoff();
                self.wait(Some(at)).await;
                State::Terminating
            }
        }
    }

    pub(super) async fn clean(&mut self) -> State {
        let desired = self.now_desired();
        self.plan = Plan::default();
        self.trouble.clear();
        self.report(&desired);
        if let Err(e) = self.shared.volumes.tear_down(&self.id.uid) {
            tracing::warn!(pod = %self.id.name, error = %e, "a pod's volumes are still in use");
            let at = self.backoff();
            self.wait(Some(at)).await;
            return State::Cleaning;
        }
        self.shared.cgroups.remove_pod(&self.id.uid).await;
        self.shared.objects.release(&self.id.uid);
        self.shared.images.forget(&self.id.uid);
        let deleting = desired.object.as_ref().is_some_and(|o| o.metadata.deletion_timestamp.is_some());
        self.shared.statuses.finish(&self.id.uid, deleting);
        State::Resting
    }

    pub(super) async fn rest(&mut self) -> State {
        let desired = self.now_desired();
        self.desired.mark_unchanged();
        if !desired.removed {
            if let Some(o) = &desired.object
                && o.metadata.deletion_timestamp.is_some()
            {
                self.report(&desired);
                self.shared.statuses.finish(&self.id.uid, true);
            }
            self.wait(None).await;
            return State::Resting;
        }
        for s in self.seen.sandboxes.clone() {
            if let Err(e) = self.shared.runtime.remove_sandbox(&s.id).await {
                tracing::warn!(sandbox = %s.id, error = %e, "a sandbox is not removed");
                let at = self.backoff();
                self.wait(Some(at)).await;
                return State::Resting;
            }
        }
        let _ = std::fs::remove_dir_all(self.logs());
        self.shared.owners.forget(&self.id.uid);
        self.shared.statuses.forget(&self.id.uid);
        State::End
    }
}
