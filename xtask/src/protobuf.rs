//! `xtask protobuf <k8s-pb source> <schemas.json.gz> <out.txt>`: the table of field numbers.
//!
//! Facts only: message names and field numbers are read off the attributes of the k8s-pb crate's
//! structs (Apache-2.0, the same minor), JSON names off the schema data. A message field without a
//! JSON property of its name is a struct that Go inlines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

struct Field {
    tag: u32,
    name: String,
    kind: &'static str,
    repeated: bool,
    map: bool,
    of: Option<String>,
}

type Messages = BTreeMap<String, Vec<Field>>;

/// Writes the table.
pub fn run(source: &Path, schemas: &Path, out: &Path) -> Result<()> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(schemas)?).read_to_string(&mut text)?;
    let data: Value = serde_json::from_str(&text)?;
    let definitions = data["definitions"].as_object().context("the schema data has no definitions")?;
    let mut messages = Messages::new();
    read_directory(&source.join("src"), &source.join("src"), &mut messages)?;
    let messages = with_names_of(definitions, messages);
    std::fs::write(out, table(&messages, definitions))?;
    Ok(())
}

/// Generated structs say `CsiDriver` where the API says `CSIDriver`.
fn with_names_of(definitions: &serde_json::Map<String, Value>, messages: Messages) -> Messages {
    let proper: BTreeMap<String, &String> = definitions.keys().map(|d| (d.to_lowercase(), d)).collect();
    let fix = |name: String| proper.get(&name.to_lowercase()).map_or(name, |d| (*d).clone());
    let field = |f: Field| Field { of: f.of.map(fix), ..f };
    messages.into_iter().map(|(m, fields)| (fix(m), fields.into_iter().map(field).collect())).collect()
}

fn read_directory(root: &Path, directory: &Path, messages: &mut Messages) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_directory(root, &path, messages)?;
        } else if path.ends_with("mod.rs") {
            let module: Vec<String> = path
                .parent()
                .and_then(|p| p.strip_prefix(root).ok())
                .map(|p| p.iter().map(|s| s.to_string_lossy().into_owned()).collect())
                .unwrap_or_default();
            read_file(&std::fs::read_to_string(&path)?, &module, messages);
        }
    }
    Ok(())
}

fn read_file(text: &str, module: &[String], messages: &mut Messages) {
    let (mut current, mut attribute, mut declaration) = (None::<String>, None::<String>, String::new());
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{']).next().unwrap_or_default();
            let full = full_name(module, name);
            messages.entry(full.clone()).or_default();
            current = Some(full);
        } else if line.starts_with("#[prost(") && line.contains("tag") {
            attribute = Some(line.to_owned());
            declaration.clear();
        } else if attribute.is_some() && !line.starts_with("#[") && !line.starts_with("//") {
            declaration.push_str(line);
            let closed = declaration.matches('<').count() == declaration.matches('>').count();
            if closed && line.ends_with(',') {
                if let (Some(message), Some(field)) =
                    (&current, field(&attribute.take().unwrap_or_default(), &declaration, module))
                {
                    messages.entry(message.clone()).or_default().push(field);
                }
                attribute = None;
            }
        }
    }
}

fn full_name(module: &[String], name: &str) -> String {
    format!("io.k8s.{}.{name}", module.join("."))
}

fn field(attribute: &str, declaration: &str, module: &[String]) -> Option<Field> {
    let tag = attribute.split("tag = \"").nth(1)?.split('"').next()?.parse().ok()?;
    let (name, kind_text) = declaration.strip_prefix("pub ")?.split_once(':')?;
    let map = attribute.contains("map = ");
    let value = if map {
        attribute.split("map = \"").nth(1)?.split('"').next()?.split(", ").nth(1)?
    } else {
        attribute.strip_prefix("#[prost(")?.split([',', ' ', '=']).next()?
    };
    let kind = match value {
        "string" => "s",
        "bytes" => "b",
        "int32" | "int64" | "uint32" | "uint64" => "i",
        "bool" => "B",
        "double" => "d",
        _ => "m",
    };
    let of = (kind == "m").then(|| resolve(kind_text, module)).flatten();
    Some(Field {
        tag,
        name: name.trim().trim_start_matches("r#").to_owned(),
        kind,
        repeated: attribute.contains("repeated"),
        map,
        of,
    })
}

/// The full name of the last type in a declaration such as `Option<super::core::v1::Pod>`.
fn resolve(declaration: &str, module: &[String]) -> Option<String> {
    let inner = declaration.trim_end_matches([',', '>', ' ']);
    let inner = inner.rsplit(['<', ' ', ',']).next()?;
    let mut path: Vec<String> = module.to_vec();
    let mut parts: Vec<&str> = inner.split("::").collect();
    let name = parts.pop()?;
    for p in parts {
        match p {
            "super" => {
                path.pop();
            }
            p => path.push(p.to_owned()),
        }
    }
    Some(full_name(&path, name))
}

fn flat(s: &str) -> String {
    s.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

fn camel(s: &str) -> String {
    let mut out = String::new();
    for (i, part) in s.trim_end_matches('_').split('_').enumerate() {
        let mut chars = part.chars();
        match chars.next() {
            Some(c) if i > 0 => out.extend(c.to_uppercase().chain(chars)),
            Some(c) => out.extend(std::iter::once(c).chain(chars)),
            None => {}
        }
    }
    out
}

fn table(messages: &Messages, definitions: &serde_json::Map<String, Value>) -> String {
    let properties = |name: &str| -> BTreeMap<String, String> {
        let p = definitions.get(name).and_then(|d| d["properties"].as_object());
        p.into_iter().flatten().map(|(k, _)| (flat(k), k.clone())).collect()
    };
    // Inlined structs take their JSON names from those that inline them.
    let mut inherited: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut inlined: BTreeSet<(String, u32)> = BTreeSet::new();
    for (message, fields) in messages.iter().filter(|(m, _)| definitions.contains_key(*m)) {
        let own = properties(message);
        for f in fields.iter().filter(|f| f.kind == "m" && !f.repeated && !f.map && !own.is_empty()) {
            if !own.contains_key(&flat(&f.name))
                && let Some(of) = &f.of
            {
                inlined.insert((message.clone(), f.tag));
                inherited.entry(of.clone()).or_default().extend(own.clone());
            }
        }
    }
    // What is reachable from a definition is kept, nothing else.
    let mut wanted: BTreeSet<&String> = BTreeSet::new();
    let mut queue: Vec<&String> = messages.keys().filter(|m| definitions.contains_key(*m)).collect();
    while let Some(m) = queue.pop() {
        if wanted.insert(m) {
            queue.extend(messages[m].iter().filter_map(|f| f.of.as_ref()).filter(|o| messages.contains_key(*o)));
        }
    }
    let mut out = String::new();
    for message in wanted {
        let mut names = properties(message);
        names.extend(inherited.get(message).cloned().unwrap_or_default());
        let _ = writeln!(out, "{}", message.trim_start_matches("io.k8s."));
        for f in &messages[message] {
            let json = if inlined.contains(&(message.clone(), f.tag)) {
                "~".to_owned()
            } else {
                names.get(&flat(&f.name)).cloned().unwrap_or_else(|| camel(&f.name))
            };
            let shape = if f.map {
                "%"
            } else if f.repeated {
                "*"
            } else {
                ""
            };
            let of = f.of.as_deref().map(|o| format!(" {}", o.trim_start_matches("io.k8s."))).unwrap_or_default();
            let _ = writeln!(out, " {} {json} {}{shape}{of}", f.tag, f.kind);
        }
    }
    out
}
