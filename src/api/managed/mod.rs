//! Who manages which fields, and server-side apply
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>;
//! upstream: `k8s.io/apimachinery/pkg/util/managedfields`).
//!
//! Pure functions over objects of one version; `metadata.managedFields` goes in and comes out.

mod field_set;
mod merge;
mod typed;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::protobuf::{Unset, put_unset};
use crate::schema::TypeRef;
use crate::status::{Cause, Status};
use crate::time::rfc3339;

pub use field_set::FieldSet;
pub use typed::problems;

/// Most entries of plain updates; the oldest are joined beyond.
const UPDATES: usize = 10;
/// The manager of entries that were joined.
const ANCIENT: &str = "ancient-changes";
/// The manager of what was there before anybody managed fields.
const BEFORE: &str = "before-first-apply";
/// Where kubectl's client-side apply keeps what it has applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Fields that nobody manages.
const UNMANAGED: [&[&str]; 10] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Who makes a request, as far as fields are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The field manager.
    pub name: &'a str,
    /// The version that the request is in.
    pub api_version: &'a str,
    /// The subresource; usually empty.
    pub subresource: &'a str,
    /// Whether status is a subresource, so that only it changes status.
    pub has_status: bool,
    /// Whether no request changes `spec`.
    pub keeps_spec: bool,
    /// What of the metadata no request for `status` changes.
    pub status_keeps: &'a [&'a str],
    /// The time.
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    /// Empty for an apply that has never changed a value.
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn into_value(self) -> Value {
        let mut v = Map::from_iter([
            ("manager".to_owned(), self.manager.into()),
            ("operation".to_owned(), self.operation.into()),
            ("apiVersion".to_owned(), self.api_version.into()),
            ("fieldsType".to_owned(), "FieldsV1".into()),
            ("fieldsV1".to_owned(), self.fields.into_value()),
        ]);
        if !self.time.is_empty() {
            v.insert("time".to_owned(), self.time.into());
        }
        if !self.subresource.is_empty() {
            v.insert("subresource".to_owned(), self.subresource.into());
        }
        Value::Object(v)
    }
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

/// Whether what a client has sent are entries; what is not counts as if it had not been sent.
fn are_entries(list: &[Value]) -> bool {
    list.iter().all(|e| {
        let of = |field: &str| e[field].as_str().unwrap_or_default();
        matches!(of("operation"), "Apply" | "Update") && of("fieldsType") == "FieldsV1" && !of("apiVersion").is_empty()
    })
}

fn entries(object: &Value) -> Vec<Entry> {
    let all = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    all.map(|e| Entry {
        manager: text(&e["manager"]),
        operation: text(&e["operation"]),
        api_version: text(&e["apiVersion"]),
        subresource: text(&e["subresource"]),
        time: text(&e["time"]),
        fields: FieldSet::parse(&e["fieldsV1"]),
    })
    .collect()
}

fn set_entries(object: &mut Value, mut all: Vec<Entry>) {
    all.retain(|e| !e.fields.is_empty());
    // Upstream's order: applies first, then by time, then by name.
    all.sort_by(|a, b| (&a.operation, &a.time, &a.manager).cmp(&(&b.operation, &b.time, &b.manager)));
    let list: Vec<Value> = all.into_iter().map(Entry::into_value).collect();
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    if list.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".into(), list.into());
    }
}

impl Manager<'_> {
    fn is(&self, e: &Entry, operation: &str) -> bool {
        e.manager == self.name && e.operation == operation && e.subresource == self.subresource
    }

    fn entry(&self, operation: &str, fields: FieldSet) -> Entry {
        Entry {
            manager: self.name.to_owned(),
            operation: operation.to_owned(),
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: rfc3339(self.now),
            fields,
        }
    }

    /// What of a set this request can manage.
    fn manageable(&self, mut set: FieldSet) -> FieldSet {
        // The metadata themselves are always there.
        set.children.entry("f:metadata".to_owned()).and_modify(|m| m.member = false);
        let set = UNMANAGED.iter().fold(set, |s, path| s.without(path));
        let set = if self.keeps_spec { set.without(&["spec"]) } else { set };
        match (self.subresource, self.has_status) {
            ("status", _) => {
                let set = set.only("status").union(&set.only("metadata"));
                self.status_keeps.iter().fold(set, |s, field| s.without(&["metadata", field]))
            }
            ("", true) => set.without(&["status"]),
            _ => set,
        }
    }
}

fn without_entries(object: &Value) -> Value {
    let mut o = object.clone();
    if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("managedFields");
    }
    o
}

/// Notes in `new` who manages its fields, after a write that was no apply. `old` is the object
/// before it (`None` for a creation) with its entries; entries that the client itself has sent
/// count in its place, and a list of one empty entry forgets them all.
pub fn update(manager: &Manager<'_>, t: &TypeRef, old: Option<&Value>, new: &mut Value) {
    let sent = new["metadata"]["managedFields"].as_array().cloned();
    let mut all = match (&sent, old) {
        (Some(list), _) if !list.is_empty() && are_entries(list) => entries(new),
        (Some(list), _) if matches!(&list[..], [e] if e.as_object().is_some_and(Map::is_empty)) => Vec::new(),
        (_, Some(old)) => entries(old),
        _ => Vec::new(),
    };
    if old.is_some() && all.is_empty() {
        // Nobody manages fields here until somebody applies.
        return set_entries(new, all);
    }
    let compared = match old {
        Some(old) => merge::compare(old, new, t),
        None => merge::compare(&nothing(new), new, t),
    };
    let (changed, removed) = (manager.manageable(compared.changed), compared.removed);
    if !changed.is_empty() || !removed.is_empty() {
        for e in &mut all {
            e.fields.subtract(&removed);
            if !manager.is(e, "Update") {
                e.fields.subtract(&changed);
            }
        }
    }
    if !changed.is_empty() {
        match all.iter_mut().find(|e| manager.is(e, "Update") && e.api_version == manager.api_version) {
            Some(e) => {
                e.fields.add(changed);
                e.time = rfc3339(manager.now);
            }
            None => all.push(manager.entry("Update", changed)),
        }
    }
    join_oldest(&mut all);
    set_entries(new, all);
}

/// An object before anything is said about it: of a built-in kind with the structs that are always
/// there.
fn nothing(object: &Value) -> Value {
    let mut nothing = json!({"apiVersion": object["apiVersion"], "kind": object["kind"]});
    put_unset(&mut nothing, Unset::All);
    nothing
}

/// Joins the oldest updates when there are too many.
fn join_oldest(all: &mut Vec<Entry>) {
    let mut updates: Vec<Entry> = all.extract_if(.., |e| e.operation == "Update").collect();
    updates.sort_by(|a, b| a.time.cmp(&b.time));
    while updates.len() > UPDATES {
        let (first, second) = (updates.remove(0), updates.remove(0));
        let fields = first.fields.union(&second.fields);
        updates.insert(0, Entry { manager: ANCIENT.to_owned(), fields, ..second });
    }
    all.append(&mut updates);
}

/// What applying `config` makes of `live` (`None` when it does not exist), with entries. `sent` is
/// the configuration as the client wrote it.
///
/// # Errors
/// 409 in upstream's words when others manage what would change, unless `force`.
pub fn apply(
    manager: &Manager<'_>,
    t: &TypeRef,
    live: Option<&Value>,
    config: &Value,
    sent: &Value,
    force: bool,
) -> Result<Value, Status> {
    let config = without_entries(config);
    // As it was sent: a null says something, too.
    let wanted = manager.manageable(FieldSet::of(sent, t));
    let Some(live) = live else {
        let mut object = config;
        set_entries(&mut object, vec![manager.entry("Apply", wanted)]);
        return Ok(object);
    };
    let mut all = entries(live);
    let current = without_entries(live);
    if all.is_empty() {
        // Nobody has managed fields here: what is there belongs to the past.
        let past = Manager { name: BEFORE, ..*manager };
        all.push(past.entry("Update", past.manageable(merge::compare(&nothing(&current), &current, t).changed)));
    }
    // What this request cannot manage it cannot change either.
    let config = restrict(manager, &config, live);
    let merged = merge::merge(&current, &config, t);
    let changed = merge::compare(&current, &merged, t).changed;
    // Who moves from client-side to server-side apply owns what it has applied before.
    let own = last_applied(manager, live).map(|o| unchanged(&o, &current, t)).unwrap_or_default();
    let mut conflicts = Vec::new();
    for e in all.iter().filter(|e| !manager.is(e, "Apply")) {
        let theirs = e.fields.both(&changed).both(&wanted).minus(&own);
        if !theirs.is_empty() {
            conflicts.push((e.clone(), theirs));
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    let last = all.iter().find(|e| manager.is(e, "Apply")).map(|e| e.fields.clone()).unwrap_or_default();
    for e in all.iter_mut().filter(|e| !manager.is(e, "Apply")) {
        e.fields = e.fields.minus(&changed.both(&wanted));
    }
    let others = all.iter().filter(|e| !manager.is(e, "Apply")).fold(FieldSet::default(), |s, e| s.union(&e.fields));
    let kept = others.union(&wanted);
    let cut = last.minus(&kept);
    let mut object = merge::remove(&merged, &cut, &kept, t).unwrap_or(merged);
    let mut entry = manager.entry("Apply", wanted);
    let before = all.extract_if(.., |e| manager.is(e, "Apply")).next();
    if object == current {
        // As upstream: the time is that of the last change of a value.
        entry.time = before.map(|e| e.time).unwrap_or_default();
    }
    all.push(entry);
    // What others managed and is gone is nobody's.
    let there = FieldSet::of(&object, t);
    for e in all.iter_mut().filter(|e| !manager.is(e, "Apply")) {
        let gone = e.fields.both(&cut).minus(&there);
        e.fields = e.fields.minus(&gone);
    }
    if last_applied(manager, live).is_some() {
        // Kept up, so that client-side apply can be used again.
        let mut sent = sent.clone();
        if let Some(annotations) = sent.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
        let mut text = serde_json::to_string(&sent).unwrap_or_default();
        text.push('\n');
        object["metadata"]["annotations"][LAST_APPLIED] = text.into();
    }
    set_entries(&mut object, all);
    Ok(object)
}

/// What kubectl has applied client-side before, when it is kubectl that applies.
fn last_applied(manager: &Manager<'_>, live: &Value) -> Option<Value> {
    if manager.name != "kubectl" {
        return None;
    }
    serde_json::from_str(live["metadata"]["annotations"][LAST_APPLIED].as_str()?).ok()
}

/// The fields that were applied and still have the value that was applied.
fn unchanged(applied: &Value, live: &Value, t: &TypeRef) -> FieldSet {
    let set = FieldSet::of(applied, t);
    let gone = set.minus(&FieldSet::of(live, t));
    set.minus(&merge::compare(applied, live, t).changed).minus(&gone)
}

/// The part of a configuration that a request of this subresource applies.
fn restrict(manager: &Manager<'_>, config: &Value, live: &Value) -> Value {
    let mut c = config.clone();
    let Some(map) = c.as_object_mut() else { return c };
    match (manager.subresource, manager.has_status) {
        ("status", _) => map.retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        ("", true) => {
            map.remove("status");
        }
        _ => {}
    }
    // The identity of the live object is not the configuration's to change.
    if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["creationTimestamp", "generation", "selfLink"] {
            match live["metadata"].get(field) {
                Some(v) if meta.contains_key(field) => meta.insert(field.into(), v.clone()),
                _ => meta.remove(field),
            };
        }
    }
    c
}

fn conflict(all: &[(Entry, FieldSet)]) -> Status {
    let name = |e: &Entry| {
        let mut s = format!("{:?}", e.manager);
        if !e.subresource.is_empty() {
            s += &format!(" with subresource {:?}", e.subresource);
        }
        if e.operation == "Update" {
            s += &format!(" using {}", e.api_version);
        }
        s
    };
    let mut causes = Vec::new();
    let mut parts = Vec::new();
    for (e, fields) in all {
        let paths = fields.paths();
        for path in &paths {
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {}", name(e)),
                field: path.clone(),
            });
        }
        parts.push(format!("conflicts with {}:\n- {}", name(e), paths.join("\n- ")));
    }
    if let [only] = &causes[..] {
        parts = vec![format!("{}: {}", only.message, only.field)];
    }
    let count = causes.len();
    let s = if count == 1 { "" } else { "s" };
    let mut status =
        Status::new(409, "Conflict", format!("Apply failed with {count} conflict{s}: {}", parts.join("\n")));
    status.details = Some(crate::status::Details { causes, ..Default::default() });
    status
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod fuzz_tests;
