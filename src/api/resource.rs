//! What the generic machinery knows of a resource: facts in a table, behaviour in a few functions.
//!
//! A built-in kind and a custom resource are the same [`Resource`]; the latter is made at run time.
//! The generic machinery never matches on a kind.

use std::sync::Arc;

use serde_json::Value;

use crate::field::ErrorList;
use crate::schema::TypeRef;

/// A printer column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading, such as `Ready`.
    pub name: String,
    /// `string`, `integer`, `date`, `boolean`, `number`.
    pub kind: String,
    /// `name` for the name column, else usually empty.
    pub format: String,
    /// What the column shows.
    pub description: String,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
}

/// A subresource and what it is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `/status`: an update of it changes status only.
    Status,
    /// Another part of the object that only an update of this subresource changes; the strategy
    /// says which (`approval` of certificate signing requests).
    Aspect(&'static str),
    /// `/scale` for kinds with `spec.replicas`.
    Scale {
        /// Path of the desired replicas, such as `/spec/replicas`.
        spec_path: String,
        /// Path of the observed replicas.
        status_path: String,
        /// Path of the selector: a serialized string or a label selector / map.
        selector_path: String,
    },
    /// Any other subresource; the server has a handler for it by this name.
    Other {
        /// `log`, `exec`, `binding` ...
        name: &'static str,
        /// Kind of its body, such as `Binding`, with its group and version where they are not the parent's.
        kind: &'static str,
        /// Group of `kind`.
        group: &'static str,
        /// Version of `kind`.
        version: &'static str,
        /// Verbs in discovery.
        verbs: &'static [&'static str],
    },
}

impl Subresource {
    /// The path segment.
    pub fn name(&self) -> &str {
        match self {
            Subresource::Status => "status",
            Subresource::Aspect(name) => name,
            Subresource::Scale { .. } => "scale",
            Subresource::Other { name, .. } => name,
        }
    }
}

/// The behaviour of a kind. Every function is pure; each has a default that does nothing.
///
/// All take the whole object as JSON of the resource's storage version, already decoded
/// against the schema (types are right, `metadata` is an object, unknown fields are gone).
pub trait Strategy: Send + Sync {
    /// Fills in defaults, as upstream's `SetDefaults_*`; idempotent.
    fn default(&self, _object: &mut Value) {}
    /// Before a create: drops what a client may not set (usually status is dropped by the machinery already).
    fn prepare_create(&self, _object: &mut Value) {}
    /// Before an update of the main resource: copies over what may not change, beyond status and metadata.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}
    /// Before an update of `status`: beyond copying everything but status from the old object.
    fn prepare_status(&self, _new: &mut Value, _old: &Value) {}
    /// Which metadata an update of the status leaves as they are, besides owner references and finalizers.
    fn status_keeps(&self) -> &'static [&'static str] {
        &[]
    }
    /// Before an update of another part of the object, by its subresource: copies over what that
    /// may not change. The default lets it change nothing but metadata.
    fn prepare_aspect(&self, _aspect: &str, new: &mut Value, old: &Value) {
        let metadata = new["metadata"].take();
        new.clone_from(old);
        new["metadata"] = metadata;
    }
    /// Whether a change from old to new advances `metadata.generation` (the default compares `spec`).
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        new.get("spec") != old.get("spec")
    }
    /// All that is wrong with a new object.
    fn validate(&self, _object: &Value) -> ErrorList {
        ErrorList::new()
    }
    /// All that is wrong with an update; called in addition to [`Strategy::validate`] on the new object.
    fn validate_update(&self, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }
    /// All that is wrong with an update, with the new object and with what changed.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(new);
        errors.extend(self.validate_update(new, old));
        errors
    }
    /// All that is wrong with a status update.
    fn validate_status(&self, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }
    /// All that is wrong with an update of another part of the object.
    fn validate_aspect(&self, _aspect: &str, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }
    /// The cells of the Table row, one for each of the resource's columns. `now` is the RFC 3339
    /// time against which ages are shown.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        crate::table::default_cells(object, now)
    }
    /// The value of a selectable field beyond `metadata.name` and `metadata.namespace`: by default
    /// the field of that path; `None` when the object has no such field.
    fn field(&self, object: &Value, path: &str) -> Option<String> {
        field_at(object, path)
    }
    /// Warnings sent with the response to a create or update (`Warning: 299`).
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }
    /// Warnings sent with the response to an update.
    fn update_warnings(&self, new: &Value, _old: &Value) -> Vec<String> {
        self.warnings(new)
    }
    /// The grace period for a deletion without one, in seconds; `None` deletes at once (all but pods).
    fn default_grace_seconds(&self, _object: &Value) -> Option<i64> {
        None
    }
    /// Whether a finished deletion answers with the object instead of a `Status` (pods and some others).
    fn returns_deleted(&self) -> bool {
        false
    }
    /// Whether a deletion that says nothing about dependents leaves them alone (two old kinds).
    fn orphans_by_default(&self) -> bool {
        false
    }
    /// Called when deletion is requested of an object that stays for now (namespaces: phase Terminating).
    fn begin_deletion(&self, _object: &mut Value) {}
    /// Whether something besides `metadata.finalizers` holds the deletion (namespaces: `spec.finalizers`).
    fn holds_deletion(&self, _object: &Value) -> bool {
        false
    }
    /// Whether nobody manages fields of `spec`: once made it stays as it is.
    fn keeps_spec(&self) -> bool {
        false
    }
    /// Whether a PUT of an absent object creates it.
    fn creates_on_update(&self) -> bool {
        false
    }
    /// Whether objects are records of what happened: they go some time after they were last
    /// written, and their writes may wait a moment for others.
    fn is_transient(&self) -> bool {
        false
    }
    /// How names are checked.
    fn name_error(&self, name: &str) -> Option<String> {
        crate::names::dns1123_subdomain(name)
    }
}

/// The scalar of a path such as `spec.nodeName`, as a field selector shows it.
pub fn field_at(object: &Value, path: &str) -> Option<String> {
    match object.pointer(&format!("/{}", path.replace('.', "/")))? {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// How objects of a served version become objects of the storage version, and back.
#[derive(Clone)]
pub enum Convert {
    /// The two directions of a built-in kind; both set `apiVersion`.
    Builtin {
        /// From this entry's version to the stored one.
        to_storage: fn(&mut Value),
        /// From the stored version to this entry's.
        from_storage: fn(&mut Value),
    },
    /// A version of a custom resource.
    Custom(Arc<crate::custom::Version>),
}

impl Convert {
    /// Makes an object of `resource` one of its storage version.
    pub fn to_storage(&self, resource: &Resource, object: &mut Value) {
        match self {
            Convert::Builtin { to_storage, .. } => to_storage(object),
            // What a webhook converts is written in the version that it is sent in up to the store.
            Convert::Custom(version) if version.webhook().is_some() => {}
            Convert::Custom(_) => object["apiVersion"] = resource.storage_api_version().into(),
        }
    }

    /// Makes a stored object one of this version.
    pub fn from_storage(&self, object: &mut Value) {
        match self {
            Convert::Builtin { from_storage, .. } => from_storage(object),
            Convert::Custom(version) => version.from_storage(object),
        }
    }
}

/// A strategy with nothing of its own.
#[derive(Debug, Default)]
pub struct Plain;
impl Strategy for Plain {}

/// One served resource.
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// The version served under this entry.
    pub version: String,
    /// `Pod`
    pub kind: String,
    /// `PodList`
    pub list_kind: String,
    /// `pods`
    pub plural: String,
    /// `pod`
    pub singular: String,
    /// `po`
    pub short_names: Vec<String>,
    /// `all`
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs in discovery order; upstream sorts them alphabetically.
    /// A virtual resource has `create` only (reviews), or is only read (component statuses).
    pub verbs: Vec<&'static str>,
    /// That this version will go: a warning with every answer.
    pub deprecation: Option<String>,
    /// Whether objects are stored; virtual resources are answered by a handler of the server.
    pub stored: bool,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// The selectable fields beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<String>,
    /// Table columns.
    pub columns: Vec<Column>,
    /// Whether status is dropped on create and kept on update of the main resource.
    pub has_status: bool,
    /// Whether the kind counts `metadata.generation`.
    pub has_generation: bool,
    /// Whether an update may leave out the `resourceVersion` that it is based on.
    pub unconditional_update: bool,
    /// The group under which objects are stored, where another group serves the same objects.
    pub storage_group: String,
    /// The version in which objects are stored; all other behaviour but the schema works on it.
    pub storage_version: String,
    /// The kind's two directions between this version and the stored one; `None` when they are the same.
    pub convert: Option<Convert>,
    /// The schema type that decodes it.
    pub schema: TypeRef,
    /// Behaviour.
    pub strategy: Arc<dyn Strategy>,
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({}/{}/{})", self.group, self.version, self.plural)
    }
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `v1` or `apps/v1` of the stored objects.
    pub fn storage_api_version(&self) -> String {
        api_version(&self.storage_group, &self.storage_version)
    }

    /// Whether objects are stored in this very group and version.
    pub fn is_storage(&self) -> bool {
        self.convert.is_none()
    }

    /// The webhook that converts between this version and others. The pipeline then works on the
    /// version that is served, not on the stored one.
    pub fn webhook(&self) -> Option<&Arc<crate::custom::conversion::Webhook>> {
        match &self.convert {
            Some(Convert::Custom(version)) => version.webhook(),
            _ => None,
        }
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name() == name)
    }
}
