//! `xtask protobuf <folder> <out.txt>`: the table of protobuf fields.
//!
//! The folder holds upstream's published Go modules `api`, `apimachinery`, `apiextensions-apiserver` and
//! `kube-aggregator` of one minor. Facts only are read: messages, field numbers and wire types off their
//! `generated.proto`, JSON names and whether a field is a pointer off the tags of the Go structs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// What the Go struct says of a field.
struct GoField {
    json: String,
    inline: bool,
    presence: &'static str,
}

struct Field {
    tag: u32,
    name: String,
    kind: &'static str,
    shape: &'static str,
    presence: &'static str,
    of: Option<String>,
}

type Messages = BTreeMap<String, Vec<Field>>;
/// By message and field number.
type GoFields = BTreeMap<(String, u32), GoField>;

/// Writes the table.
pub fn run(modules: &Path, out: &Path) -> Result<()> {
    let mut messages = Messages::new();
    read_directory(modules, &mut messages)?;
    std::fs::write(out, table(&messages))?;
    Ok(())
}

fn read_directory(directory: &Path, messages: &mut Messages) -> Result<()> {
    let proto = directory.join("generated.proto");
    if proto.exists() {
        let text = std::fs::read_to_string(&proto)?;
        let package = text.lines().find_map(|l| l.strip_prefix("package ")).context("a .proto without a package")?;
        let package = package.trim_end_matches(';').trim_start_matches("k8s.io.").to_owned();
        let go = go_fields(directory, &package)?;
        read_proto(&text, &package, &go, messages);
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_directory(&path, messages)?;
        }
    }
    Ok(())
}

fn go_fields(directory: &Path, package: &str) -> Result<GoFields> {
    let mut all = GoFields::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("generated") {
            read_go(&std::fs::read_to_string(&path)?, package, &mut all);
        }
    }
    Ok(all)
}

/// Reads lines such as `Replicas *int32 json:"replicas,omitempty" protobuf:"varint,1,opt,name=replicas"`.
fn read_go(text: &str, package: &str, all: &mut GoFields) {
    let mut current = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("type ").and_then(|l| l.strip_suffix(" struct {")) {
            current = name.trim().to_owned();
            continue;
        }
        let line = line.trim();
        let Some((declaration, tags)) = line.split_once('`').filter(|_| !line.starts_with("//")) else { continue };
        let tag_of = |key: &str| tags.split(&format!("{key}:\"")).nth(1).and_then(|t| t.split('"').next());
        let Some(number) = tag_of("protobuf").and_then(|t| t.split(',').nth(1)).and_then(|n| n.parse().ok()) else {
            continue;
        };
        let json = tag_of("json").unwrap_or_default();
        let words: Vec<&str> = declaration.split_whitespace().collect();
        let kind = words.last().copied().unwrap_or_default();
        let always = !json.is_empty() && !json.contains(",omitempty") && !json.contains(",omitzero");
        // What Go leaves out when it is zero is as good as a pointer.
        let pointer = kind.starts_with('*') || json.contains(",omitzero");
        let presence = match (pointer, always) {
            (true, true) => "?!",
            (true, false) => "?",
            (false, true) => "!",
            (false, false) => "",
        };
        let field = GoField {
            json: json.split(',').next().unwrap_or_default().to_owned(),
            inline: json.contains(",inline"),
            presence,
        };
        all.insert((format!("{package}.{current}"), number), field);
    }
}

fn read_proto(text: &str, package: &str, go: &GoFields, messages: &mut Messages) {
    let mut current = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("message ") {
            current = format!("{package}.{}", name.trim_end_matches([' ', '{']));
            messages.entry(current.clone()).or_default();
        } else if let Some(field) = proto_field(line, package, &current, go) {
            messages.entry(current.clone()).or_default().push(field);
        }
    }
}

/// Reads lines such as `optional string name = 1;` and `map<string, .k8s.io.x.Y> items = 2;`.
fn proto_field(line: &str, package: &str, message: &str, go: &GoFields) -> Option<Field> {
    let (declaration, number) = line.strip_suffix(';')?.split_once(" = ")?;
    let tag: u32 = number.trim().parse().ok()?;
    let (kind, name) = declaration.rsplit_once(' ')?;
    let (shape, kind) = match kind.split_once(' ') {
        Some(("optional", k)) => ("", k),
        Some(("repeated", k)) => ("*", k),
        _ => ("%", kind.strip_prefix("map<string, ")?.strip_suffix('>')?),
    };
    let (letter, of) = match kind {
        "string" => ("s", None),
        "bytes" => ("b", None),
        "int32" | "int64" | "uint32" | "uint64" => ("i", None),
        "bool" => ("B", None),
        "double" => ("d", None),
        other => match other.strip_prefix(".k8s.io.") {
            Some(full) => ("m", Some(full.to_owned())),
            None => ("m", Some(format!("{package}.{other}"))),
        },
    };
    let of_go = go.get(&(message.to_owned(), tag));
    let json = match of_go {
        Some(g) if g.inline && g.json.is_empty() => "~".to_owned(),
        Some(g) if !matches!(g.json.as_str(), "" | "-") => g.json.clone(),
        _ => name.to_owned(),
    };
    let presence = of_go.map_or("", |g| g.presence);
    Some(Field { tag, name: json, kind: letter, shape, presence, of })
}

/// What is reachable from the kinds of stable versions, nothing else.
fn table(messages: &Messages) -> String {
    const STABLE: [&str; 2] = [".v1", ".v2"];
    let is_root = |m: &str| {
        let package = m.rsplit_once('.').map_or("", |(p, _)| p);
        STABLE.iter().any(|v| package.ends_with(v)) && !package.contains("testapigroup")
    };
    let mut wanted: BTreeSet<&String> = BTreeSet::new();
    let mut queue: Vec<&String> = messages.keys().filter(|m| is_root(m)).collect();
    while let Some(m) = queue.pop() {
        if wanted.insert(m) {
            queue.extend(messages[m].iter().filter_map(|f| f.of.as_ref()).filter(|o| messages.contains_key(*o)));
        }
    }
    let mut out = String::new();
    for message in wanted {
        let _ = writeln!(out, "{message}");
        for f in &messages[message] {
            let of = f.of.as_deref().map(|o| format!(" {o}")).unwrap_or_default();
            let _ = writeln!(out, " {} {} {}{}{}{of}", f.tag, f.name, f.kind, f.shape, f.presence);
        }
    }
    out
}
