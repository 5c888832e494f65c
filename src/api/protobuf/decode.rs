//! A body becomes JSON.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::MAGIC;
use super::table::{self, Field, Message, Shape, Special};
use crate::status::Status;

/// How deep messages may nest, so that a hostile body cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

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
    decode_within(body, 0)
}

fn decode_within(body: &[u8], depth: usize) -> Result<Value, Status> {
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
    let of = table::of_kind(&api_version, &kind)
        .ok_or_else(|| broken(&format!("there is no protobuf form of {api_version} {kind}")))?;
    let mut value = Value::Object(message(raw, of, depth)?);
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    Ok(value)
}

fn message(body: &[u8], of: &'static Message, depth: usize) -> Result<Map<String, Value>, Status> {
    if depth > MAX_DEPTH {
        return Err(broken("it is nested too deeply"));
    }
    let mut out = Map::new();
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.next()? {
        // Fields of a newer minor are dropped, as every protobuf reader does.
        let Some(f) = of.tagged(tag) else { continue };
        if f.name == "~" {
            if let (Wire::Bytes(b), Some(of)) = (&wire, table::of(f)) {
                out.extend(message(b, of, depth + 1)?);
            }
            continue;
        }
        match f.shape {
            Shape::One => {
                if let Some(v) = value(f, &wire, depth)? {
                    let zero = v == 0 || v == false || v == "";
                    if !zero || f.keeps_zero() {
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
        (b'm', Wire::Bytes(b)) => match table::of(f) {
            Some(of) => special(of, b, depth)?,
            None => None,
        },
        _ => return Err(broken(&format!("the field {} has the wrong wire type", f.name))),
    })
}

/// Messages whose JSON is not an object of their fields, and all others.
fn special(of: &'static Message, body: &[u8], depth: usize) -> Result<Option<Value>, Status> {
    let plain = || message(body, of, depth + 1);
    Ok(match of.special {
        Special::Plain => Some(Value::Object(plain()?)),
        Special::Time => moment(body, false)?,
        Special::MicroTime => moment(body, true)?,
        Special::Quantity => Some(only_text(body)?.into()),
        Special::IntOrString => Some(int_or_string(body)?),
        Special::Raw => {
            let raw = only_bytes(body)?;
            match raw.strip_prefix(MAGIC) {
                Some(_) => Some(decode_within(raw, depth + 1)?),
                None if raw.is_empty() => None,
                None => Some(serde_json::from_slice(raw).map_err(|e| broken(&format!("an embedded object: {e}")))?),
            }
        }
        Special::Items => Some(plain()?.remove("items").unwrap_or_else(|| Value::Array(Vec::new()))),
        Special::OrBool => {
            let mut m = plain()?;
            m.remove("schema").or_else(|| Some(m.remove("allows").unwrap_or(Value::Bool(false))))
        }
        Special::OrArray => alternative(plain()?, "jSONSchemas"),
        Special::OrStringArray => alternative(plain()?, "property"),
    })
}

/// A schema, or a list in its stead.
fn alternative(mut m: Map<String, Value>, list: &str) -> Option<Value> {
    m.remove("schema").or_else(|| m.remove(list))
}

fn int_or_string(body: &[u8]) -> Result<Value, Status> {
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
    Ok(if kind == 0 { number.into() } else { string.into() })
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
