//! What flow control counts: `apiserver_flowcontrol_*`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use client::histogram::Histogram;

use super::seats::{Demand, Refusal, Standing};
use crate::metrics::head;

const WAIT: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const WATCHERS: &[f64] = &[0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];
const WIDTHS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];

struct Flow {
    dispatched: u64,
    refused: BTreeMap<Refusal, u64>,
    queued: i64,
    queued_seats: i64,
    executing: i64,
    seats: i64,
    wait: Histogram,
    /// Of watches, their beginning, and of all else.
    execution: [Histogram; 2],
    lengths: Histogram,
    watchers: Histogram,
    widths: Histogram,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            dispatched: 0,
            refused: BTreeMap::new(),
            queued: 0,
            queued_seats: 0,
            executing: 0,
            seats: 0,
            wait: Histogram::new(WAIT),
            execution: [(); 2].map(|()| Histogram::new(WAIT)),
            lengths: Histogram::new(LENGTHS),
            watchers: Histogram::new(WATCHERS),
            widths: Histogram::new(WIDTHS),
        }
    }
}

/// By level and schema.
#[derive(Default)]
pub(super) struct Counters(BTreeMap<(Arc<str>, Arc<str>), Flow>);

impl Counters {
    fn of(&mut self, schema: &Arc<str>, level: &Arc<str>) -> &mut Flow {
        self.0.entry((level.clone(), schema.clone())).or_default()
    }

    pub(super) fn arrived(&mut self, demand: &Demand<'_>, why: Option<Refusal>, waited: Duration) {
        let flow = self.of(demand.schema, demand.level);
        flow.widths.observe(demand.width.most() as f64);
        if let Some(watchers) = demand.watchers {
            flow.watchers.observe(watchers as f64);
        }
        match why {
            None => {
                flow.dispatched += 1;
                flow.wait.observe(waited.as_secs_f64());
            }
            Some(why) => *flow.refused.entry(why).or_default() += 1,
        }
    }

    pub(super) fn queued(&mut self, schema: &Arc<str>, level: &Arc<str>, more: i64, seats: i64) {
        let flow = self.of(schema, level);
        flow.queued += more;
        flow.queued_seats += seats;
    }

    /// A queue is so long with the request that joined it.
    pub(super) fn joined(&mut self, schema: &Arc<str>, level: &Arc<str>, length: usize) {
        self.of(schema, level).lengths.observe(length as f64);
    }

    pub(super) fn executing(&mut self, schema: &Arc<str>, level: &Arc<str>, more: i64, seats: i64) {
        let flow = self.of(schema, level);
        flow.executing += more;
        flow.seats += seats;
    }

    pub(super) fn executed(&mut self, schema: &Arc<str>, level: &Arc<str>, is_watch: bool, time: Duration) {
        self.of(schema, level).execution[usize::from(!is_watch)].observe(time.as_secs_f64());
    }

    pub(super) fn write(&self, out: &mut String, levels: &[(Arc<str>, Standing)], fair: f64) {
        write_levels(out, levels);
        const FAIR: &str = "apiserver_flowcontrol_seat_fair_frac";
        const FAIR_HELP: &str =
            "Fair fraction of server's concurrency to allocate to each priority level that can use it";
        head(out, FAIR, "gauge", FAIR_HELP);
        let _ = writeln!(out, "{FAIR} {fair}");
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
        const QUEUED_SEATS: &str =
            "Number of seats currently pending in queues of the API Priority and Fairness subsystem";
        gauges("current_inqueue_seats", "gauge", QUEUED_SEATS, &|f| f.queued_seats);
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
            for (histogram, of) in flow.execution.iter().zip(["watch", "regular"]) {
                histogram.write(out, EXECUTED, &format!("{},type=\"{of}\"", labels(key)));
            }
        }
        const LENGTH: &str =
            "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued";
        const WATCHED: &str = "count of watchers for mutating requests in API Priority and Fairness";
        const WIDE: &str = "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness";
        type Of = fn(&Flow) -> &Histogram;
        let samples: [(&str, &str, Of); 3] = [
            ("request_queue_length_after_enqueue", LENGTH, |f| &f.lengths),
            ("watch_count_samples", WATCHED, |f| &f.watchers),
            ("work_estimated_seats", WIDE, |f| &f.widths),
        ];
        for (name, help, histogram) in samples {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "histogram", help);
            for (key, flow) in &self.0 {
                histogram(flow).write(out, &name, &labels(key));
            }
        }
    }
}

fn write_levels(out: &mut String, levels: &[(Arc<str>, Standing)]) {
    type Value = fn(&Standing) -> f64;
    let gauges: [(&str, &str, Value); 9] = [
        ("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", |s| {
            s.limits.nominal as f64
        }),
        (
            "lower_limit_seats",
            "Configured lower bound on number of execution seats available to each priority level",
            |s| s.limits.least as f64,
        ),
        (
            "upper_limit_seats",
            "Configured upper bound on number of execution seats available to each priority level",
            |s| s.limits.most as f64,
        ),
        ("current_limit_seats", "current derived number of execution seats available to each priority level", |s| {
            s.current as f64
        }),
        ("demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats", |s| {
            s.demand.high as f64
        }),
        ("demand_seats_average", "Time-weighted average, over last adjustment period, of demand_seats", |s| {
            s.demand.average
        }),
        ("demand_seats_stdev", "Time-weighted standard deviation, over last adjustment period, of demand_seats", |s| {
            s.demand.deviation
        }),
        ("demand_seats_smoothed", "Smoothed seat demands", |s| s.demand.smoothed),
        ("target_seats", "Seat allocation targets", |s| s.target),
    ];
    for (name, help, value) in gauges {
        let name = format!("apiserver_flowcontrol_{name}");
        head(out, &name, "gauge", help);
        for (level, standing) in levels {
            let _ = writeln!(out, "{name}{{priority_level=\"{level}\"}} {}", value(standing));
        }
    }
}
