//! Custom resources: a CustomResourceDefinition becomes entries of the resource table, one for
//! each version it serves
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>).
//!
//! * [`schema`] – the structural schema of a version.  [`validation`] – values against it.
//! * [`costs`] – what its rules may cost.  [`defaulting`] – what it fills in.  [`jsonpath`] – printer columns.
//! * [`compiled`] – all that judges values, made when it is needed.
//! * [`conversion`] – the webhook that converts between versions.
//! * [`strategy`] – all of it as the behaviour of a kind.
//! * [`definition`] – the behaviour of CustomResourceDefinition itself; [`structural`] – what it
//!   demands of schemas.

pub mod compiled;
pub mod conversion;
mod costs;
pub mod defaulting;
pub mod definition;
mod formats;
pub mod jsonpath;
pub mod schema;
pub mod strategy;
mod structural;
pub mod validation;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::object::Object;
use crate::openapi::{CustomSchemas, Published};
use crate::resource::{Column, Convert, Resource, Subresource};
use crate::schema::TypeRef;
use compiled::Compiled;
use conversion::Webhook;
use jsonpath::JsonPath;
use strategy::{Custom, Printer};

/// Numbers of versions; 0 is none.
static NEXT: AtomicU64 = AtomicU64::new(1);
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What is left while a definition and its objects are being deleted.
const ENDING_VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "watch"];

/// One version of a custom resource: how stored objects are brought into it.
#[derive(Debug)]
pub struct Version {
    /// Tells it from all others there were.
    number: u64,
    api_version: String,
    schema: TypeRef,
    compiled: Arc<Compiled>,
    webhook: Option<Arc<Webhook>>,
}

impl Version {
    /// Makes a stored object one of this version: what its schema does not know is dropped, what it
    /// has defaults for is filled in. Where a webhook converts, it has done so before, and this
    /// only drops what it should not have given.
    pub fn from_storage(&self, object: &mut Value) {
        if self.webhook.is_some() {
            if object["apiVersion"] == self.api_version.as_str() {
                self.prune(object);
            }
            return;
        }
        object["apiVersion"] = self.api_version.clone().into();
        self.prune(object);
        defaulting::apply(&self.compiled.parts().props, object);
    }

    /// Whether a stored object is known to be one of this version as it is.
    pub fn leaves(&self, object: &Object) -> bool {
        object.is_left_by(self.number)
    }

    /// Remembers that a stored object is one of this version as it is.
    pub fn found_to_leave(&self, object: &Object) {
        object.set_left_by(self.number);
    }

    /// The webhook that converts between the versions.
    pub fn webhook(&self) -> Option<&Arc<Webhook>> {
        self.webhook.as_ref()
    }

    fn prune(&self, object: &mut Value) {
        let taken = std::mem::take(object);
        // Stored objects were checked when they were written; a schema that has become narrower
        // since must not make them unreadable.
        *object = match crate::codec::check(taken.clone(), &self.schema) {
            Ok(decoded) => decoded.value,
            Err(_) => taken,
        };
    }
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn texts(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().map(text).collect()
}

/// A definition's condition is true.
pub fn is_true(definition: &Value, condition: &str) -> bool {
    let mut all = definition["status"]["conditions"].as_array().into_iter().flatten();
    all.any(|c| c["type"] == condition && c["status"] == "True")
}

/// What a definition whose names have been accepted adds to what is served.
#[derive(Default)]
pub struct Served {
    /// One entry for each version, the preferred one first.
    pub resources: Vec<Arc<Resource>>,
    /// Their schemas.
    pub schemas: CustomSchemas,
}

/// What a definition adds to what is served.
pub fn served(definition: &Value) -> Served {
    let spec = &definition["spec"];
    let ending = !definition["metadata"]["deletionTimestamp"].is_null();
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let storage = versions.iter().find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    // Objects that were stored by an older definition may not look like its present one.
    let changed = versions.len() > 1 || definition["metadata"]["generation"].as_i64().unwrap_or(1) > 1;
    let webhook = Webhook::of(definition);
    let mut all = Served::default();
    for version in versions.iter().filter(|v| v["served"] == true) {
        let schema = Arc::new(Published::new(&version["schema"]["openAPIV3Schema"]));
        let entry = entry(definition, version, schema.clone(), &storage, changed, webhook.clone(), ending);
        all.schemas.insert((entry.group.clone(), entry.version.clone(), entry.kind.clone()), schema);
        all.resources.push(Arc::new(entry));
    }
    all.resources.sort_by_key(|r| std::cmp::Reverse(priority(&r.version)));
    all
}

/// The entry under which the objects of a definition are stored, whether it is served or not.
pub fn storage_resource(definition: &Value) -> Resource {
    let versions = &definition["spec"]["versions"];
    let storage = versions.as_array().into_iter().flatten().find(|v| v["storage"] == true).unwrap_or(&Value::Null);
    let schema = Arc::new(Published::new(&storage["schema"]["openAPIV3Schema"]));
    entry(definition, storage, schema, storage["name"].as_str().unwrap_or_default(), false, None, false)
}

fn entry(
    definition: &Value,
    version: &Value,
    published: Arc<Published>,
    storage: &str,
    changed: bool,
    webhook: Option<Arc<Webhook>>,
    ending: bool,
) -> Resource {
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let (group, name, kind) = (text(&spec["group"]), text(&version["name"]), text(&names["kind"]));
    let schema = &version["schema"]["openAPIV3Schema"];
    let open = spec["preserveUnknownFields"] == true || schema.is_null();
    let t = if open { TypeRef::any_of(&group, &name, &kind) } else { TypeRef::custom(&group, &name, &kind, schema) };
    let compiled = Arc::new(Compiled::new(published));
    let mut subresources = Vec::new();
    let has_status = version["subresources"]["status"].is_object();
    if has_status {
        subresources.push(Subresource::Status);
    }
    if let Some(scale) = version["subresources"].get("scale").filter(|s| s.is_object()) {
        let pointer = |field: &str| text(&scale[field]).replace('.', "/");
        subresources.push(Subresource::Scale {
            spec_path: pointer("specReplicasPath"),
            status_path: pointer("statusReplicasPath"),
            selector_path: pointer("labelSelectorPath"),
        });
    }
    let printers = printers(version);
    let selectable: Vec<String> = version["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| text(&f["jsonPath"]).trim_start_matches('.').to_owned())
        .collect();
    let api_version = format!("{group}/{name}");
    let convert = (changed || schema::has_defaults(schema) || webhook.is_some()).then(|| {
        Convert::Custom(Arc::new(Version {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            api_version,
            schema: t.clone(),
            compiled: compiled.clone(),
            webhook,
        }))
    });
    Resource {
        list_kind: text(&names["listKind"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: if ending { ENDING_VERBS } else { VERBS }.to_vec(),
        unconditional_update: false,
        deprecation: deprecation(definition, version, &group, &kind),
        stored: true,
        subresources,
        selectable_fields: selectable,
        columns: columns(&printers),
        has_status,
        has_generation: true,
        storage_group: group.clone(),
        storage_version: storage.to_owned(),
        convert,
        strategy: Arc::new(Custom::new(kind.clone(), compiled, has_status, printers)),
        schema: t,
        group,
        version: name,
        kind,
    }
}

/// What is said of a version that will go: its own words, or which version to use instead.
fn deprecation(definition: &Value, version: &Value, group: &str, kind: &str) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(own) = version["deprecationWarning"].as_str() {
        return Some(own.to_owned());
    }
    let name = version["name"].as_str().unwrap_or_default();
    let said = format!("{group}/{name} {kind} is deprecated");
    let stays = |v: &&Value| v["served"] == true && v["deprecated"] != true;
    let names = definition["spec"]["versions"].as_array().into_iter().flatten().filter(stays);
    let newer = names.filter_map(|v| v["name"].as_str()).filter(|n| priority(n) > priority(name));
    Some(match newer.max_by_key(|n| priority(n)) {
        Some(better) => format!("{said}; use {group}/{better} {kind}"),
        None => said,
    })
}

/// The columns that a version prints after the name.
fn printers(version: &Value) -> Vec<Printer> {
    let given: Vec<Printer> = version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| {
            let path = JsonPath::parse(c["jsonPath"].as_str()?).ok()?;
            let column = Column {
                name: text(&c["name"]),
                kind: text(&c["type"]),
                format: text(&c["format"]),
                description: text(&c["description"]),
                priority: c["priority"].as_i64().unwrap_or(0) as i32,
            };
            Some(Printer { column, path })
        })
        .collect();
    if !given.is_empty() {
        return given;
    }
    let age = Column {
        name: "Age".into(),
        kind: "date".into(),
        format: String::new(),
        description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata".into(),
        priority: 0,
    };
    JsonPath::parse(".metadata.creationTimestamp").map(|path| vec![Printer { column: age, path }]).unwrap_or_default()
}

fn columns(printers: &[Printer]) -> Vec<Column> {
    let name = Column {
        name: "Name".into(),
        kind: "string".into(),
        format: "name".into(),
        description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names".into(),
        priority: 0,
    };
    std::iter::once(name).chain(printers.iter().map(|p| p.column.clone())).collect()
}

/// How versions are ordered: stable before beta before alpha, higher before lower, and names that
/// are no versions last, alphabetically
/// (upstream: `k8s.io/apimachinery/pkg/version.CompareKubeAwareVersionStrings`).
pub fn priority(version: &str) -> impl Ord + use<> {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok().filter(|m| *m > 0)?;
        let stage = &rest[digits..];
        if stage.is_empty() {
            return Some((2, major, 0));
        }
        let (rank, minor) = match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
            (Some(n), _) => (1, n),
            (_, Some(n)) => (0, n),
            _ => return None,
        };
        Some((rank, major, minor.parse().ok().filter(|m| *m > 0)?))
    };
    (parse(), std::cmp::Reverse(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_upstream_orders_them() {
        let mut all = ["foo1", "v11alpha2", "v10", "v2", "foo10", "v3beta1", "v11beta2", "v12alpha1", "v10beta3", "v1"];
        all.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        let wanted = ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        assert_eq!(all, wanted);
    }

    #[test]
    fn a_version_that_will_go_names_the_one_to_use_or_says_it_in_its_own_words() {
        let definition = serde_json::json!({"spec": {"versions": [
            {"name": "v1beta1", "served": true, "deprecated": true},
            {"name": "v1", "served": true},
            {"name": "v2", "served": false},
            {"name": "v1alpha1", "served": true, "deprecated": true, "deprecationWarning": "too old"},
        ]}});
        let said = |at: usize| deprecation(&definition, &definition["spec"]["versions"][at], "g.io", "Thing");
        assert_eq!(said(0).as_deref(), Some("g.io/v1beta1 Thing is deprecated; use g.io/v1 Thing"));
        assert_eq!(said(1), None);
        assert_eq!(said(3).as_deref(), Some("too old"));
    }
}

#[cfg(test)]
mod fuzz_tests;
