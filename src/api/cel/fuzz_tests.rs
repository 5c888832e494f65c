//! Expressions that nobody should write.

use fuzzing::Decoder;
use fuzzing::inputs::nested;
use serde_json::json;

use super::*;

const WORDS: &[&str] = &[
    "object",
    "oldObject",
    "request",
    ".",
    "a",
    "spec",
    "l",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "!",
    " in ",
    "1",
    "0",
    "-9223372036854775808",
    "9223372036854775807",
    "1u",
    "1.5",
    "1e400",
    "'x'",
    "\"\"",
    "b'\\xff'",
    "r'a'",
    "true",
    "null",
    "has(",
    ".all(x, ",
    ".exists(x, ",
    ".map(x, ",
    ".filter(x, ",
    ".size()",
    ".matches('",
    "x",
    ".startsWith(",
    "int(",
    "string(",
    "duration('1h')",
    "timestamp('2026-01-01T00:00:00Z')",
    ".?",
    "[?",
    ".orValue(",
    ".substring(",
    ".replace(",
    ".split(",
    ".format(",
    ".lowerAscii()",
    "quantity('1')",
    "url('http://a')",
    "ip('::1')",
    "cidr('::/0')",
    "math.greatest(",
    "sets.contains(",
    "lists.range(",
    ".flatten(",
    ".repeat(",
    "cel.bind(x, ",
    "optional.of(",
    "type(",
    "dyn(",
    "[1,2,3]",
    "{'a':1}",
];

fn environment() -> Environment {
    let mut e = Environment::default();
    e.bind("object", &json!({"a": 1, "l": [1, 2, "x"], "spec": {"a": "é日本", "m": {"k": "v"}, "big": i64::MAX}}));
    e.bind("oldObject", &Json::Null);
    e.bind("request", &json!({"name": "a"}));
    e
}

#[test]
fn expressions_are_evaluated_or_refused() {
    let examples = [
        "object.spec.a == 'x' && object.l.all(x, x > 0)",
        "object.l.map(x, x + 1).filter(x, x > 1).size() == 2",
        "has(object.spec.m) ? object.spec.m.k.matches('^v.*$') : false",
        "object.?status.?phase.orValue('none') == 'none'",
        "quantity('1Gi').isGreaterThan(quantity('1Mi')) && duration('1h') > duration('1m')",
        "'a,b'.split(',').join('-').replace('-', '+').substring(0, 2).upperAscii() == 'A+'",
        "object.spec.big + 1 > 0 || object.l[5] == 1 || 1 / 0 == 1 || 1 % 0 == 1 || -object.spec.big - 2 < 0",
        "timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
        "isIP('::1') && ip('::1').family() == 6 && cidr('10.0.0.0/8').containsIP('10.1.1.1')",
        "'%s %d %f'.format(['a', 1, 1.5]) == ''",
    ];
    // Without optimization, a level of the interpreter takes ten times the stack.
    let roomy = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
        Decoder::of(examples).words(WORDS).cases(128).memory(64 << 20, 4_000).run_text(|text| {
            let e = Expression::compile(text, &[]).ok()?;
            let environment = environment();
            let _ = (e.holds(&environment), e.string(&environment));
            e.json(&environment).ok()
        });
    });
    roomy.unwrap().join().unwrap();
}

#[test]
fn nesting_ends_in_an_error_not_the_stack() {
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{'a':", "1", "}"),
        ("!", "true", ""),
        ("-", "1", ""),
        ("object.l.all(x, ", "true", ")"),
        ("has(", "object.a", ")"),
        ("true ? true : ", "false", ""),
        ("1 + ", "1", ""),
        ("object", ".a", ""),
        ("", "object", ".a"),
        ("", "object.l", "[0]"),
        ("", "object.l", ".map(x, x)"),
        ("true || ", "true", ""),
        ("\"", "", ""),
        ("size(", "''", ")"),
        ("int(", "1", ")"),
    ] {
        for depth in [100, 1_000, 20_000] {
            let text = nested(open, inner, close, depth);
            // Without optimization, a level of the interpreter takes ten times the stack.
            let evaluate = move || Expression::compile(&text, &[]).and_then(|e| e.json(&environment())).is_ok();
            let thread = std::thread::Builder::new().stack_size(32 << 20);
            thread.spawn(evaluate).unwrap().join().unwrap();
        }
    }
}

#[test]
fn what_grows_is_held() {
    let decoder = Decoder::default().memory(100 << 20, 1_000);
    let doubled = format!(
        "cel.bind(a0, 'xxxxxxxx', {})",
        (1..40).fold("a39.size() > 0".to_owned(), |inner, i| {
            let i = 40 - i;
            format!("cel.bind(a{i}, a{0} + a{0}, {inner})", i - 1)
        })
    );
    for text in [
        doubled.as_str(),
        "lists.range(1000000000).size() > 0",
        "[0,1,2,3,4,5,6,7,8,9].map(a, [0,1,2,3,4,5,6,7,8,9].map(b, [0,1,2,3,4,5,6,7,8,9].map(c, [0,1,2,3,4,5,6,7,8,9].map(d, [0,1,2,3,4,5,6,7,8,9].map(e, [0,1,2,3,4,5,6,7,8,9].map(f, [0,1,2,3,4,5,6,7,8,9].map(g, 'xxxxxxxxxxxxxxxxxxx'))))))).size() > 0",
        "'x'.matches('((((a{100}){100}){100}){100}){100}')",
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!'.matches('^(a+)+$')",
        "'%1000000000d'.format([1]) == ''",
        "'%.1000000000f'.format([1.0]) == ''",
        "'a'.repeat(1000000000) == ''",
    ] {
        decoder.once(text.as_bytes(), |_| Expression::compile(text, &[]).and_then(|e| e.holds(&environment())));
    }
}
