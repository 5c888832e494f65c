//! The process, as Prometheus' clients show it, and the build.

use std::fmt::Write;

use super::head;

/// Kernel ticks of a second: what Linux shows to user space is always this.
const TICKS: f64 = 100.0;

/// Writes what can be read; a figure that cannot is left out.
pub(super) fn write(out: &mut String) {
    build(out);
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The name in parentheses may hold anything; fields are counted behind it, the third first.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .map(|f| f.parse().unwrap_or_default())
        .collect();
    let field = |n: usize| fields.get(n - 3).copied().unwrap_or_default();
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        head(out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    };
    const CPU: &str = "Total user and system CPU time spent in seconds.";
    gauge("process_cpu_seconds_total", "counter", CPU, (field(14) + field(15)) / TICKS);
    gauge("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    let page = 4096.0;
    gauge("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(24) * page);
    if let Some(boot) = boot_time() {
        const START: &str = "Start time of the process since unix epoch in seconds.";
        gauge("process_start_time_seconds", "gauge", START, boot + field(22) / TICKS);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "gauge", "Number of open file descriptors.", open.count() as f64);
    }
    if let Some(most) = most_files() {
        gauge("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    }
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

fn most_files() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn build(out: &mut String) {
    const BUILD: &str = "kubernetes_build_info";
    const HELP: &str = "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    head(out, BUILD, "gauge", HELP);
    let v = crate::paths::version();
    let labels: Vec<String> = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ]
    .iter()
    .map(|(label, field)| format!("{label}=\"{}\"", v[*field].as_str().unwrap_or_default()))
    .collect();
    let _ = writeln!(out, "{BUILD}{{{}}} 1", labels.join(","));
}
