//! What the server counts, in the text format of Prometheus, by upstream's names.

pub mod histogram;

/// Writes the two lines that stand before the samples of a metric.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}
