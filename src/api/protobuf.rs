//! Protobuf bodies (`application/vnd.kubernetes.protobuf`) of built-in kinds, decoded into JSON
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources>).
//!
//! A table of field numbers, made by `xtask protobuf`, drives one decoder for all messages. Answers
//! are JSON: a client that sends protobuf always accepts it.
//!
//! Go writes zero values of fields that are no pointers, and JSON leaves them out; which fields are
//! pointers is in neither the schemas nor the messages, so those whose zero means something are listed
//! in [`POINTERS`].

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use crate::status::Status;

const TABLE: &str = include_str!("data/protobuf-v1.35.txt");
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may nest, so that a hostile body cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// JSON names of fields whose zero value is kept: pointers in Go.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseTransitions",
    "manualSelector",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "priority",
    "privileged",
    "procMount",
    "progressDeadlineSeconds",
    "publishNotReadyAddresses",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "startingDeadlineSeconds",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    Many,
    Map,
}

#[derive(Debug)]
struct Field {
    /// `~` for a struct that Go inlines.
    name: &'static str,
    kind: u8,
    shape: Shape,
    of: Option<&'static str>,
}

type Message = HashMap<u32, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let mut all: HashMap<&'static str, Message> = HashMap::new();
    let mut current = "";
    for line in TABLE.lines() {
        let Some(rest) = line.strip_prefix(' ') else {
            current = line;
            all.entry(current).or_default();
            continue;
        };
        let mut parts = rest.split(' ');
        let (Some(tag), Some(name), Some(kind)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let shape = match kind.as_bytes().get(1) {
            Some(b'*') => Shape::Many,
            Some(b'%') => Shape::Map,
            _ => Shape::One,
        };
        if let (Ok(tag), Some(m)) = (tag.parse(), all.get_mut(current)) {
            m.insert(tag, Field { name, kind: kind.as_bytes()[0], shape, of: parts.next() });
        }
    }
    all
});

fn broken(what: &str) -> Status {
    Status::bad_request(format!("the protobuf body cannot be decoded: {what}"))
}

/// A protobuf message as it is read.
struct Reader<'a>(&'a [u8]);

/// One field as it stands on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed64(u64),
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Status> {
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let (&b, rest) = self.0.split_first().ok_or_else(|| broken("it is cut short"))?;
            self.0 = rest;
            if shift < 64 {
                n |= u64::from(b & 0x7f) << shift;
            }
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(broken("a number is too long"))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Status> {
        if n > self.0.len() {
            return Err(broken("it is cut short"));
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }

    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Status> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| broken("a field number is too large"))?;
        let wire = match key & 7 {
            0 => Wire::Number(self.varint()?),
            1 => {
                let b = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            }
            2 => {
                let n = self.varint()?;
                let n = usize::try_from(n).map_err(|_| broken("a length is too large"))?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Number(self.take(4)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))),
            _ => return Err(broken("it has a wire type that is not used")),
        };
        Ok(Some((tag, wire)))
    }
}

fn text(b: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(b).map_err(|_| broken("a string is not UTF-8"))
}

/// Decodes a body: the envelope, then the message that it names.
///
/// # Errors
/// 400 for a body that is no such message, or of a kind that has no protobuf form.
pub fn decode(body: &[u8]) -> Result<Value, Status> {
    let rest = body.strip_prefix(MAGIC).ok_or_else(|| broken("it does not begin with \"k8s\\0\""))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut envelope = Reader(rest);
    while let Some((tag, wire)) = envelope.next()? {
        match (tag, wire) {
            (1, Wire::Bytes(b)) => {
                let mut meta = Reader(b);
                while let Some((tag, wire)) = meta.next()? {
                    match (tag, wire) {
                        (1, Wire::Bytes(b)) => api_version = text(b)?.to_owned(),
                        (2, Wire::Bytes(b)) => kind = text(b)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(b)) => raw = b,
            _ => {}
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let name = message_name(group, version, &kind)
        .ok_or_else(|| broken(&format!("there is no protobuf form of {api_version} {kind}")))?;
    let mut value = Value::Object(message(raw, name, 0)?);
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    Ok(value)
}

fn message_name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let short = match group {
        "" => "core",
        g => g.split('.').next().unwrap_or_default(),
    };
    let candidates = [format!("api.{short}.{version}.{kind}"), format!("apimachinery.pkg.apis.meta.v1.{kind}")];
    candidates.iter().find_map(|c| MESSAGES.get_key_value(c.as_str()).map(|(k, _)| *k))
}

fn message(body: &[u8], name: &str, depth: usize) -> Result<Map<String, Value>, Status> {
    if depth > MAX_DEPTH {
        return Err(broken("it is nested too deeply"));
    }
    let fields = MESSAGES.get(name).ok_or_else(|| broken(&format!("the message {name} is not known")))?;
    let mut out = Map::new();
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.next()? {
        // Fields of a newer minor are dropped, as every protobuf reader does.
        let Some(f) = fields.get(&tag) else { continue };
        if f.name == "~" {
            if let (Wire::Bytes(b), Some(of)) = (&wire, f.of) {
                out.extend(message(b, of, depth + 1)?);
            }
            continue;
        }
        match f.shape {
            Shape::One => {
                if let Some(v) = value(f, &wire, depth)? {
                    let zero = v == 0 || v == false || v == "";
                    if !zero || POINTERS.contains(&f.name) {
                        out.insert(f.name.to_owned(), v);
                    }
                }
            }
            Shape::Many => {
                let list = out.entry(f.name).or_insert_with(|| Value::Array(Vec::new()));
                if let (Some(v), Some(list)) = (value(f, &wire, depth)?, list.as_array_mut()) {
                    list.push(v);
                }
            }
            Shape::Map => {
                let Wire::Bytes(entry) = wire else { return Err(broken("a map entry is not a message")) };
                let (mut key, mut item) = (String::new(), None);
                let mut reader = Reader(entry);
                while let Some((tag, wire)) = reader.next()? {
                    match (tag, &wire) {
                        (1, Wire::Bytes(b)) => key = text(b)?.to_owned(),
                        (2, _) => item = value(f, &wire, depth)?,
                        _ => {}
                    }
                }
                let map = out.entry(f.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, item.unwrap_or_else(|| "".into()));
                }
            }
        }
    }
    Ok(out)
}

fn value(f: &Field, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, Status> {
    Ok(match (f.kind, wire) {
        (b's', Wire::Bytes(b)) => Some(text(b)?.into()),
        (b'b', Wire::Bytes(b)) => Some(BASE64_STANDARD.encode(b).into()),
        // Negative numbers travel as 64-bit two's complement, also those of 32 bits.
        (b'i', Wire::Number(n)) => Some((*n as i64).into()),
        (b'B', Wire::Number(n)) => Some((*n != 0).into()),
        (b'd', Wire::Fixed64(n)) => Some(f64::from_bits(*n).into()),
        (b'm', Wire::Bytes(b)) => special(f.of.unwrap_or_default(), b, depth)?,
        _ => return Err(broken(&format!("the field {} has the wrong wire type", f.name))),
    })
}

/// Messages whose JSON is not an object of their fields.
fn special(name: &str, body: &[u8], depth: usize) -> Result<Option<Value>, Status> {
    let plain = || message(body, name, depth + 1);
    let field = |m: &Map<String, Value>, f: &str| m.get(f).cloned();
    Ok(match name {
        "apimachinery.pkg.apis.meta.v1.Time" => moment(body, false)?,
        "apimachinery.pkg.apis.meta.v1.MicroTime" => moment(body, true)?,
        "apimachinery.pkg.api.resource.Quantity" => Some(only_text(body)?.into()),
        "apimachinery.pkg.util.intstr.IntOrString" => {
            let (mut kind, mut number, mut string) = (0, 0, String::new());
            let mut reader = Reader(body);
            while let Some((tag, wire)) = reader.next()? {
                match (tag, wire) {
                    (1, Wire::Number(n)) => kind = n,
                    (2, Wire::Number(n)) => number = n as i64,
                    (3, Wire::Bytes(b)) => string = text(b)?.to_owned(),
                    _ => {}
                }
            }
            Some(if kind == 0 { number.into() } else { string.into() })
        }
        "apimachinery.pkg.apis.meta.v1.FieldsV1" | "apimachinery.pkg.runtime.RawExtension" => {
            let raw = only_bytes(body)?;
            match raw.strip_prefix(MAGIC) {
                Some(_) => Some(decode(raw)?),
                None if raw.is_empty() => None,
                None => Some(serde_json::from_slice(raw).map_err(|e| broken(&format!("an embedded object: {e}")))?),
            }
        }
        n if n.ends_with(".ExtraValue") || n.ends_with(".Verbs") => {
            Some(field(&plain()?, "items").unwrap_or_else(|| Value::Array(Vec::new())))
        }
        _ => Some(Value::Object(plain()?)),
    })
}

fn only_bytes(body: &[u8]) -> Result<&[u8], Status> {
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.next()? {
        if let (1, Wire::Bytes(b)) = (tag, wire) {
            return Ok(b);
        }
    }
    Ok(&[])
}

fn only_text(body: &[u8]) -> Result<&str, Status> {
    text(only_bytes(body)?)
}

fn moment(body: &[u8], micro: bool) -> Result<Option<Value>, Status> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.next()? {
        match (tag, wire) {
            (1, Wire::Number(n)) => seconds = Some(n as i64),
            (2, Wire::Number(n)) => nanos = n as i32,
            _ => {}
        }
    }
    // Go's zero time is null in JSON.
    let Some(seconds) = seconds else { return Ok(None) };
    let t = jiff::Timestamp::new(seconds, nanos).map_err(|e| broken(&format!("a time: {e}")))?;
    let spelled = if micro { crate::time::rfc3339_micro(t) } else { crate::time::rfc3339(t) };
    Ok(Some(spelled.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// tag and bytes
    fn sub(tag: u8, b: &[u8]) -> Vec<u8> {
        let mut v = vec![tag << 3 | 2, b.len() as u8];
        v.extend(b);
        v
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [sub(1, api_version.as_bytes()), sub(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), sub(1, &meta), sub(2, raw)].concat()
    }

    #[test]
    fn a_config_map_decodes_and_go_zero_values_are_left_out() {
        let metadata = [sub(1, b"a"), sub(2, b""), sub(8, b"")].concat();
        let raw = [sub(1, &metadata), sub(2, &[sub(1, b"k"), sub(2, b"v")].concat())].concat();
        let decoded = decode(&body("v1", "ConfigMap", &raw)).unwrap();
        assert_eq!(
            decoded,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn an_explicit_zero_of_a_pointer_is_kept() {
        let raw = sub(2, &[1 << 3, 0]);
        let decoded = decode(&body("apps/v1", "Deployment", &raw)).unwrap();
        assert_eq!(decoded["spec"]["replicas"], 0);
    }

    #[test]
    fn bodies_that_are_cut_or_foreign_are_errors() {
        let whole = body("v1", "ConfigMap", &sub(1, &sub(1, b"a")));
        for n in 0..whole.len() {
            // No cut may panic; most are errors, some are shorter messages.
            let _ = decode(&whole[..n]);
        }
        assert!(decode(b"{}").is_err());
        assert!(decode(&body("example.com/v1", "Thing", &[])).is_err());
    }
}
