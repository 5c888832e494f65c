//! The protobuf form of a v2 document: gnostic's `openapi.v2.Document`, which is all that
//! client-go asks `/openapi/v2` for. Field numbers are those of gnostic's `OpenAPIv2.proto`.

use serde_json::{Map, Value};

/// A message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: Message) {
        self.bytes(field, &message.0);
    }

    fn string(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn strings(&mut self, field: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn boolean(&mut self, field: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(u64::from(field << 3));
            self.varint(1);
        }
    }

    fn integer(&mut self, field: u32, value: Option<&Value>) {
        if let Some(n) = value.and_then(Value::as_i64).filter(|n| *n != 0) {
            self.varint(u64::from(field << 3));
            self.varint(n as u64);
        }
    }

    fn double(&mut self, field: u32, value: Option<&Value>) {
        if let Some(n) = value.and_then(Value::as_f64).filter(|n| *n != 0.0) {
            self.varint(u64::from(field << 3 | 1));
            self.0.extend_from_slice(&n.to_le_bytes());
        }
    }

    /// `Any`, whose text is YAML; JSON is that too.
    fn any(&mut self, field: u32, value: &Value) {
        let mut any = Message::default();
        any.bytes(2, value.to_string().as_bytes());
        self.message(field, any);
    }

    /// A `Named…` pair.
    fn named(&mut self, field: u32, name: &str, value: Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(field, pair);
    }

    fn extensions(&mut self, field: u32, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.named(field, name, any);
        }
    }
}

fn empty() -> &'static Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    &EMPTY
}

fn object(value: Option<&Value>) -> &Map<String, Value> {
    value.and_then(Value::as_object).unwrap_or_else(|| empty())
}

/// Encodes a v2 document: all but its paths and definitions, and these.
pub(super) fn encode<'a>(
    d: &Map<String, Value>,
    all_paths: impl Iterator<Item = (&'a str, Value)>,
    all_definitions: impl Iterator<Item = (&'a str, Value)>,
) -> Vec<u8> {
    let mut out = Message::default();
    out.string(1, d.get("swagger"));
    let info = object(d.get("info"));
    let mut m = Message::default();
    m.string(1, info.get("title"));
    m.string(2, info.get("version"));
    out.message(2, m);
    let mut paths = Message::default();
    for (path, item) in all_paths {
        paths.named(2, path, path_item(object(Some(&item))));
    }
    out.message(8, paths);
    let mut definitions = Message::default();
    for (name, s) in all_definitions {
        definitions.named(1, name, schema(object(Some(&s))));
    }
    out.message(9, definitions);
    for requirement in d.get("security").and_then(Value::as_array).into_iter().flatten() {
        let mut m = Message::default();
        for (name, scopes) in object(Some(requirement)) {
            let mut list = Message::default();
            list.strings(1, Some(scopes));
            m.named(1, name, list);
        }
        out.message(12, m);
    }
    let mut security = Message::default();
    for (name, s) in object(d.get("securityDefinitions")) {
        let s = object(Some(s));
        let mut key = Message::default();
        for (field, name) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.string(field, s.get(name));
        }
        let mut item = Message::default();
        item.message(2, key);
        security.named(1, name, item);
    }
    out.message(13, security);
    out.0
}

fn path_item(item: &Map<String, Value>) -> Message {
    let mut m = Message::default();
    let methods = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (field, method) in methods {
        if let Some(Value::Object(o)) = item.get(method) {
            m.message(field, operation(o));
        }
    }
    for p in item.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        m.message(9, parameter(object(Some(p))));
    }
    m.extensions(10, item);
    m
}

fn operation(o: &Map<String, Value>) -> Message {
    let mut m = Message::default();
    m.strings(1, o.get("tags"));
    m.string(3, o.get("description"));
    m.string(5, o.get("operationId"));
    m.strings(6, o.get("produces"));
    m.strings(7, o.get("consumes"));
    for p in o.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        m.message(8, parameter(object(Some(p))));
    }
    let mut responses = Message::default();
    for (code, r) in object(o.get("responses")) {
        let r = object(Some(r));
        let mut response = Message::default();
        response.string(1, r.get("description"));
        if let Some(Value::Object(s)) = r.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(s));
            response.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, response);
        responses.named(1, code, value);
    }
    m.message(9, responses);
    m.strings(10, o.get("schemes"));
    m.extensions(13, o);
    m
}

/// A `ParametersItem`.
fn parameter(p: &Map<String, Value>) -> Message {
    let mut inner = Message::default();
    let mut parameter = Message::default();
    let place = p.get("in").and_then(Value::as_str).unwrap_or_default();
    if place == "body" {
        inner.string(1, p.get("description"));
        inner.string(2, p.get("name"));
        inner.string(3, p.get("in"));
        inner.boolean(4, p.get("required"));
        inner.message(5, schema(object(p.get("schema"))));
        parameter.message(1, inner);
    } else {
        inner.boolean(1, p.get("required"));
        inner.string(2, p.get("in"));
        inner.string(3, p.get("description"));
        inner.string(4, p.get("name"));
        let (kind, unique, variant) = if place == "path" { (5, 19, 4) } else { (6, 20, 3) };
        inner.string(kind, p.get("type"));
        inner.boolean(unique, p.get("uniqueItems"));
        let mut other = Message::default();
        other.message(variant, inner);
        parameter.message(2, other);
    }
    let mut item = Message::default();
    item.message(1, parameter);
    item
}

fn schema(s: &Map<String, Value>) -> Message {
    let mut m = Message::default();
    for (field, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        m.string(field, s.get(name));
    }
    if let Some(value) = s.get("default") {
        m.any(5, value);
    }
    m.double(6, s.get("multipleOf"));
    m.double(7, s.get("maximum"));
    m.boolean(8, s.get("exclusiveMaximum"));
    m.double(9, s.get("minimum"));
    m.boolean(10, s.get("exclusiveMinimum"));
    m.integer(11, s.get("maxLength"));
    m.integer(12, s.get("minLength"));
    m.string(13, s.get("pattern"));
    m.integer(14, s.get("maxItems"));
    m.integer(15, s.get("minItems"));
    m.boolean(16, s.get("uniqueItems"));
    m.integer(17, s.get("maxProperties"));
    m.integer(18, s.get("minProperties"));
    m.strings(19, s.get("required"));
    for value in s.get("enum").and_then(Value::as_array).into_iter().flatten() {
        m.any(20, value);
    }
    match s.get("additionalProperties") {
        Some(Value::Object(inner)) => {
            let mut item = Message::default();
            item.message(1, schema(inner));
            m.message(21, item);
        }
        Some(allowed @ Value::Bool(true)) => {
            let mut item = Message::default();
            item.boolean(2, Some(allowed));
            m.message(21, item);
        }
        _ => {}
    }
    if let Some(Value::String(kind)) = s.get("type") {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        m.message(22, item);
    }
    if let Some(Value::Object(inner)) = s.get("items") {
        let mut item = Message::default();
        item.message(1, schema(inner));
        m.message(23, item);
    }
    for inner in s.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        m.message(24, schema(object(Some(inner))));
    }
    if let Some(Value::Object(fields)) = s.get("properties") {
        let mut properties = Message::default();
        for (name, inner) in fields {
            properties.named(1, name, schema(object(Some(inner))));
        }
        m.message(25, properties);
    }
    m.extensions(31, s);
    m
}
