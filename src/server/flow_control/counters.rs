//! What flow control counts: `apiserver_flowcontrol_*`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use client::histogram::Histogram;

use super::seats::{Limits, Refusal};
use crate::metrics::head;

const WAIT: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const EXECUTION: &[f64] =
    &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

struct Flow {
    dispatched: u64,
    refused: BTreeMap<Refusal, u64>,
    queued: i64,
    executing: i64,
    seats: i64,
    wait: Histogram,
    execution: Histogram,
}

impl Default for Flow {
    fn default() -> Flow {
        let (wait, execution) = (Histogram::new(WAIT), Histogram::new(EXECUTION));
        Flow { dispatched: 0, refused: BTreeMap::new(), queued: 0, executing: 0, seats: 0, wait, execution }
    }
}

/// By level and schema.
#[derive(Default)]
pub(super) struct Counters(BTreeMap<(Arc<str>, Arc<str>), Flow>);

impl Counters {
    fn of(&mut self, schema: &Arc<str>, level: &Arc<str>) -> &mut Flow {
        self.0.entry((level.clone(), schema.clone())).or_default()
    }

    pub(super) fn arrived(&mut self, schema: &Arc<str>, level: &Arc<str>, why: Option<Refusal>, waited: Duration) {
        let flow = self.of(schema, level);
        match why {
            None => {
                flow.dispatched += 1;
                flow.wait.observe(waited.as_secs_f64());
            }
            Some(why) => *flow.refused.entry(why).or_default() += 1,
        }
    }

    pub(super) fn queued(&mut self, schema: &Arc<str>, level: &Arc<str>, more: i64) {
        self.of(schema, level).queued += more;
    }

    pub(super) fn executing(&mut self, schema: &Arc<str>, level: &Arc<str>, more: i64, seats: i64) {
        let flow = self.of(schema, level);
        flow.executing += more;
        flow.seats += seats;
    }

    pub(super) fn executed(&mut self, schema: &Arc<str>, level: &Arc<str>, time: Duration) {
        self.of(schema, level).execution.observe(time.as_secs_f64());
    }

    pub(super) fn write<'a>(&self, out: &mut String, levels: impl Iterator<Item = (&'a Arc<str>, &'a Limits)>) {
        self.write_levels(out, levels);
        let labels =
            |(level, schema): &(Arc<str>, Arc<str>)| format!("flow_schema=\"{schema}\",priority_level=\"{level}\"");
        let mut gauges = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Flow) -> i64| {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, kind, help);
            for (key, flow) in &self.0 {
                let _ = writeln!(out, "{name}{{{}}} {}", labels(key), value(flow));
            }
        };
        const DISPATCHED: &str = "Number of requests executed by API Priority and Fairness subsystem";
        gauges("dispatched_requests_total", "counter", DISPATCHED, &|f| f.dispatched as i64);
        const QUEUED: &str =
            "Number of requests currently pending in queues of the API Priority and Fairness subsystem";
        gauges("current_inqueue_requests", "gauge", QUEUED, &|f| f.queued);
        const EXECUTING: &str = "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem";
        gauges("current_executing_requests", "gauge", EXECUTING, &|f| f.executing);
        const SEATS: &str = "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem";
        gauges("current_executing_seats", "gauge", SEATS, &|f| f.seats);
        const REJECTED: &str = "apiserver_flowcontrol_rejected_requests_total";
        head(out, REJECTED, "counter", "Number of requests rejected by API Priority and Fairness subsystem");
        for (key, flow) in &self.0 {
            for (why, count) in &flow.refused {
                let _ = writeln!(out, "{REJECTED}{{{},reason={:?}}} {count}", labels(key), why.reason());
            }
        }
        const WAITED: &str = "apiserver_flowcontrol_request_wait_duration_seconds";
        head(out, WAITED, "histogram", "Length of time a request spent waiting in its queue");
        for (key, flow) in &self.0 {
            flow.wait.write(out, WAITED, &format!("execute=\"true\",{}", labels(key)));
        }
        const EXECUTED: &str = "apiserver_flowcontrol_request_execution_seconds";
        const HELP: &str = "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem";
        head(out, EXECUTED, "histogram", HELP);
        for (key, flow) in &self.0 {
            flow.execution.write(out, EXECUTED, &format!("{},type=\"regular\"", labels(key)));
        }
    }

    fn write_levels<'a>(&self, out: &mut String, levels: impl Iterator<Item = (&'a Arc<str>, &'a Limits)>) {
        let mut levels: Vec<_> = levels.collect();
        levels.sort_by_key(|(n, _)| (*n).clone());
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(u64, u64, u64) -> u64| {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "gauge", help);
            for (level, limits) in &levels {
                let value = match limits {
                    Limits::Exempt => 0,
                    Limits::Limited { nominal, least, most, .. } => value(*nominal, *least, *most),
                };
                let _ = writeln!(out, "{name}{{priority_level=\"{level}\"}} {value}");
            }
        };
        const NOMINAL: &str = "Nominal number of execution seats configured for each priority level";
        gauge("nominal_limit_seats", NOMINAL, &|nominal, _, _| nominal);
        const LOWER: &str = "Configured lower bound on number of execution seats available to each priority level";
        gauge("lower_limit_seats", LOWER, &|_, least, _| least);
        const UPPER: &str = "Configured upper bound on number of execution seats available to each priority level";
        gauge("upper_limit_seats", UPPER, &|_, _, most| most);
        const CURRENT: &str = "current derived number of execution seats available to each priority level";
        gauge("current_limit_seats", CURRENT, &|nominal, _, _| nominal);
    }
}
