//! A tree against a type: what Go's JSON decoder accepts, changes and refuses.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::schema::{Shape, TypeRef};
use crate::time;

/// The checked tree and the paths of unknown fields.
pub(super) fn check(value: Value, t: &TypeRef) -> Result<(Value, Vec<String>), String> {
    let mut checker = Checker::default();
    let value = checker.value(value, t)?.unwrap_or(Value::Null);
    Ok((value, checker.unknown))
}

#[derive(Default)]
struct Checker {
    /// `spec.containers[0]`
    path: String,
    /// The fields on the way, and the struct that has the last of them: `spec`, `containers`; `PodSpec`.
    fields: Vec<String>,
    owner: String,
    unknown: Vec<String>,
}

/// What Go's decoder calls a value.
pub fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Checker {
    fn mismatch(&self, what: &str, t: &str) -> String {
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {what} into Go value of type {t}");
        }
        format!(
            "json: cannot unmarshal {what} into Go struct field {}.{} of type {t}",
            self.owner,
            self.fields.join(".")
        )
    }

    fn wrong(&self, value: &Value, t: &TypeRef) -> String {
        // Some types decode themselves, as another; a map of quantities has a name.
        let wanted = match t.shape() {
            Shape::Quantity => return crate::quantity::WRONG.to_owned(),
            Shape::Time | Shape::MicroTime => "string".to_owned(),
            Shape::IntOrString => "int32".to_owned(),
            _ if is_resource_list(t) => "v1.ResourceList".to_owned(),
            _ => t.go_type(),
        };
        self.mismatch(json_kind(value), &wanted)
    }

    /// One value; `None` where it is to be dropped.
    fn value(&mut self, value: Value, t: &TypeRef) -> Result<Option<Value>, String> {
        if value.is_null() {
            return Ok(if t.is_typed() { None } else { Some(value) });
        }
        match (t.shape(), value) {
            (Shape::Any | Shape::Builtin(_), value) => Ok(Some(value)),
            (Shape::Object(_), Value::Object(map)) => self.object(map, t).map(Some),
            (Shape::Map(_), Value::Object(map)) => self.map(map, t).map(Some),
            (Shape::List(_), Value::Array(list)) => self.list(list, t).map(Some),
            (_, value) if !t.is_typed() => Ok(Some(value)),
            (Shape::String, value @ Value::String(_)) | (Shape::Boolean, value @ Value::Bool(_)) => Ok(Some(value)),
            (Shape::Number, value @ Value::Number(_)) => Ok(Some(value)),
            (Shape::IntOrString, value @ Value::String(_)) => Ok(Some(value)),
            (Shape::Int32 | Shape::IntOrString, Value::Number(n)) => match n.as_i64().map(i32::try_from) {
                Some(Ok(_)) => Ok(Some(Value::Number(n))),
                _ => Err(self.mismatch(&format!("number {n}"), "int32")),
            },
            (Shape::Int64, Value::Number(n)) => match n.as_i64() {
                Some(_) => Ok(Some(Value::Number(n))),
                None => Err(self.mismatch(&format!("number {n}"), "int64")),
            },
            (Shape::Quantity, value @ (Value::String(_) | Value::Number(_))) => {
                let text = match &value {
                    Value::String(s) => s.trim().to_owned(),
                    other => other.to_string(),
                };
                Quantity::parse(&text).map(|q| Some(Value::String(q.to_string())))
            }
            (shape @ (Shape::Time | Shape::MicroTime), Value::String(text)) => {
                instant(&text, shape == Shape::MicroTime).map(|t| Some(Value::String(t)))
            }
            (Shape::Bytes, Value::String(text)) => base64(text).map(|t| Some(Value::String(t))),
            (_, value) => Err(self.wrong(&value, t)),
        }
    }

    fn object(&mut self, map: Map<String, Value>, t: &TypeRef) -> Result<Value, String> {
        let mut out = Map::new();
        for (name, value) in map {
            let Some(field) = t.field(&name) else {
                let dot = if self.path.is_empty() { "" } else { "." };
                self.unknown.push(format!("{}{dot}{name}", self.path));
                continue;
            };
            let length = self.step(&name);
            self.fields.push(name);
            let outer = std::mem::replace(&mut self.owner, t.struct_name().to_owned());
            let kept = self.value(value, &field)?;
            self.owner = outer;
            let name = self.fields.pop().unwrap_or_default();
            self.path.truncate(length);
            match kept {
                Some(value) if t.is_typed() && is_empty(&value, &field) && !t.is_required(&name) => {}
                Some(value) => {
                    out.insert(name, value);
                }
                None => {}
            }
        }
        Ok(Value::Object(out))
    }

    fn map(&mut self, map: Map<String, Value>, t: &TypeRef) -> Result<Value, String> {
        let mut out = Map::new();
        let values = t.values().unwrap_or_else(TypeRef::any);
        for (name, value) in map {
            let length = self.step(&name);
            let mut kept = self.value(value, &values)?.unwrap_or_else(|| zero(&values));
            if is_resource_list(t) {
                // Upstream's default: no resource is told in less than thousandths.
                kept = Quantity::from_value(&kept)?.rounded_up_to_milli().to_string().into();
            }
            self.path.truncate(length);
            out.insert(name, kept);
        }
        Ok(Value::Object(out))
    }

    fn list(&mut self, list: Vec<Value>, t: &TypeRef) -> Result<Value, String> {
        let mut out = Vec::with_capacity(list.len());
        let items = t.items().unwrap_or_else(TypeRef::any);
        for (i, value) in list.into_iter().enumerate() {
            let length = self.path.len();
            self.path.push_str(&format!("[{i}]"));
            let kept = self.value(value, &items)?;
            self.path.truncate(length);
            out.push(kept.unwrap_or_else(|| zero(&items)));
        }
        Ok(Value::Array(out))
    }

    /// Lengthens the path; answers what to truncate it to.
    fn step(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }
}

fn is_resource_list(t: &TypeRef) -> bool {
    t.is_typed() && t.values().is_some_and(|v| v.shape() == Shape::Quantity)
}

/// What Go leaves where null stands in a list or map.
fn zero(t: &TypeRef) -> Value {
    match t.shape() {
        Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Quantity => Value::String("0".into()),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => Value::from(0),
        Shape::Boolean => Value::Bool(false),
        Shape::Any | Shape::Builtin(_) | Shape::Time | Shape::MicroTime => Value::Null,
    }
}

/// Whether Go's `omitempty` leaves a list or map out.
fn is_empty(value: &Value, t: &TypeRef) -> bool {
    match value {
        Value::Array(list) => list.is_empty() && t.is_list(),
        Value::Object(map) => map.is_empty() && t.is_map(),
        _ => false,
    }
}

fn instant(text: &str, micro: bool) -> Result<String, String> {
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let parsed = (text.as_bytes().get(10) == Some(&b'T')).then(|| time::parse(text)).flatten();
    match parsed {
        Some(t) if micro => Ok(time::rfc3339_micro(t)),
        Some(t) => Ok(time::rfc3339(t)),
        None => Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")),
    }
}

/// As Go's decoder: line ends are skipped, and bits of the last letter that say nothing are dropped.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

fn base64(text: String) -> Result<String, String> {
    let joined = text.contains(['\r', '\n']).then(|| text.replace(['\r', '\n'], ""));
    match BASE64.decode(joined.as_deref().unwrap_or(&text)) {
        Ok(bytes) if text.ends_with('=') => Ok(BASE64.encode(bytes)),
        Ok(_) => Ok(joined.unwrap_or(text)),
        Err(_) => Err(format!("illegal base64 data at input byte {}", wrong_byte(text.as_bytes()))),
    }
}

/// Where Go's decoder finds text that is not base64: at the byte, or where a group of four begins
/// that is not whole.
fn wrong_byte(text: &[u8]) -> usize {
    let mut all = text.iter().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n'));
    let mut group = 0;
    while let Some((at, byte)) = all.next() {
        match byte {
            b'=' if group < 2 => return at,
            b'=' => {
                if group == 2 {
                    match all.next() {
                        None => return text.len(),
                        Some((next, b)) if *b != b'=' => return next - 1,
                        Some(_) => {}
                    }
                }
                return all.next().map_or(text.len(), |(next, _)| next);
            }
            b if b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/') => group = (group + 1) % 4,
            _ => return at,
        }
    }
    text.len() - group
}
