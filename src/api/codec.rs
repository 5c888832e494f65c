//! Decoding of request bodies against a schema, as strict or lenient as the request asks.
//!
//! bytes -> tree (duplicate keys noted, last one kept) -> tree with checked types, without unknown
//! fields. What upstream's Go decoder does to values on the way is done here too: null is absent,
//! times are in UTC, quantities are canonical, empty optional lists and maps are dropped.
//! Custom resources keep null, wrong types and empty values: their own validation judges those.

mod check;
mod tree;

pub use check::json_kind;

use serde_json::Value;

use crate::schema::TypeRef;
use crate::status::Status;

/// How deep objects and lists may nest in what a client sends and in what is stored. Upstream reads
/// 10 000 levels; here every reader of an answer, a list, a watch event or a review around the object
/// must get along with the 128 that JSON readers allow on the stack, its managed fields included.
pub const NESTING_MAX: usize = 110;

/// An object with types checked, and what was wrong with its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The object without unknown fields.
    pub value: Value,
    /// Paths of fields that the type does not have: `spec.foo`.
    pub unknown: Vec<String>,
    /// Paths of fields that occur twice: `metadata.name`.
    pub duplicate: Vec<String>,
}

impl Decoded {
    /// What upstream's strict decoder reports, in its order: `unknown field "spec.foo"`,
    /// `duplicate field "metadata.name"`.
    pub fn strict_errors(&self) -> Vec<String> {
        let duplicate = self.duplicate.iter().map(|p| format!("duplicate field \"{p}\""));
        let unknown = self.unknown.iter().map(|p| format!("unknown field \"{p}\""));
        duplicate.chain(unknown).collect()
    }
}

/// Parses a body and checks it against a type.
///
/// # Errors
/// 400 in upstream's words for syntax errors and wrong types.
pub fn decode(body: &[u8], yaml: bool, t: &TypeRef) -> Result<Decoded, Status> {
    let (value, duplicate) = tree::parse(body, yaml).map_err(|e| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {e} ({})",
            t.group_version_kind().map_or("", |(_, _, kind)| kind),
            summary(body)
        ))
    })?;
    let mut decoded = check(value, t)?;
    decoded.duplicate = duplicate;
    Ok(decoded)
}

/// A configuration that is to be applied.
#[derive(Debug)]
pub struct Configuration {
    /// As it was sent.
    pub sent: Value,
    /// As it was understood.
    pub decoded: Decoded,
}

/// Parses and checks a configuration that is to be applied to an object of the type. What upstream
/// refuses there is refused whatever the field validation: fields that the type does not have; with
/// `strict` also keys that occur twice.
///
/// # Errors
/// 400 or 500, as upstream.
pub fn decode_applied(body: &[u8], t: &TypeRef, strict: bool) -> Result<Configuration, Status> {
    let refused = |e: String| Status::bad_request(format!("error decoding YAML: {e}"));
    let (sent, duplicate) = tree::parse(body, true).map_err(refused)?;
    if strict && let Some(path) = duplicate.first() {
        let key = path.rsplit('.').next().unwrap_or_default();
        let line = tree::line_of_duplicate(body).unwrap_or_default();
        return Err(Status::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map"
        )));
    }
    if !sent.is_object() {
        let kind = check::json_kind(&sent);
        return Err(refused(format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        )));
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&sent["apiVersion"]), text(&sent["kind"]));
    // As Go prints a group, version and kind.
    let shown = match api_version.contains('/') {
        true => format!("{api_version}, Kind={kind}"),
        false => format!("/{api_version}, Kind={kind}"),
    };
    if let Some((group, version, expected)) = t.group_version_kind()
        && (crate::resource::api_version(group, version) != api_version || kind != expected)
    {
        return Err(Status::bad_request(format!("invalid object type: {shown}")));
    }
    if nests_deeper(&sent, NESTING_MAX) {
        return Err(refused(tree::TOO_DEEP.to_owned()));
    }
    let problems = crate::managed::problems(&sent, t);
    if !problems.is_empty() {
        let what = if problems.len() == 1 { "" } else { "errors:\n  " };
        let (meta, problems) = (&sent["metadata"], problems.join("\n  "));
        let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
        let message = format!("failed to create typed patch object ({namespace}/{name}; {shown}): {what}{problems}");
        return Err(Status::new(500, "", message));
    }
    let mut decoded = check(sent.clone(), t)?;
    decoded.duplicate = duplicate;
    Ok(Configuration { sent, decoded })
}

/// Checks a tree (for example after a patch) against a type.
///
/// # Errors
/// 400 in upstream's words for wrong types.
pub fn check(value: Value, t: &TypeRef) -> Result<Decoded, Status> {
    let (_, version, kind) = t.group_version_kind().unwrap_or_default();
    let (version, kind) = (version.to_owned(), kind.to_owned());
    let refused =
        |e: String| Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {e}"));
    if nests_deeper(&value, NESTING_MAX) {
        return Err(refused(tree::TOO_DEEP.to_owned()));
    }
    let (value, unknown) = check::check(value, t).map_err(refused)?;
    Ok(Decoded { value, unknown, duplicate: Vec::new() })
}

/// What upstream's converter of trees says where its JSON decoder says that a value has the wrong
/// type; `None` for other messages.
pub fn unconvertible(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("json: cannot unmarshal ")?;
    let (is, rest) = rest.split_once(' ')?;
    let (_, wanted) = rest.rsplit_once(" of type ")?;
    let is = match is {
        "number" => "int64",
        "object" => "map",
        "array" => "slice",
        other => other,
    };
    Some(match wanted {
        w if w.starts_with("map[") => format!("cannot restore map from {is}"),
        w if w.starts_with("[]") => format!("cannot restore slice from {is}"),
        // These decode themselves.
        "intstr.IntOrString" | "resource.Quantity" | "v1.Time" | "v1.MicroTime" => {
            format!("json: {}", message.split_once("json: ")?.1)
        }
        w if w.contains('.') => format!("cannot restore struct from: {is}"),
        "string" if is == "int64" => "cannot convert int64 to string".to_owned(),
        w => format!("unrecognized type: {w}"),
    })
}

/// Whether objects and lists nest deeper than so many levels.
pub(crate) fn nests_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(map) => levels == 0 || map.values().any(|v| nests_deeper(v, levels - 1)),
        Value::Array(list) => levels == 0 || list.iter().any(|v| nests_deeper(v, levels - 1)),
        _ => false,
    }
}

/// Parses JSON or YAML without a schema.
///
/// # Errors
/// 400 for syntax errors.
pub fn parse_tree(body: &[u8], yaml: bool) -> Result<Value, Status> {
    tree::parse(body, yaml).map(|(value, _)| value).map_err(Status::bad_request)
}

/// Parses every document of a YAML (or JSON) stream; empty documents are skipped.
///
/// # Errors
/// 400 for syntax errors.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, Status> {
    tree::documents(text).map_err(Status::bad_request)
}

/// The start of a body, as upstream shows it in errors.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let more = if body.len() > MAX { " ..." } else { "" };
    let start = &body[..body.len().min(MAX)];
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
