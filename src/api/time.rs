//! Times as the API writes them, and ages as `kubectl get` shows them.

use jiff::Timestamp;

/// `metav1.Time`: RFC 3339 in UTC, seconds.
pub fn rfc3339(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`: RFC 3339 in UTC with six digits.
pub fn rfc3339_micro(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads what the two above wrote, and any other RFC 3339 time with an offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How long ago `ts` was, as the AGE column says it; `<unknown>` when it cannot be read,
/// `<invalid>` when it lies more than two seconds ahead.
pub fn age(now: Timestamp, ts: &str) -> String {
    match parse(ts) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Reads a duration as Go writes it, such as `1h30m` or `1.5s`, in seconds.
pub fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = (!rest.is_empty()).then_some(0.0)?;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Some(sign * total)
}

/// Upstream's `duration.HumanDuration`, of whole seconds: at most three significant figures.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    if seconds < 60 * 2 {
        return format!("{seconds}s");
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        return match seconds % 60 {
            0 => format!("{minutes}m"),
            s => format!("{minutes}m{s}s"),
        };
    }
    if minutes < 60 * 3 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        return match minutes % 60 {
            0 => format!("{hours}h"),
            m => format!("{hours}h{m}m"),
        };
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    if hours < 24 * 8 {
        return match hours % 24 {
            0 => format!("{}d", hours / 24),
            h => format!("{}d{h}h", hours / 24),
        };
    }
    if hours < 24 * 365 * 2 {
        return format!("{}d", hours / 24);
    }
    let days = hours / 24;
    if hours < 24 * 365 * 8 {
        return match days % 365 {
            0 => format!("{}y", days / 365),
            d => format!("{}y{d}d", days / 365),
        };
    }
    format!("{}y", days / 365)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_upstreams_forms() {
        let t: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        assert_eq!(rfc3339(t), "2026-01-02T03:04:05Z");
        assert_eq!(rfc3339_micro(t), "2026-01-02T03:04:05.678901Z");
        assert_eq!(parse("2026-01-02T05:04:05+02:00"), parse("2026-01-02T03:04:05Z"));
    }

    #[test]
    fn durations_of_go_are_read() {
        for (text, seconds) in [("0s", 0.0), ("0", 0.0), ("1h1m", 3660.0), ("1.5s", 1.5), ("-2ms", -0.002)] {
            assert_eq!(go_duration(text), Some(seconds), "{text}");
        }
        for text in ["", "invalid", "5", "1x", "s", "1..2s"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_as_upstreams_table() {
        const H: i64 = 3600;
        const D: i64 = 24 * H;
        for (seconds, text) in [
            (-3, "<invalid>"),
            (-1, "0s"),
            (1, "1s"),
            (70, "70s"),
            (119, "119s"),
            (190, "3m10s"),
            (120, "2m"),
            (70 * 60, "70m"),
            (47 * H, "47h"),
            (49 * H, "2d1h"),
            (5 * H, "5h"),
            (5 * H + 60, "5h1m"),
            (8 * D + 2 * H, "8d"),
            (367 * D, "367d"),
            (365 * 2 * D + 25 * H, "2y1d"),
            (365 * 8 * D + 2 * H, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn an_age_needs_a_time() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(age(now, ""), "<unknown>");
        assert_eq!(age(now, "2026-01-02T03:03:55Z"), "10s");
    }
}
