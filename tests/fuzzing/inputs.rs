//! What decoders are fed.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

/// A change to bytes. Places are taken modulo what is there.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Drop(Index, usize),
    Repeat(Index, usize, usize),
    Insert(Index, Vec<u8>),
    /// A piece of another example.
    Splice(Index, Index, Index),
}

fn damage(words: &'static [&'static str]) -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let word = if words.is_empty() { &["0", "-1", "\"", "{}", ","][..] } else { words };
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Damage::Flip(i, b)),
        at().prop_map(Damage::Cut),
        (at(), 1..40usize).prop_map(|(i, n)| Damage::Drop(i, n)),
        (at(), 1..40usize, 1..20usize).prop_map(|(i, n, times)| Damage::Repeat(i, n, times)),
        (at(), vec(any::<u8>(), 1..4)).prop_map(|(i, b)| Damage::Insert(i, b)),
        (at(), select(word)).prop_map(|(i, w)| Damage::Insert(i, w.as_bytes().to_vec())),
        (at(), at(), at()).prop_map(|(i, of, from)| Damage::Splice(i, of, from)),
    ]
}

fn wreak(bytes: &mut Vec<u8>, damage: Damage, examples: &[Vec<u8>]) {
    let within = |i: Index, length: usize| i.index(length + 1);
    match damage {
        Damage::Flip(i, b) => {
            let at = within(i, bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte = b;
            }
        }
        Damage::Cut(i) => bytes.truncate(within(i, bytes.len())),
        Damage::Drop(i, n) => {
            let at = within(i, bytes.len());
            bytes.drain(at..bytes.len().min(at + n));
        }
        Damage::Repeat(i, n, times) => {
            let at = within(i, bytes.len());
            let piece = bytes[at..bytes.len().min(at + n)].repeat(times);
            bytes.splice(at..at, piece);
        }
        Damage::Insert(i, piece) => {
            let at = within(i, bytes.len());
            bytes.splice(at..at, piece);
        }
        Damage::Splice(i, of, from) => {
            let (at, other) = (within(i, bytes.len()), &examples[of.index(examples.len())]);
            let from = within(from, other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
    }
}

/// Noise.
pub fn noise() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..120)
}

/// Words of a language, one after the other.
pub fn soup(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    vec(select(words), 0..40).prop_map(|words| words.concat().into_bytes())
}

/// Examples, each damaged in a few places.
pub fn damaged(examples: Vec<Vec<u8>>, words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    (any::<Index>(), vec(damage(words), 0..5)).prop_map(move |(which, changes)| {
        let mut bytes = examples[which.index(examples.len())].clone();
        for change in changes {
            wreak(&mut bytes, change, &examples);
        }
        bytes
    })
}

/// `open` so many times, then `inner`, then `close` as often.
pub fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    [&open.repeat(depth), inner, &close.repeat(depth)].concat()
}

/// A scalar or a small tree that somebody might hold against a field of another type.
fn odd_value() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        " ",
        "a",
        "A",
        "-",
        ".",
        "..",
        "/",
        "a/b/c",
        "0",
        "-1",
        "1e9",
        "1Gi",
        "100%",
        "1.5%",
        "%",
        "::",
        "::/0",
        "10.0.0.0/33",
        "999.999.999.999",
        "*",
        "*.a",
        "{",
        "}",
        "$(A)",
        "\u{0}",
        "é",
        "日本語日本語",
        "a=b",
        "a in (b",
        "TCP",
        "Always",
        "2026-01-02T03:04:05Z",
        "9999-12-31T23:59:60Z",
        "* * * * *",
        "*/0 * * * *",
        "@every 0s",
        "TZ=x * * * * *",
        "http://[",
        "YQ==",
        "(",
        "self.",
        "None",
        "metadata.name",
        "+5",
        "18446744073709551616",
    ];
    let numbers = [0, -1, 1, 2, 65535, 65536, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(numbers.to_vec()).prop_map(Value::from),
        select(vec![0.5, -0.0, 1e300, -1e300]).prop_map(Value::from),
        select(texts.to_vec()).prop_map(Value::from),
        (select(texts.to_vec()), 1..300usize).prop_map(|(t, n)| Value::from(t.repeat(n))),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null])),
        Just(json!({"": {}})),
    ]
}

#[derive(Clone, Debug)]
enum Change {
    Replace(Value),
    Remove,
    /// Lists: the item at the place twice.
    Twice,
    /// What stands at another place of the same tree.
    Move(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => odd_value().prop_map(Change::Replace),
        2 => Just(Change::Remove),
        1 => Just(Change::Twice),
        1 => any::<Index>().prop_map(Change::Move),
    ]
}

/// Paths of everything in a tree.
fn paths(value: &Value, at: &mut String, all: &mut Vec<String>) {
    let length = at.len();
    let mut below = |step: &str, v: &Value| {
        at.push('/');
        at.push_str(&step.replace('~', "~0").replace('/', "~1"));
        all.push(at.clone());
        paths(v, at, all);
        at.truncate(length);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| below(k, v)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| below(&i.to_string(), v)),
        _ => {}
    }
}

fn alter(tree: &mut Value, at: Index, change: Change) {
    let mut all = Vec::new();
    paths(tree, &mut String::new(), &mut all);
    if all.is_empty() {
        return;
    }
    let path = &all[at.index(all.len())];
    let (parent, last) = path.rsplit_once('/').unwrap_or_default();
    match change {
        Change::Replace(value) => {
            if let Some(place) = tree.pointer_mut(path) {
                *place = value;
            }
        }
        Change::Move(from) => {
            let moved = tree.pointer(&all[from.index(all.len())]).cloned().unwrap_or_default();
            if let Some(place) = tree.pointer_mut(path) {
                *place = moved;
            }
        }
        Change::Remove | Change::Twice => match (tree.pointer_mut(parent), change) {
            (Some(Value::Object(map)), Change::Remove) => {
                map.remove(&last.replace("~1", "/").replace("~0", "~"));
            }
            (Some(Value::Array(list)), change) => {
                let i = last.parse().unwrap_or(0);
                match change {
                    Change::Remove => drop(list.remove(i)),
                    _ => list.insert(i, list[i].clone()),
                }
            }
            _ => {}
        },
    }
}

/// Trees, each altered in a few places.
pub fn altered(examples: Vec<Value>) -> impl Strategy<Value = Value> {
    (any::<Index>(), vec((any::<Index>(), change()), 0..6)).prop_map(move |(which, changes)| {
        let mut tree = examples[which.index(examples.len())].clone();
        for (at, change) in changes {
            alter(&mut tree, at, change);
        }
        tree
    })
}

/// Any small tree.
pub fn tree() -> impl Strategy<Value = Value> {
    odd_value().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec(
                (select(vec!["a", "b", "name", "spec", "metadata", "$patch", "f:a", "k:{\"name\":\"a\"}"]), inner),
                0..4
            )
            .prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())),
        ]
    })
}
