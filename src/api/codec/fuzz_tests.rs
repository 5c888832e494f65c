//! Bodies that nobody should send.

use fuzzing::Decoder;
use fuzzing::decoder::scales;
use fuzzing::inputs::nested;

use super::*;
use crate::schema::Schemas;
use crate::testing::{golden_json, golden_of_resources};

fn type_of(kind: &str) -> TypeRef {
    Schemas::builtin().type_of("", "v1", kind).unwrap()
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\"a\"",
    "\"metadata\":",
    "\"spec\":",
    "null",
    "true",
    "-",
    "1",
    "1e999",
    "-0",
    "0.1",
    "\\u0000",
    "\\ud800",
    "18446744073709551616",
    " ",
    "\n",
    "NaN",
    "\u{feff}",
];

const YAML: &[&str] = &[
    "a: ",
    "- ",
    "\n",
    "  ",
    "\t",
    "&a ",
    "*a",
    "<<: *a",
    "<<: [*a, *a]",
    "{",
    "}",
    "[",
    "]",
    ",",
    "? ",
    "| ",
    ">-",
    "!!binary ",
    "!!int ",
    "!!set ",
    "!a ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "%TAG ! a\n",
    "#",
    "\"",
    "'",
    "\\x",
    "0o7",
    "0x",
    ".inf",
    "~",
    "yes",
    "1_000",
    "12:30:45",
    "2001-01-01",
    "\u{85}",
    "\u{feff}",
    "@",
    "`",
    "- - - ",
];

#[test]
fn json_is_read_or_refused() {
    let pod = type_of("Pod");
    Decoder::of(golden_json()).words(JSON).run(|body| {
        let _ = decode(body, false, &pod);
        parse_tree(body, false)
    });
}

#[test]
fn yaml_is_read_or_refused() {
    let map = type_of("ConfigMap");
    Decoder::of(fuzzing::golden::yaml()).words(YAML).run(|body| {
        let _ = decode_applied(body, &map, true);
        if let Ok(text) = std::str::from_utf8(body) {
            let _ = parse_documents(text);
        }
    });
}

#[test]
fn trees_of_wrong_types_are_refused() {
    let all = golden_of_resources();
    let types: Vec<TypeRef> = all.iter().map(|(r, _)| r.schema.clone()).collect();
    let trees = all.into_iter().map(|(_, v)| v).collect();
    let at = 0..types.len();
    fuzzing::decoder::check(256, (fuzzing::inputs::altered(trees), at), |(tree, which)| {
        if let Ok(once) = check(tree, &types[which]) {
            let twice = check(once.value.clone(), &types[which]).unwrap();
            assert_eq!((twice.value, twice.unknown), (once.value, Vec::new()), "what was checked stays as it is");
        }
    });
}

#[test]
fn nesting_ends_in_an_error_not_the_stack() {
    let anything = TypeRef::any_object();
    for (open, inner, close) in
        [("{\"a\":", "1", "}"), ("[", "1", "]"), ("[{\"a\":", "1", "}]"), ("[", "", ""), ("{\"a\":", "", "")]
    {
        for depth in [NESTING_MAX + 1, 1_000, 100_000] {
            for yaml in [false, true] {
                let body = nested(open, inner, close, depth);
                assert!(decode(body.as_bytes(), yaml, &anything).is_err(), "{depth} of {open}");
            }
        }
    }
    for block in ["- ", "? "] {
        assert!(parse_tree(block.repeat(100_000).as_bytes(), true).is_err());
    }
    let indented: String = (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(parse_tree(indented.as_bytes(), true).is_err());
}

#[test]
fn what_nests_as_deep_as_is_allowed_is_read_in_every_encoding() {
    let body = nested("{\"a\":", "1", "}", NESTING_MAX);
    let tree = parse_tree(body.as_bytes(), false).unwrap();
    assert_eq!(parse_tree(body.as_bytes(), true).unwrap(), tree);
    assert_eq!(check(tree.clone(), &TypeRef::any_object()).unwrap().value, tree);
}

#[test]
fn aliases_do_not_multiply() {
    let laughs: String =
        (1..30).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))).collect();
    let body = format!("a0: &a0 [{}]\n{laughs}", ["lol"; 9].join(","));
    let decoder = Decoder::default();
    decoder.once(body.as_bytes(), |body| assert!(parse_tree(body, true).is_err()));
    let quadratic = format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 20_000].join(","), vec!["*a"; 20_000].join(","));
    decoder.once(quadratic.as_bytes(), |body| assert!(parse_tree(body, true).is_err()));
    let merged: String = (1..30)
        .map(|i| format!("a{i}: &a{i}\n  <<: [{}]\n  k{i}: v\n", vec![format!("*a{}", i - 1); 9].join(",")))
        .collect();
    decoder.once(format!("a0: &a0 {{k: v}}\n{merged}").as_bytes(), |body| parse_tree(body, true));
    let itself = "a: &a [*a]\n";
    assert!(parse_tree(itself.as_bytes(), true).is_err());
    let few = "a: &a {x: 1}\nb: *a\nc: [*a, *a]\n";
    assert_eq!(parse_tree(few.as_bytes(), true).unwrap()["c"][1]["x"], 1);
}

#[test]
fn the_time_goes_with_the_size() {
    let read = |yaml: bool| move |body: String| drop(decode(body.as_bytes(), yaml, &type_of("Pod")));
    let fields = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
    scales("unknown fields in JSON", 5_000, fields, read(false));
    scales("unknown fields in YAML", 1_000, fields, read(true));
    let twice = |n: usize| format!("{{{}}}", vec!["\"k\":1"; n].join(","));
    scales("one key many times", 5_000, twice, read(false));
    scales("one key many times in YAML", 1_000, twice, read(true));
    scales("a list", 5_000, |n| format!("[{}]", vec!["1"; n].join(",")), read(false));
    scales("a text", 50_000, |n| format!("{{\"a\":\"{}\"}}", "\\n".repeat(n)), read(false));
    scales("a text in YAML", 20_000, |n| format!("a: \"{}\"", "\\n".repeat(n)), read(true));
    scales("a folded text", 5_000, |n| format!("a: >\n{}", "  x\n\n".repeat(n)), read(true));
    scales("comments", 20_000, |n| "#\n".repeat(n), read(true));
    scales("documents", 1_000, |n| "---\na: 1\n".repeat(n), |text| drop(parse_documents(&text)));
}
