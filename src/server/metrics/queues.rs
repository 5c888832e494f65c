//! The queues of the controllers: `workqueue_*`
//! (upstream: `component-base/metrics/prometheus/workqueue`).

use std::fmt::Write;

use client::workqueue::{Numbers, Queues};

use super::head;

/// Writes the numbers of all queues.
pub(super) fn write(out: &mut String, queues: &Queues) {
    let all = queues.numbers();
    let mut series = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Numbers) -> f64| {
        let name = format!("workqueue_{name}");
        head(out, &name, kind, help);
        for (queue, numbers) in &all {
            let _ = writeln!(out, "{name}{{name={queue:?}}} {}", value(numbers));
        }
    };
    series("adds_total", "counter", "Total number of adds handled by workqueue", &|n| n.adds as f64);
    series("depth", "gauge", "Current depth of workqueue", &|n| n.depth as f64);
    const LONGEST: &str = "How many seconds has the longest running processor for workqueue been running.";
    series("longest_running_processor_seconds", "gauge", LONGEST, &|n| n.longest.as_secs_f64());
    series("retries_total", "counter", "Total number of retries handled by workqueue", &|n| n.retries as f64);
    const UNFINISHED: &str = "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.";
    series("unfinished_work_seconds", "gauge", UNFINISHED, &|n| n.unfinished.as_secs_f64());
    const WAITED: &str = "workqueue_queue_duration_seconds";
    head(out, WAITED, "histogram", "How long in seconds an item stays in workqueue before being requested.");
    for (queue, n) in &all {
        n.waited.write(out, WAITED, &format!("name={queue:?}"));
    }
    const WORKED: &str = "workqueue_work_duration_seconds";
    head(out, WORKED, "histogram", "How long in seconds processing an item from workqueue takes.");
    for (queue, n) in &all {
        n.worked.write(out, WORKED, &format!("name={queue:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use client::WorkQueue;

    use super::*;

    #[test]
    fn each_queue_is_a_series_of_upstreams_metrics() {
        let (queues, queue) = (Queues::default(), Arc::new(WorkQueue::default()));
        queues.add("deployment", &queue);
        queue.add("default/web".to_owned());
        let mut out = String::new();
        write(&mut out, &queues);
        for line in [
            "# TYPE workqueue_depth gauge\nworkqueue_depth{name=\"deployment\"} 1\n",
            "workqueue_adds_total{name=\"deployment\"} 1\n",
            "workqueue_retries_total{name=\"deployment\"} 0\n",
            "workqueue_unfinished_work_seconds{name=\"deployment\"} 0\n",
            "workqueue_longest_running_processor_seconds{name=\"deployment\"} 0\n",
            "workqueue_queue_duration_seconds_bucket{name=\"deployment\",le=\"1e-08\"} 0\n",
            "workqueue_work_duration_seconds_count{name=\"deployment\"} 0\n",
        ] {
            assert!(out.contains(line), "{line} is missing in {out}");
        }
    }
}
