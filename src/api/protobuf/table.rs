//! The table of messages and fields, made by `xtask protobuf`, as decoder and encoder walk it.

use std::collections::HashMap;
use std::sync::LazyLock;

const TABLE: &str = include_str!("../data/protobuf-v1.35.txt");

/// How a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    Many,
    Map,
}

/// Messages whose JSON is not an object of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Plain,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON in bytes: `RawExtension`, `FieldsV1`, the `JSON` of schemas.
    Raw,
    /// A list that travels as a message: `ExtraValue`, `Verbs`.
    Items,
    /// A schema or a boolean, a list of schemas, a list of names.
    OrBool,
    OrArray,
    OrStringArray,
}

#[derive(Debug)]
pub(super) struct Field {
    pub tag: u32,
    /// `~` for a struct that Go inlines.
    pub name: &'static str,
    /// `s` string, `b` bytes, `i` integer, `B` boolean, `d` double, `m` message.
    pub kind: u8,
    pub shape: Shape,
    /// Whether Go has a pointer, or leaves out the zero value of a struct.
    pub pointer: bool,
    /// Whether JSON has the field also when nobody has set it.
    pub always: bool,
    of: u16,
}

#[derive(Debug)]
pub(super) struct Message {
    pub special: Special,
    /// Sorted by tag.
    fields: Vec<Field>,
    /// Beginnings of names and indexes of `fields`, sorted by name; inlined structs are not in it.
    by_name: Vec<(u64, u16)>,
    /// Indexes of the fields that JSON has also when nobody has set them.
    shown: Vec<u16>,
}

impl Field {
    /// Whether JSON has the field when it was set to zero.
    pub(super) fn keeps_zero(&self) -> bool {
        self.pointer || self.always
    }

    /// Whether JSON has the field also when nobody has set it: no tag leaves out a struct.
    fn is_shown(&self) -> bool {
        self.always || (self.kind == b'm' && self.shape == Shape::One && !self.pointer)
    }
}

impl Message {
    /// The fields that JSON has also when nobody has set them.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Field> {
        self.shown.iter().map(|i| &self.fields[*i as usize])
    }

    pub(super) fn tagged(&self, tag: u32) -> Option<&Field> {
        self.fields.binary_search_by_key(&tag, |f| f.tag).ok().map(|i| &self.fields[i])
    }

    pub(super) fn named(&self, name: &str) -> Option<&Field> {
        let begins = beginning(name);
        let order = |(b, i): &(u64, u16)| b.cmp(&begins).then_with(|| self.fields[*i as usize].name.cmp(name));
        let found = self.by_name.binary_search_by(order).ok()?;
        Some(&self.fields[self.by_name[found].1 as usize])
    }

    pub(super) fn inlined(&self) -> impl Iterator<Item = &Field> {
        // None in nearly all messages: what is named are all fields then.
        let none = self.by_name.len() == self.fields.len();
        self.fields.iter().filter(move |f| !none && f.name == "~")
    }
}

/// The first eight bytes of a name as a number of the same order: most names differ in them, and
/// every field of every object is looked up.
fn beginning(name: &str) -> u64 {
    let mut bytes = [0; 8];
    let length = name.len().min(8);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    u64::from_be_bytes(bytes)
}

const NONE: u16 = u16::MAX;

struct Table {
    messages: Vec<Message>,
    names: HashMap<&'static str, u16>,
}

static ALL: LazyLock<Table> = LazyLock::new(|| {
    let headings = TABLE.lines().filter(|l| !l.starts_with(' '));
    let names: HashMap<&'static str, u16> = headings.zip(0u16..).collect();
    let mut messages: Vec<Message> = Vec::with_capacity(names.len());
    for line in TABLE.lines() {
        match line.strip_prefix(' ') {
            None => messages.push(Message {
                special: special(line),
                fields: Vec::new(),
                by_name: Vec::new(),
                shown: Vec::new(),
            }),
            Some(rest) => {
                if let (Some(m), Some(f)) = (messages.last_mut(), field(rest, &names)) {
                    m.fields.push(f);
                }
            }
        }
    }
    for m in &mut messages {
        m.fields.sort_by_key(|f| f.tag);
        let named = (0u16..).zip(&m.fields).filter(|(_, f)| f.name != "~");
        m.by_name = named.map(|(i, f)| (beginning(f.name), i)).collect();
        m.shown = m.by_name.iter().map(|(_, i)| *i).filter(|i| m.fields[*i as usize].is_shown()).collect();
        m.by_name.sort_by_key(|(_, i)| m.fields[*i as usize].name);
    }
    Table { messages, names }
});

fn field(line: &'static str, names: &HashMap<&'static str, u16>) -> Option<Field> {
    let mut parts = line.split(' ');
    let (tag, name, kind) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let shape = match kind.as_bytes().get(1) {
        Some(b'*') => Shape::Many,
        Some(b'%') => Shape::Map,
        _ => Shape::One,
    };
    let of = parts.next().and_then(|n| names.get(n)).copied().unwrap_or(NONE);
    let (pointer, always) = (kind.contains('?'), kind.ends_with('!'));
    Some(Field { tag, name, kind: kind.as_bytes()[0], shape, pointer, always, of })
}

fn special(message: &str) -> Special {
    match message.rsplit('.').next().unwrap_or_default() {
        "Time" => Special::Time,
        "MicroTime" => Special::MicroTime,
        "Quantity" => Special::Quantity,
        "IntOrString" => Special::IntOrString,
        "FieldsV1" | "RawExtension" | "JSON" => Special::Raw,
        "ExtraValue" | "Verbs" => Special::Items,
        "JSONSchemaPropsOrBool" => Special::OrBool,
        "JSONSchemaPropsOrArray" => Special::OrArray,
        "JSONSchemaPropsOrStringArray" => Special::OrStringArray,
        _ => Special::Plain,
    }
}

/// The message of a field of messages.
pub(super) fn of(field: &Field) -> Option<&'static Message> {
    ALL.messages.get(field.of as usize)
}

/// The message of a kind.
pub(super) fn of_kind(api_version: &str, kind: &str) -> Option<&'static Message> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let short = match group {
        "" => "core",
        g => g.split('.').next().unwrap_or_default(),
    };
    let package = match group {
        "apiextensions.k8s.io" => format!("apiextensions_apiserver.pkg.apis.{short}.{version}"),
        "apiregistration.k8s.io" => format!("kube_aggregator.pkg.apis.{short}.{version}"),
        "" | "apps" | "autoscaling" | "batch" | "policy" => format!("api.{short}.{version}"),
        g if g.ends_with(".k8s.io") => format!("api.{short}.{version}"),
        // No group of upstream's.
        _ => return None,
    };
    let own = ALL.names.get(format!("{package}.{kind}").as_str());
    let index = own.or_else(|| ALL.names.get(format!("apimachinery.pkg.apis.meta.v1.{kind}").as_str()))?;
    ALL.messages.get(*index as usize)
}
