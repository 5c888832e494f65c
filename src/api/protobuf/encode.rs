//! JSON becomes a body, in one pass over its text.
//!
//! The length of a nested message stands before it and is known only after it: one byte is kept
//! free, which is enough for most, and what follows is moved where it is not.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::MAGIC;
use super::table::{self, Field, Message, Shape, Special};
use crate::status::Status;

/// A kind that has a protobuf form.
#[derive(Clone, Copy, Debug)]
pub struct Kind(&'static Message);

impl Kind {
    /// The kind of a version, if it is one of upstream's.
    pub fn of(api_version: &str, kind: &str) -> Option<Kind> {
        table::of_kind(api_version, kind).map(Kind)
    }

    /// The body of an object, given its JSON; fields that the kind does not have are left out.
    ///
    /// # Errors
    /// 500 when the JSON is not such an object.
    pub fn encode(self, api_version: &str, kind: &str, json: &[u8]) -> Result<Bytes, Status> {
        let mut out = Vec::with_capacity(json.len());
        envelope(&mut out, api_version, kind, |out| fields(self.0, json, out))?;
        Ok(out.into())
    }

    /// The body of a list of objects of this kind, given the JSON of its metadata and of each.
    ///
    /// # Errors
    /// 500 when the JSON is not of such objects.
    pub fn encode_list(
        self,
        api_version: &str,
        list_kind: &str,
        meta: &[u8],
        items: impl Iterator<Item = Bytes>,
    ) -> Result<Bytes, Status> {
        let list_meta = table::of_kind("v1", "ListMeta").ok_or_else(|| broken("ListMeta has no message"))?;
        let mut out = Vec::new();
        envelope(&mut out, api_version, list_kind, |out| {
            nested(out, 1, |out| fields(list_meta, meta, out))?;
            for item in items {
                nested(out, 2, |out| fields(self.0, &item, out))?;
            }
            Ok(())
        })?;
        Ok(out.into())
    }
}

#[cfg(test)]
impl Kind {
    /// The fields that the schema of this kind has and the table does not, at any depth.
    pub(super) fn missing(
        self,
        schema: &crate::schema::TypeRef,
        seen: &mut std::collections::BTreeSet<String>,
        missing: &mut Vec<String>,
    ) {
        let name = schema.definition_name().unwrap_or_default().to_owned();
        if self.0.special != Special::Plain || !seen.insert(name.clone()) {
            return;
        }
        for field in schema.field_names() {
            let place = match place(self.0, field) {
                Place::Here(f) => Some(f),
                Place::Inlined(_, path) => path.last().copied(),
                Place::Nowhere => None,
            };
            let Some(found) = place else {
                if !matches!(field, "apiVersion" | "kind") {
                    missing.push(format!("{name}.{field}"));
                }
                continue;
            };
            let inner = schema.field(field);
            let inner = inner.map(|t| t.items().or_else(|| t.values()).unwrap_or(t));
            if let (Some(of), Some(t)) = (table::of(found), inner)
                && t.is_object()
            {
                Kind(of).missing(&t, seen, missing);
            }
        }
    }
}

/// A watch event around a body, with the length that stands before each in a stream.
pub fn watch_frame(event: &str, body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 32);
    out.extend([0; 4]);
    bytes(&mut out, 1, event.as_bytes());
    let raw_length = 1 + varint_length(body.len() as u64) + body.len();
    varint(&mut out, 2 << 3 | 2);
    varint(&mut out, raw_length as u64);
    bytes(&mut out, 1, body);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.into()
}

fn broken(what: impl std::fmt::Display) -> Status {
    Status::internal(format!("an object has no protobuf form: {what}"))
}

fn envelope(
    out: &mut Vec<u8>,
    api_version: &str,
    kind: &str,
    raw: impl FnOnce(&mut Vec<u8>) -> Result<(), Status>,
) -> Result<(), Status> {
    out.extend(MAGIC);
    nested(out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
        Ok(())
    })?;
    nested(out, 2, raw)?;
    // Content encoding and type: empty, but Go writes them.
    bytes(out, 3, b"");
    bytes(out, 4, b"");
    Ok(())
}

fn fields(of: &'static Message, json: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(Fields { of, out }).map_err(broken)
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn varint_length(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

fn number(out: &mut Vec<u8>, tag: u32, n: u64) {
    varint(out, u64::from(tag) << 3);
    varint(out, n);
}

fn bytes(out: &mut Vec<u8>, tag: u32, b: &[u8]) {
    varint(out, u64::from(tag) << 3 | 2);
    varint(out, b.len() as u64);
    out.extend_from_slice(b);
}

fn nested<E>(out: &mut Vec<u8>, tag: u32, body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    varint(out, u64::from(tag) << 3 | 2);
    let at = out.len();
    out.push(0);
    body(out)?;
    let length = (out.len() - at - 1) as u64;
    let more = varint_length(length) - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(at + 1..end, at + 1 + more);
    }
    let mut n = length;
    for byte in &mut out[at..at + more] {
        *byte = n as u8 | 0x80;
        n >>= 7;
    }
    out[at + more] = n as u8;
    Ok(())
}

/// The fields of a message, from a JSON object.
struct Fields<'a> {
    of: &'static Message,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // What belongs to inlined structs is gathered, so that each is written once.
        let mut inlined: Vec<(u32, Vec<u8>)> = Vec::new();
        while let Some(place) = map.next_key_seed(Key(self.of))? {
            match place {
                Place::Nowhere => {
                    map.next_value::<IgnoredAny>()?;
                }
                Place::Here(field) => map.next_value_seed(Occurrences { field, out: self.out })?,
                Place::Inlined(outer, path) => {
                    let at = inlined.iter().position(|(tag, _)| *tag == outer.tag).unwrap_or_else(|| {
                        inlined.push((outer.tag, Vec::new()));
                        inlined.len() - 1
                    });
                    within(&mut inlined[at].1, &path, |field, out| map.next_value_seed(Occurrences { field, out }))?;
                }
            }
        }
        for (tag, body) in inlined {
            bytes(self.out, tag, &body);
        }
        Ok(())
    }
}

/// Writes the last field of a path into the inlined structs that the others are.
fn within<E>(
    out: &mut Vec<u8>,
    path: &[&'static Field],
    write: impl FnOnce(&'static Field, &mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    match path {
        [field] => write(field, out),
        [outer, rest @ ..] => {
            let mut inner = Vec::new();
            within(&mut inner, rest, write)?;
            bytes(out, outer.tag, &inner);
            Ok(())
        }
        [] => Ok(()),
    }
}

/// Where the field stands that a key names.
enum Place {
    Nowhere,
    Here(&'static Field),
    /// In an inlined struct, by the path from there.
    Inlined(&'static Field, Vec<&'static Field>),
}

/// A key of an object that is such a message.
struct Key(&'static Message);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Place;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Place, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Place;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Place, E> {
        Ok(place(self.0, name))
    }
}

fn place(of: &'static Message, name: &str) -> Place {
    if let Some(f) = of.named(name) {
        return Place::Here(f);
    }
    for outer in of.inlined() {
        match table::of(outer).map(|inner| place(inner, name)) {
            Some(Place::Here(f)) => return Place::Inlined(outer, vec![f]),
            Some(Place::Inlined(first, rest)) => return Place::Inlined(outer, [vec![first], rest].concat()),
            Some(Place::Nowhere) | None => {}
        }
    }
    Place::Nowhere
}

/// A field, as often as it occurs.
struct Occurrences<'a> {
    field: &'static Field,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Occurrences<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.field.shape {
            Shape::One => One { field: self.field, tag: self.field.tag, out: self.out }.deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Occurrences<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "what {} holds", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(One { field: self.field, tag: self.field.tag, out: self.out })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            nested(self.out, self.field.tag, |out| {
                bytes(out, 1, key.as_bytes());
                map.next_value_seed(One { field: self.field, tag: 2, out })
            })?;
        }
        Ok(())
    }
}

/// One value, under a tag.
struct One<'a> {
    field: &'static Field,
    tag: u32,
    out: &'a mut Vec<u8>,
}

impl One<'_> {
    /// The message that the value is; `None` for scalars.
    fn message(&self) -> Option<&'static Message> {
        (self.field.kind == b'm').then(|| table::of(self.field)).flatten()
    }

    fn special(&self) -> Option<Special> {
        self.message().map(|m| m.special)
    }

    fn wrong<E: Error>(&self, what: &str) -> E {
        E::custom(format!("{} is {what}", self.field.name))
    }

    fn integer<E: Error>(self, n: i64) -> Result<(), E> {
        match (self.field.kind, self.special()) {
            (b'i', _) => number(self.out, self.tag, n as u64),
            (b'd', _) => self.double(n as f64),
            (_, Some(Special::IntOrString)) => nested(self.out, self.tag, |out| {
                number(out, 1, 0);
                number(out, 2, n as u64);
                Ok(())
            })?,
            (_, Some(Special::Quantity)) => self.quantity(&n.to_string()),
            _ => return Err(self.wrong("a number")),
        }
        Ok(())
    }

    fn double(self, n: f64) {
        varint(self.out, u64::from(self.tag) << 3 | 1);
        self.out.extend(n.to_bits().to_le_bytes());
    }

    fn quantity(self, text: &str) {
        let length = 1 + varint_length(text.len() as u64) + text.len();
        varint(self.out, u64::from(self.tag) << 3 | 2);
        varint(self.out, length as u64);
        bytes(self.out, 1, text.as_bytes());
    }

    fn moment<E: Error>(self, text: &str) -> Result<(), E> {
        let time = crate::time::parse(text).ok_or_else(|| self.wrong("no time"))?;
        nested(self.out, self.tag, |out| {
            let (nanos, second) = (time.as_nanosecond(), 1_000_000_000);
            number(out, 1, nanos.div_euclid(second) as u64);
            number(out, 2, nanos.rem_euclid(second) as u64);
            Ok(())
        })
    }
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.special() == Some(Special::Raw) {
            let raw = <&RawValue>::deserialize(deserializer)?.get();
            if raw != "null" {
                nested(self.out, self.tag, |out| {
                    bytes(out, 1, raw.as_bytes());
                    Ok(())
                })?;
            }
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the value of {}", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        match (self.field.kind, self.special()) {
            (b'B', _) => number(self.out, self.tag, v.into()),
            (_, Some(Special::OrBool)) => nested(self.out, self.tag, |out| {
                number(out, 1, v.into());
                Ok(())
            })?,
            _ => return Err(self.wrong("a boolean")),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.integer(v)
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.integer(v as i64)
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        match (self.field.kind, self.special()) {
            (b'd', _) => self.double(v),
            (_, Some(Special::Quantity)) => self.quantity(&v.to_string()),
            _ => return Err(self.wrong("a fraction")),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        match (self.field.kind, self.special()) {
            (b's', _) => bytes(self.out, self.tag, v.as_bytes()),
            (b'b', _) => {
                let raw = BASE64_STANDARD.decode(v).map_err(|e| self.wrong::<E>(&format!("no base64: {e}")))?;
                bytes(self.out, self.tag, &raw);
            }
            (_, Some(Special::Time | Special::MicroTime)) => self.moment(v)?,
            (_, Some(Special::Quantity)) => self.quantity(v),
            (_, Some(Special::IntOrString)) => nested(self.out, self.tag, |out| {
                number(out, 1, 1);
                bytes(out, 3, v.as_bytes());
                Ok(())
            })?,
            _ => return Err(self.wrong("a string")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let tag = match self.special() {
            Some(Special::Items) => 1,
            Some(Special::OrArray | Special::OrStringArray) => 2,
            _ => return Err(self.wrong("a list")),
        };
        let message = self.message();
        let items = message.and_then(|m| m.tagged(tag)).ok_or_else(|| self.wrong::<A::Error>("a list"))?;
        nested(self.out, self.tag, |out| {
            while seq.next_element_seed(One { field: items, tag, out })?.is_some() {}
            Ok(())
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Some(of) = self.message() else { return Err(self.wrong("an object")) };
        let schema = |tag| of.tagged(tag).and_then(table::of).ok_or_else(|| self.wrong::<A::Error>("an object"));
        let (allows, tag, schema) = match of.special {
            Special::Plain => return nested(self.out, self.tag, |out| Fields { of, out }.visit_map(map)),
            Special::OrBool => (true, 2, schema(2)?),
            Special::OrArray | Special::OrStringArray => (false, 1, schema(1)?),
            _ => return Err(self.wrong("an object")),
        };
        nested(self.out, self.tag, |out| {
            if allows {
                number(out, 1, 1);
            }
            nested(out, tag, |out| Fields { of: schema, out }.visit_map(map))
        })
    }
}
