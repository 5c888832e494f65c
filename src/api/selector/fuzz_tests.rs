//! Selectors that nobody should send.

use std::collections::BTreeMap;

use fuzzing::Decoder;
use fuzzing::decoder::{check, scales};
use fuzzing::inputs::altered;
use serde_json::json;

use super::{FieldSelector, LabelSelector};

const WORDS: &[&str] = &[
    "a",
    "a/b",
    "a.b/c",
    "=",
    "==",
    "!=",
    "!",
    "in",
    "notin",
    " in ",
    " notin ",
    "(",
    ")",
    ",",
    ">",
    "<",
    "1",
    "-1",
    "é",
    " ",
    "\t",
    "\\",
    "\\,",
    "\\=",
    "metadata.name",
    "spec.nodeName",
    "9223372036854775808",
];

#[test]
fn label_selectors_are_read_or_refused() {
    let examples = ["a=b,c!=d", "a in (b,c),!d", "x notin (y)", "a>1,b<2", "app.kubernetes.io/name==x"];
    let labels: BTreeMap<String, String> =
        [("a", "b"), ("c", ""), ("x", "1")].map(|(k, v)| (k.into(), v.into())).into();
    Decoder::of(examples).words(WORDS).run_text(|text| {
        let selector = LabelSelector::parse(text).ok()?;
        let again = LabelSelector::parse(&selector.to_string()).unwrap();
        assert_eq!(again.matches(&labels), selector.matches(&labels), "{text:?}");
        Some(selector)
    });
}

#[test]
fn field_selectors_are_read_or_refused() {
    let examples = ["metadata.name=a", "spec.nodeName!=b,status.phase==Running", "a=b\\,c\\=d\\\\"];
    Decoder::of(examples).words(WORDS).run_text(|text| {
        let selector = FieldSelector::parse(text).ok()?;
        selector.matches(|_| Some("a".into()));
        Some(selector)
    });
}

#[test]
fn selectors_of_objects_are_read_or_refused() {
    let example =
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
    check(256, altered(vec![example]), |v| drop(LabelSelector::from_value(&v)));
}

#[test]
fn the_time_goes_with_the_size() {
    let labels = |text: String| drop(LabelSelector::parse(&text));
    let fields = |text: String| drop(FieldSelector::parse(&text));
    scales("requirements", 2_000, |n| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(","), labels);
    scales(
        "values",
        2_000,
        |n| format!("a in ({})", (0..n).map(|i| format!("v{i}")).collect::<Vec<_>>().join(",")),
        labels,
    );
    scales("one value again", 2_000, |n| format!("a in ({})", vec!["v"; n].join(",")), labels);
    scales("parentheses", 5_000, |n| "(".repeat(n), labels);
    scales("commas", 5_000, |n| format!("a in ({})", ",".repeat(n)), labels);
    scales("fields", 2_000, |n| vec!["metadata.name=a"; n].join(","), fields);
    scales("escapes", 5_000, |n| format!("a={}", "\\\\".repeat(n)), fields);
}
