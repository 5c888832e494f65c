//! What is counted of the audit log, by upstream's names.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::policy::Level;
use crate::metrics::head;

/// What lost events.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The file.
    Log,
    /// The service.
    Webhook,
    /// The queue before it.
    Queue,
    /// Their size.
    Truncate,
}

/// Upstream's plugins, in the order of [`Fault`].
const PLUGINS: [&str; 4] = ["log", "webhook", "buffered", "truncate"];
const LEVELS: [Level; 4] = [Level::Metadata, Level::None, Level::Request, Level::RequestResponse];

/// See the module.
#[derive(Default)]
pub(super) struct Counts {
    events: AtomicU64,
    levels: [AtomicU64; 4],
    errors: [AtomicU64; 4],
    rejected: AtomicU64,
}

impl Counts {
    /// An event was made.
    pub(super) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// The policy was asked about a request.
    pub(super) fn level(&self, level: Level) {
        self.levels[level as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Events were lost.
    pub(super) fn failed(&self, fault: Fault, events: usize) {
        self.errors[fault as usize].fetch_add(events as u64, Ordering::Relaxed);
    }

    /// A request was not served, as its event was not taken.
    pub(super) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes all in the text exposition format.
    pub(super) fn write(&self, out: &mut String) {
        let value = |n: &AtomicU64| n.load(Ordering::Relaxed);
        const EVENTS: &str = "apiserver_audit_event_total";
        head(out, EVENTS, "counter", "Counter of audit events generated and sent to the audit backend.");
        let _ = writeln!(out, "{EVENTS} {}", value(&self.events));
        const ERRORS: &str = "apiserver_audit_error_total";
        head(out, ERRORS, "counter", "Counter of audit events that failed to be audited properly, by plugin.");
        for (plugin, n) in PLUGINS.iter().zip(&self.errors).filter(|(_, n)| value(n) > 0) {
            let _ = writeln!(out, "{ERRORS}{{plugin={plugin:?}}} {}", value(n));
        }
        const POLICY: &str = "apiserver_audit_level_total";
        head(out, POLICY, "counter", "Counter of policy levels for audit events (1 per request).");
        for level in LEVELS {
            let _ = writeln!(out, "{POLICY}{{level=\"{level:?}\"}} {}", value(&self.levels[level as usize]));
        }
        const REJECTED: &str = "apiserver_audit_requests_rejected_total";
        head(out, REJECTED, "counter", "Counter of requests rejected due to an error in audit logging backend.");
        let _ = writeln!(out, "{REJECTED} {}", value(&self.rejected));
    }
}
