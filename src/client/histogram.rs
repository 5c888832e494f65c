//! A histogram as Prometheus knows it.

use std::fmt::Write;

/// Counts of values by upper bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what lies above all.
    counts: Box<[u64]>,
    sum: f64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0.0 }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|b| *b < value)] += 1;
        self.sum += value;
    }

    /// Writes its lines; `labels` is what stands between the braces, such as `verb="GET"`.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(self.bounds) {
            total += count;
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {total}", text(*bound));
        }
        total += self.counts[self.bounds.len()];
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum);
        let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
    }
}

/// A bound as upstream writes it: small ones with an exponent of two digits.
fn text(bound: f64) -> String {
    match format!("{bound:e}").split_once("e-") {
        Some((digits, exponent)) if bound < 1e-4 => format!("{digits}e-{exponent:0>2}"),
        _ => bound.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_at_most_their_bound() {
        let mut h = Histogram::new(&[0.5, 1.0]);
        [0.5, 0.7, 3.0].into_iter().for_each(|v| h.observe(v));
        let mut out = String::new();
        h.write(&mut out, "a", "b=\"c\"");
        assert_eq!(
            out,
            "a_bucket{b=\"c\",le=\"0.5\"} 1\na_bucket{b=\"c\",le=\"1\"} 2\na_bucket{b=\"c\",le=\"+Inf\"} 3\n\
             a_sum{b=\"c\"} 4.2\na_count{b=\"c\"} 3\n"
        );
    }
}
