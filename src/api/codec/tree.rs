//! JSON and YAML text into trees, with duplicate keys noted.

use std::cell::RefCell;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::DuplicateKeyPolicy;

use super::NESTING_MAX;

/// In Go's words.
pub(super) const TOO_DEEP: &str = "exceeded max depth";
/// What anchors may be repeated to, in nodes; upstream begins to count there.
const REPEATED_MAX: usize = 400_000;

/// A level of YAML takes 2 KiB of stack, without optimization 25: more than a worker's stack has room for.
const YAML_STACK: usize = 16 << 20;

/// Where we are, and which keys occurred twice.
#[derive(Default)]
struct Notes {
    path: RefCell<String>,
    duplicate: RefCell<Vec<String>>,
}

impl Notes {
    /// Runs `inner` with the path one step longer.
    fn within<T>(&self, step: &str, inner: impl FnOnce() -> T) -> T {
        let length = self.path.borrow().len();
        {
            let mut path = self.path.borrow_mut();
            if !path.is_empty() && !step.starts_with('[') {
                path.push('.');
            }
            path.push_str(step);
        }
        let result = inner();
        self.path.borrow_mut().truncate(length);
        result
    }
}

#[derive(Clone, Copy)]
struct Tree<'a>(&'a Notes);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i128<E: Error>(self, v: i128) -> Result<Value, E> {
        Ok(Number::from_i128(v).map_or_else(|| Value::from(v as f64), Value::Number))
    }
    fn visit_u128<E: Error>(self, v: u128) -> Result<Value, E> {
        Ok(Number::from_u128(v).map_or_else(|| Value::from(v as f64), Value::Number))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Value, E> {
        Ok(Value::String(String::from_utf8_lossy(v).into_owned()))
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let step = format!("[{}]", list.len());
            match self.0.within(&step, || seq.next_element_seed(self))? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key_seed(self)? {
            let key = match key {
                Value::String(s) => s,
                Value::Number(n) => n.to_string(),
                Value::Bool(b) => b.to_string(),
                Value::Null => "null".to_owned(),
                Value::Array(_) | Value::Object(_) => return Err(A::Error::custom("a map or list cannot be a key")),
            };
            let value = self.0.within(&key, || {
                if object.contains_key(&key) {
                    self.0.duplicate.borrow_mut().push(self.0.path.borrow().clone());
                }
                map.next_value_seed(self)
            })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

fn yaml_options() -> serde_saphyr::Options {
    options(DuplicateKeyPolicy::LastWins)
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> serde_saphyr::Options {
    // Bodies are limited in size where they are read; the defaults stop at what big manifests have.
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: duplicate_keys,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPEATED_MAX },
        budget: serde_saphyr::budget! {
            max_events: 10_000_000,
            max_nodes: 5_000_000,
            max_documents: 100_000,
            max_total_scalar_bytes: 256 << 20,
            max_depth: NESTING_MAX,
        },
        with_snippet: false,
    }
}

/// A tree from YAML; its seed makes the notes, so that it can be read with `T: Deserialize` too.
struct Yaml {
    value: Value,
    duplicate: Vec<String>,
}

impl<'de> serde::Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Yaml, D::Error> {
        let notes = Notes::default();
        let value = Tree(&notes).deserialize(deserializer)?;
        Ok(Yaml { value, duplicate: notes.duplicate.into_inner() })
    }
}

/// Reads YAML on a stack that its deepest nesting fits on.
fn read_yaml<T: Send>(read: impl FnOnce() -> Result<T, serde_saphyr::Error> + Send) -> Result<T, String> {
    let said = |e: serde_saphyr::Error| match e.to_string() {
        e if e.starts_with("alias ") && e.contains("limit exceeded") => {
            "document contains excessive aliasing".to_owned()
        }
        e => e,
    };
    let read = || read().map_err(|e| format!("error converting YAML to JSON: yaml: {}", said(e)));
    std::thread::scope(|s| {
        let reader = std::thread::Builder::new().name("yaml".into()).stack_size(YAML_STACK).spawn_scoped(s, read);
        let reader = reader.map_err(|e| format!("error converting YAML to JSON: no thread to read it on: {e}"))?;
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The tree and the paths of keys that occur twice.
pub(super) fn parse(body: &[u8], yaml: bool) -> Result<(Value, Vec<String>), String> {
    if !yaml {
        return parse_json(body).map_err(|e| match e.to_string() {
            e if e.starts_with("recursion limit exceeded") => {
                format!("couldn't get version/kind; json parse error: {TOO_DEEP}")
            }
            e => format!("couldn't get version/kind; json parse error: {e}"),
        });
    }
    // What clients apply is JSON, mostly, and that is read at once.
    if body.starts_with(b"{")
        && let Ok(read) = parse_json(body)
    {
        return Ok(read);
    }
    let text = std::str::from_utf8(body).map_err(|e| format!("error converting YAML to JSON: {e}"))?;
    let yaml: Yaml = read_yaml(|| serde_saphyr::from_str_with_options(text, yaml_options()))?;
    Ok((yaml.value, yaml.duplicate))
}

fn parse_json(body: &[u8]) -> serde_json::Result<(Value, Vec<String>)> {
    let notes = Notes::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Tree(&notes).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, notes.duplicate.into_inner()))
}

/// The line of the first key that occurs twice.
pub(super) fn line_of_duplicate(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let read = || {
        let read: Result<Yaml, _> = serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::Error));
        Ok(read.err().and_then(|e| Some(e.location()?.line())))
    };
    read_yaml(read).ok()?
}

/// All documents of a YAML stream.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let all: Vec<Yaml> = read_yaml(|| serde_saphyr::from_multiple_with_options(text, yaml_options()))?;
    Ok(all.into_iter().map(|y| y.value).filter(|v| !v.is_null()).collect())
}
