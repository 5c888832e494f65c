//! How long admission takes, by plugin and by webhook, and what webhooks refuse
//! (upstream: `apiserver/pkg/admission/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use client::histogram::Histogram;

use super::{escaped, head};
use crate::admission::Operation;

const PLUGINS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOKS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

/// Which half of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Changes are made.
    Admit,
    /// Writes are judged.
    Validate,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Admit => "admit",
            Phase::Validate => "validate",
        }
    }
}

/// Phase, operation, whether it was refused.
type Step = (Phase, &'static str, bool);

/// See the module.
#[derive(Debug, Default)]
pub struct Times(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    steps: BTreeMap<Step, Histogram>,
    plugins: BTreeMap<(&'static str, Step), Histogram>,
    webhooks: BTreeMap<(String, Step), Histogram>,
    requests: BTreeMap<(String, Step, u16), u64>,
    rejections: BTreeMap<(String, Step, &'static str, u16), u64>,
    opened: BTreeMap<(String, Phase), u64>,
}

/// How a webhook answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It allowed the write.
    Allowed,
    /// It refused it, with a code.
    Refused(u16),
    /// It could not be asked, which refused the write.
    Failed,
    /// It could not be asked, which its failure policy ignores.
    Ignored,
}

fn labels((phase, operation, rejected): &Step) -> String {
    format!("operation=\"{operation}\",rejected=\"{rejected}\",type=\"{}\"", phase.name())
}

impl Times {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Counts what one plugin took.
    pub fn plugin(&self, name: &'static str, phase: Phase, operation: Operation, rejected: bool, took: Duration) {
        let step = (phase, operation.name(), rejected);
        let mut s = self.lock();
        let plugin = s.plugins.entry((name, step)).or_insert_with(|| Histogram::new(PLUGINS));
        plugin.observe(took.as_secs_f64());
    }

    /// Counts what all plugins took.
    pub fn step(&self, phase: Phase, operation: Operation, rejected: bool, took: Duration) {
        let step = (phase, operation.name(), rejected);
        self.lock().steps.entry(step).or_insert_with(|| Histogram::new(PLUGINS)).observe(took.as_secs_f64());
    }

    /// Counts a call of a webhook.
    pub fn webhook(&self, name: &str, phase: Phase, operation: Operation, answer: Answer, took: Duration) {
        let rejected = matches!(answer, Answer::Refused(_) | Answer::Failed);
        let step = (phase, operation.name(), rejected);
        let mut s = self.lock();
        let times = s.webhooks.entry((name.to_owned(), step)).or_insert_with(|| Histogram::new(WEBHOOKS));
        times.observe(took.as_secs_f64());
        let code = match answer {
            Answer::Allowed => 200,
            Answer::Refused(code) => code.min(600),
            Answer::Failed | Answer::Ignored => 0,
        };
        *s.requests.entry((name.to_owned(), step, code)).or_default() += 1;
        match answer {
            Answer::Allowed => {}
            Answer::Refused(_) => *s.rejections.entry((name.to_owned(), step, "no_error", code)).or_default() += 1,
            Answer::Failed => {
                *s.rejections.entry((name.to_owned(), step, "calling_webhook_error", 0)).or_default() += 1;
            }
            Answer::Ignored => *s.opened.entry((name.to_owned(), phase)).or_default() += 1,
        }
    }

    /// The metrics.
    pub fn write(&self, out: &mut String) {
        let s = self.lock();
        const STEP: &str = "apiserver_admission_step_admission_duration_seconds";
        head(
            out,
            STEP,
            "histogram",
            "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
        );
        for (step, times) in &s.steps {
            times.write(out, STEP, &labels(step));
        }
        const PLUGIN: &str = "apiserver_admission_controller_admission_duration_seconds";
        head(
            out,
            PLUGIN,
            "histogram",
            "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        for ((name, step), times) in &s.plugins {
            times.write(out, PLUGIN, &format!("name={name:?},{}", labels(step)));
        }
        const WEBHOOK: &str = "apiserver_admission_webhook_admission_duration_seconds";
        head(
            out,
            WEBHOOK,
            "histogram",
            "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        for ((name, step), times) in &s.webhooks {
            times.write(out, WEBHOOK, &format!("name=\"{}\",{}", escaped(name), labels(step)));
        }
        const CALLS: &str = "apiserver_admission_webhook_request_total";
        head(
            out,
            CALLS,
            "counter",
            "Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation.",
        );
        for ((name, step, code), count) in &s.requests {
            let _ = writeln!(out, "{CALLS}{{code=\"{code}\",name=\"{}\",{}}} {count}", escaped(name), labels(step));
        }
        const REFUSED: &str = "apiserver_admission_webhook_rejection_count";
        head(
            out,
            REFUSED,
            "counter",
            "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation.",
        );
        for ((name, (phase, operation, _), error, code), count) in &s.rejections {
            let (name, phase) = (escaped(name), phase.name());
            let _ = writeln!(
                out,
                "{REFUSED}{{error_type=\"{error}\",name=\"{name}\",operation=\"{operation}\",rejection_code=\"{code}\",type=\"{phase}\"}} {count}"
            );
        }
        const OPENED: &str = "apiserver_admission_webhook_fail_open_count";
        head(
            out,
            OPENED,
            "counter",
            "Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
        );
        for ((name, phase), count) in &s.opened {
            let _ = writeln!(out, "{OPENED}{{name=\"{}\",type=\"{}\"}} {count}", escaped(name), phase.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_webhooks_are_told_from_failures() {
        let times = Times::default();
        let took = Duration::from_millis(10);
        times.webhook("a.b", Phase::Validate, Operation::Create, Answer::Refused(403), took);
        times.webhook("a.b", Phase::Validate, Operation::Create, Answer::Failed, took);
        times.webhook("a.b", Phase::Admit, Operation::Update, Answer::Ignored, took);
        let mut out = String::new();
        times.write(&mut out);
        for line in [
            "apiserver_admission_webhook_rejection_count{error_type=\"no_error\",name=\"a.b\",operation=\"CREATE\",rejection_code=\"403\",type=\"validate\"} 1",
            "apiserver_admission_webhook_rejection_count{error_type=\"calling_webhook_error\",name=\"a.b\",operation=\"CREATE\",rejection_code=\"0\",type=\"validate\"} 1",
            "apiserver_admission_webhook_fail_open_count{name=\"a.b\",type=\"admit\"} 1",
            "apiserver_admission_webhook_admission_duration_seconds_count{name=\"a.b\",operation=\"UPDATE\",rejected=\"false\",type=\"admit\"} 1",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
    }
}
