//! Small texts in fields of objects: amounts, times, durations, names, paths.

use fuzzing::Decoder;
use fuzzing::decoder::scales;

use crate::quantity::{Format, Quantity};
use crate::{names, node_labels, time};

#[test]
fn quantities_are_read_or_refused() {
    let words = &[
        "0",
        "1",
        "9",
        ".",
        "-",
        "+",
        "e",
        "E",
        "Ki",
        "Ei",
        "m",
        "n",
        "u",
        "k",
        "99999999999999999999",
        "000",
        " ",
        "e2147483648",
        "é",
    ];
    Decoder::of(["100m", "1.5Gi", "1e3", "-0.1", "12E", "1E-9", "0.000000001"]).words(words).run_text(|text| {
        let q = Quantity::parse(text).ok()?;
        let again = Quantity::parse(&q.to_string()).unwrap();
        assert_eq!(again.nanos(), q.nanos(), "{text:?}");
        let _ = (q.value(), q.milli_value(), q.as_f64(), q.negated(), q.sign());
        let sum = [q + q, q - q, q + Quantity::from_int(i64::MAX, Format::BinarySI)];
        Some(sum.map(|s| s.to_string()))
    });
    scales("digits", 10_000, |n| "9".repeat(n), |t| drop(Quantity::parse(&t)));
    scales("a fraction", 10_000, |n| format!("0.{}1", "0".repeat(n)), |t| drop(Quantity::parse(&t)));
    Decoder::default().once(b"1e2147483647", |b| Quantity::parse(&String::from_utf8_lossy(b)).map(|q| q.to_string()));
    Decoder::default().once(b"1e-2147483648", |b| Quantity::parse(&String::from_utf8_lossy(b)).map(|q| q.to_string()));
}

#[test]
fn times_and_durations_are_read_or_refused() {
    let words = &[
        "1",
        "-",
        "+",
        ".",
        "h",
        "m",
        "s",
        "ms",
        "us",
        "µs",
        "ns",
        "T",
        "Z",
        ":",
        "2026",
        "9999",
        "00",
        "99999999999999999999",
        "é",
    ];
    Decoder::of(["1h30m", "1.5s", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456+02:00", "-1h"])
        .words(words)
        .run_text(|text| {
            time::go_duration(text);
            time::age(jiff::Timestamp::UNIX_EPOCH, text);
            let t = time::parse(text)?;
            let floor = |t: jiff::Timestamp| t.as_nanosecond().div_euclid(1_000_000_000);
            assert_eq!(time::parse(&time::rfc3339(t)).map(floor), Some(floor(t)), "{text:?}");
            Some(time::rfc3339_micro(t))
        });
    for seconds in [i64::MIN, i64::MAX, -1, 0] {
        time::human_duration(seconds);
    }
}

#[test]
fn names_are_judged_whatever_they_are() {
    let words = &[
        "a", "A", "-", ".", "/", "..", "*", "*.", "_", "%", "%2", ":", "::", "0", "1.2.3.4", "/8", "é", "日", "$", " ",
        "\0",
    ];
    Decoder::of(["my-name", "a.b.c", "example.com/name", "10.0.0.0/8", "::1", "/a/b", "web", "A_B"])
        .words(words)
        .run_text(|text| {
            names::dns1123_label_errors(text);
            names::dns1123_subdomain_errors(text);
            names::qualified_name_errors(text);
            names::label_value_errors(text);
            names::port_name_errors(text);
            names::mask_trailing_dash(text);
            names::generate(text);
            node_labels::is_allowed(text);
            let judges = [
                names::dns1035_label,
                names::wildcard_dns1123_subdomain,
                names::c_identifier,
                names::env_var_name,
                names::path_segment_name,
                names::config_map_key,
                names::ip,
                names::cidr,
                names::absolute_path,
                names::no_backsteps,
                names::local_descending_path,
            ];
            judges.map(|judge| judge(text))
        });
    scales("a name", 20_000, |n| "a.".repeat(n), |t| drop(names::dns1123_subdomain(&t)));
}
