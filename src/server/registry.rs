//! The one pipeline through which every object of every kind is read and written.
//!
//! A write: current state → change → defaults → mutating admission → prepare → validation →
//! validating admission → compare-and-set in the store. Nothing here matches on a kind; what
//! differs between kinds is in [`api::Strategy`]. In-process callers take the same path.

mod deletion;
mod list;
pub(crate) mod prepare;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use api::codec::{Configuration, Decoded};
use api::managed::Manager;
use api::protobuf::{Unset, drop_unset, put_unset};
use api::time::rfc3339;
use api::{Object, Resource, Status};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Expect;

use self::deletion::{delete_preconditions, finished_deletion, marked_for_deletion};
use self::prepare::{
    accept, default, finish, keep_all_but_status, keep_system_metadata, named, place, preconditions, shown,
};
use crate::admission::{Admission, Attributes, Operation, Reinvocation, Warnings};
use crate::audit::Record;
use crate::conversion::Conversions;
use crate::metrics::admission::{Phase, Times};
use crate::request::User;
use crate::storage::{self, Storage, WriteError};
use crate::watch_cache::{Cache, Caches};

pub use self::deletion::{DeleteOptions, Deleted};
pub use self::list::{At, Page, Selection};
pub use self::prepare::served;

/// How often a write without a resourceVersion is tried against a changing object.
const ATTEMPTS: usize = 32;
/// How often a generated name is tried.
const NAME_ATTEMPTS: usize = 8;

/// What happens with fields that a kind does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and a warning tells.
    #[default]
    Warn,
    /// They fail the request.
    Strict,
}

/// The circumstances of a write.
#[derive(Clone, Debug)]
pub struct WriteContext {
    /// Who writes.
    pub user: User,
    /// The time that timestamps show.
    pub now: Timestamp,
    /// Go through everything, store nothing.
    pub dry_run: bool,
    /// See [`FieldValidation`].
    pub field_validation: FieldValidation,
    /// Who manages the fields that change; see [`api::managed`].
    pub field_manager: String,
    /// What admission warns of, whatever comes of the write.
    pub warnings: Arc<Warnings>,
    /// Where the request is recorded, if it is.
    pub audit: Option<Arc<Record>>,
    /// Whether it is written through `scale`, which has passed admission itself.
    pub scaled: bool,
}

impl WriteContext {
    /// A plain write of a user, now.
    pub fn new(user: User) -> WriteContext {
        let field_manager = manager_of(&user.name).to_owned();
        let (now, field_validation) = (Timestamp::now(), FieldValidation::Warn);
        WriteContext {
            user,
            now,
            dry_run: false,
            field_validation,
            field_manager,
            warnings: Arc::default(),
            audit: None,
            scaled: false,
        }
    }

    /// The options of a create, update or delete, as admission shows them.
    pub fn options(&self, operation: Operation) -> Value {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if operation != Operation::Delete {
            options["fieldManager"] = self.field_manager.clone().into();
        }
        options
    }

    fn manager<'a>(&'a self, resource: &Resource, api_version: &'a str, subresource: &'a str) -> Manager<'a> {
        Manager {
            name: &self.field_manager,
            api_version,
            subresource: if self.scaled { "scale" } else { subresource },
            has_status: resource.has_status,
            keeps_spec: resource.strategy.keeps_spec(),
            status_keeps: resource.strategy.status_keeps(),
            now: self.now,
        }
    }
}

/// The field manager of those who do not name one: the components of upstream that have this
/// process's identities.
fn manager_of(user: &str) -> &str {
    match user {
        "system:kube-scheduler" => "kube-scheduler",
        "system:apiserver" => "kube-apiserver",
        u if u.starts_with("system:node:") => "kubelet",
        u if u.starts_with("system:serviceaccount:kube-system:") => "kube-controller-manager",
        _ => "unknown",
    }
}

fn to_storage(resource: &Resource, object: &mut Value) {
    if let Some(convert) = &resource.convert {
        convert.to_storage(resource, object);
    }
}

/// Notes in `new` who manages its fields after a write that is no apply; they are told as the version
/// of the request has them.
fn manage(ctx: &WriteContext, resource: &Resource, subresource: &str, old: Option<&Value>, new: &mut Value) {
    let version = resource.api_version();
    let manager = ctx.manager(resource, &version, subresource);
    if resource.convert.is_none() {
        return api::managed::update(&manager, &resource.schema, old, new);
    }
    let (old, mut shown) = (old.map(|o| served(resource, o)), served(resource, new).into_owned());
    api::managed::update(&manager, &resource.schema, old.as_deref(), &mut shown);
    let Some(meta) = new["metadata"].as_object_mut() else { return };
    match shown["metadata"].get_mut("managedFields") {
        Some(fields) => meta.insert("managedFields".into(), fields.take()),
        None => meta.remove("managedFields"),
    };
}

/// Where the entries of `metadata.managedFields` of a write come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fields {
    /// They follow from what changes.
    Follow,
    /// An apply has made them.
    Applied,
}

/// Result of a write.
#[derive(Debug)]
pub struct Written {
    /// The object as stored (or as it would be, for a dry run).
    pub object: Arc<Object>,
    /// Whether it came into being.
    pub created: bool,
    /// For the client's `Warning` headers.
    pub warnings: Vec<String>,
}

/// See the module.
pub struct Registry {
    times: Arc<Times>,
    storage: Arc<Storage>,
    caches: Arc<Caches>,
    /// Set once, after the plugins that read through the registry have been made.
    admission: OnceLock<Vec<Arc<dyn Admission>>>,
    conversions: OnceLock<Arc<Conversions>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

type Change<'a> = dyn Fn(&Value) -> Result<Decoded, Status> + Send + Sync + 'a;

impl Registry {
    /// A registry over a store and its caches.
    pub fn new(storage: Arc<Storage>, caches: Arc<Caches>) -> Registry {
        let (admission, conversions) = (OnceLock::new(), OnceLock::new());
        Registry { times: Arc::default(), storage, caches, admission, conversions }
    }

    /// Sets the admission plugins; only the first call counts.
    pub fn set_admission(&self, plugins: Vec<Arc<dyn Admission>>) {
        let _ = self.admission.set(plugins);
    }

    /// Sets who converts custom resources; only the first call counts.
    pub fn set_conversions(&self, conversions: Arc<Conversions>) {
        let _ = self.conversions.set(conversions);
    }

    /// Who converts custom resources between their versions.
    ///
    /// # Errors
    /// 503 before the server has started.
    pub fn conversions(&self) -> Result<&Arc<Conversions>, Status> {
        self.conversions.get().ok_or_else(|| Status::unavailable("the server is starting"))
    }

    /// What everything is stored in.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// How long admission takes.
    pub fn admission_times(&self) -> &Arc<Times> {
        &self.times
    }

    /// The caches.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// The cache of a resource.
    ///
    /// # Errors
    /// 404 when nothing is stored under it.
    pub fn cache(&self, resource: &Resource) -> Result<Arc<Cache>, Status> {
        self.caches.get(&storage::prefix(resource)).ok_or_else(Status::no_such_resource)
    }

    /// One object, from the latest state.
    ///
    /// # Errors
    /// 404.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.caches.fresh().await?;
        self.get_cached(resource, namespace, name)
    }

    /// One object, from a state as fresh as is asked for.
    ///
    /// # Errors
    /// 404; 504 for a revision that is not reached in time.
    pub async fn get_at(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        at: At,
    ) -> Result<Arc<Object>, Status> {
        match at {
            At::Consistent => self.caches.fresh().await?,
            At::Any => 0,
            At::NotOlderThan(r) | At::Exact(r) => self.caches.reached(r).await?,
        };
        self.get_cached(resource, namespace, name)
    }

    /// One object, from whatever state is at hand.
    ///
    /// # Errors
    /// 404.
    pub fn get_cached(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let key = api::key_of(namespace, name);
        self.cache(resource)?
            .objects()
            .get(key.as_str())
            .cloned()
            .ok_or_else(|| Status::not_found(&resource.group, &resource.plural, name))
    }

    /// A stored object in the version that the pipeline works on.
    async fn value_of(&self, resource: &Resource, object: &Object) -> Result<Value, Status> {
        match resource.webhook() {
            None => {
                let mut value = object.to_value();
                // So that a change is not seen where an older version of ours kept a zero value or
                // left out one that is always there.
                drop_unset(&mut value);
                put_unset(&mut value, Unset::Values);
                Ok(value)
            }
            Some(_) => self.conversions()?.value(resource, object).await,
        }
    }

    /// Writes an object of the version that the pipeline works on.
    async fn write(
        &self,
        resource: &Resource,
        key: &str,
        mut object: Value,
        expect: Expect,
    ) -> Result<Arc<Object>, WriteError> {
        if let Some(webhook) = resource.webhook() {
            let to = resource.storage_api_version();
            object = self.conversions()?.convert_one(webhook, &to, object).await?;
        }
        storage::write(&self.storage, &storage::prefix(resource), key, finish(object), expect).await
    }

    /// What admission is to know of a write.
    pub fn attributes<'a>(
        ctx: &'a WriteContext,
        resource: &'a Resource,
        operation: Operation,
        namespace: &'a str,
        name: &'a str,
        subresource: &'a str,
    ) -> Attributes<'a> {
        Attributes {
            operation,
            resource,
            subresource,
            namespace,
            name,
            user: &ctx.user,
            dry_run: ctx.dry_run,
            options: ctx.options(operation),
            warnings: &ctx.warnings,
            audit: ctx.audit.as_deref(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// Runs mutating admission, a second time when plugins ask for it.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn admit_mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let begun = Instant::now();
        let outcome = self.admit_mutate_in_turn(a, object, old).await;
        self.times.step(Phase::Admit, a.operation, outcome.is_err(), begun.elapsed());
        outcome
    }

    async fn admit_mutate_in_turn(
        &self,
        a: &Attributes<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        loop {
            let mut begun = Instant::now();
            for plugin in self.admission.get().into_iter().flatten() {
                let outcome = plugin.mutate(a, object, old).await;
                begun = self.timed(plugin.name(), Phase::Admit, a, outcome.is_err(), begun);
                outcome?;
            }
            if !a.reinvocation.begin() {
                return Ok(());
            }
        }
    }

    /// Counts what a plugin took; gives the time at which the next one begins.
    fn timed(&self, plugin: &'static str, phase: Phase, a: &Attributes<'_>, rejected: bool, begun: Instant) -> Instant {
        let now = Instant::now();
        self.times.plugin(plugin, phase, a.operation, rejected, now - begun);
        now
    }

    /// Runs validating admission.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn admit_validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let first = Instant::now();
        let (mut begun, mut outcome) = (first, Ok(()));
        for plugin in self.admission.get().into_iter().flatten() {
            outcome = plugin.validate(a, object, old).await;
            begun = self.timed(plugin.name(), Phase::Validate, a, outcome.is_err(), begun);
            if outcome.is_err() {
                break;
            }
        }
        self.times.step(Phase::Validate, a.operation, outcome.is_err(), begun - first);
        outcome
    }

    /// Creates an object from what a client sent.
    ///
    /// # Errors
    /// 409 when it exists, 422 when it is not valid, and what admission says.
    pub async fn create(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        body: Decoded,
    ) -> Result<Written, Status> {
        let mut warnings = Vec::new();
        let mut object = accept(ctx, resource, body, &mut warnings)?;
        if let Some(m) = object["metadata"].as_object_mut() {
            m.remove("managedFields");
        }
        let object =
            self.create_accepted(ctx, resource, namespace, name, object, Fields::Follow, &mut warnings).await?;
        Ok(Written { object, created: true, warnings })
    }

    #[allow(clippy::too_many_arguments)]
    async fn create_accepted(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        mut object: Value,
        fields: Fields,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Object>, Status> {
        place(resource, &mut object, namespace, name)?;
        if let Some(m) = object["metadata"].as_object_mut() {
            for field in
                ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"]
            {
                if field == "resourceVersion" && m.get(field).is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty()))
                {
                    return Err(Status::internal_plain("resourceVersion should not be set on objects to be created"));
                }
                m.remove(field);
            }
            m.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
            m.insert("creationTimestamp".into(), rfc3339(ctx.now).into());
            if resource.has_generation {
                m.insert("generation".into(), 1.into());
            }
        }
        let generate = object["metadata"]["name"].as_str().is_none_or(str::is_empty);
        if !generate {
            return self.create_named(ctx, resource, namespace, object, fields, warnings).await;
        }
        let base = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        if base.is_empty() {
            let e = api::field::FieldError::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(&resource.group, &resource.kind, "", &vec![e]));
        }
        for attempt in 1.. {
            let mut candidate = object.clone();
            candidate["metadata"]["name"] = api::names::generate(&base).into();
            match Box::pin(self.create_named(ctx, resource, namespace, candidate, fields, warnings)).await {
                Err(s) if s.is_already_exists() && attempt < NAME_ATTEMPTS => continue,
                done => return done,
            }
        }
        unreachable!("the loop above returns")
    }

    async fn create_named(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        fields: Fields,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Object>, Status> {
        let strategy = &resource.strategy;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let attributes = Self::attributes(ctx, resource, Operation::Create, namespace, &name, "");
        if resource.has_status
            && let Some(m) = object.as_object_mut()
        {
            m.remove("status");
        }
        default(resource, &mut object);
        // As upstream: the client manages what it has sent and its defaults, and nobody what the
        // server makes of it from here on.
        if fields == Fields::Follow {
            manage(ctx, resource, "", None, &mut object);
        }
        strategy.prepare_create(&mut object);
        self.admit_mutate(&attributes, &mut object, None).await?;
        // Whatever admission makes of it, it stays where it was sent.
        place(resource, &mut object, namespace, &name)?;
        default(resource, &mut object);
        let mut errors = api::metadata::validate_object_meta(&object, resource.namespaced, |n| strategy.name_error(n));
        errors.extend(strategy.validate(&object));
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group, &resource.kind, &name, &errors));
        }
        self.admit_validate(&attributes, Some(&object), None).await?;
        warnings.extend(strategy.warnings(&object));
        let key = api::key_of(namespace, &name);
        let exists = || Status::already_exists(&resource.group, &resource.plural, &name);
        if ctx.dry_run {
            self.caches.fresh().await?;
            if self.cache(resource)?.objects().contains_key(key.as_str()) {
                return Err(exists());
            }
            return shown(object);
        }
        match self.write(resource, &key, object, Expect::Absent).await {
            Ok(o) => Ok(o),
            Err(WriteError::Conflict) => Err(exists()),
            Err(WriteError::Status(s)) => Err(s),
        }
    }

    /// Changes an object, or its status. `change` makes the wished-for object from the current
    /// one; it is called again when the object changed meanwhile and the wish names no
    /// resourceVersion. With `create_absent`, an absent object is created from the wish.
    ///
    /// # Errors
    /// 404, 409 for a stale resourceVersion, 422, and what admission says.
    #[allow(clippy::too_many_arguments)]
    pub async fn update(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        create_absent: bool,
        change: &Change<'_>,
    ) -> Result<Written, Status> {
        for _ in 0..ATTEMPTS {
            let current = match self.get(resource, namespace, name).await {
                Ok(o) => o,
                Err(s) if s.is_not_found() && create_absent => {
                    let body = change(&Value::Null)?;
                    return Box::pin(self.create(ctx, resource, namespace, name, body)).await;
                }
                Err(s) => return Err(s),
            };
            let old = self.value_of(resource, &current).await?;
            let mut warnings = Vec::new();
            let mut new = accept(ctx, resource, change(&served(resource, &old))?, &mut warnings)?;
            named(&new, name)?;
            place(resource, &mut new, namespace, name)?;
            preconditions(resource, name, &new, &current)?;
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            let object = match self
                .update_once(
                    ctx,
                    resource,
                    namespace,
                    name,
                    subresource,
                    &current,
                    &old,
                    new,
                    Fields::Follow,
                    &mut warnings,
                )
                .await
            {
                Err(WriteError::Conflict) => continue,
                Err(WriteError::Status(s)) => return Err(s),
                Ok(object) => object,
            };
            return Ok(Written { object, created: false, warnings });
        }
        Err(Status::stale(&resource.group, &resource.plural, name))
    }

    /// Server-side apply: merges a configuration into an object, or creates it.
    ///
    /// # Errors
    /// 409 when others manage what would change and it is not forced, and what an update says.
    #[allow(clippy::too_many_arguments)]
    pub async fn apply(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        config: Configuration,
        force: bool,
    ) -> Result<Written, Status> {
        let Configuration { sent, decoded } = config;
        if sent["metadata"].get("managedFields").is_some() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let mut warnings = Vec::new();
        let mut config = accept(ctx, resource, decoded, &mut warnings)?;
        place(resource, &mut config, namespace, name)?;
        let (version, config) = (resource.api_version(), served(resource, &config));
        let manager = ctx.manager(resource, &version, subresource);
        for _ in 0..ATTEMPTS {
            let current = match self.get(resource, namespace, name).await {
                Err(s) if s.is_not_found() && subresource.is_empty() => {
                    let mut object = api::managed::apply(&manager, &resource.schema, None, &config, &sent, force)?;
                    to_storage(resource, &mut object);
                    // Which state it was meant for is of no concern where there is none.
                    if let Some(meta) = object["metadata"].as_object_mut() {
                        meta.remove("resourceVersion");
                    }
                    let made = self
                        .create_accepted(ctx, resource, namespace, name, object, Fields::Applied, &mut warnings)
                        .await;
                    match made {
                        Err(s) if s.is_already_exists() => continue,
                        Err(s) => return Err(s),
                        Ok(object) => return Ok(Written { object, created: true, warnings }),
                    }
                }
                other => other?,
            };
            let old = self.value_of(resource, &current).await?;
            let live = served(resource, &old);
            let mut new = api::managed::apply(&manager, &resource.schema, Some(&live), &config, &sent, force)?;
            to_storage(resource, &mut new);
            // A configuration may name the state that it is meant for; the merged object has the
            // live one's.
            for field in ["uid", "resourceVersion"] {
                if let Some(v) = config["metadata"].get(field) {
                    new["metadata"][field] = v.clone();
                }
            }
            preconditions(resource, name, &new, &current)?;
            match self
                .update_once(
                    ctx,
                    resource,
                    namespace,
                    name,
                    subresource,
                    &current,
                    &old,
                    new,
                    Fields::Applied,
                    &mut warnings,
                )
                .await
            {
                Err(WriteError::Conflict) => continue,
                Err(WriteError::Status(s)) => return Err(s),
                Ok(object) => return Ok(Written { object, created: false, warnings }),
            }
        }
        Err(Status::stale(&resource.group, &resource.plural, name))
    }

    /// Changes an object as the server itself wishes, past the rules for clients: what a
    /// subresource such as `binding` or `finalize` does, which is no new generation. An object whose deletion is then
    /// finished goes.
    ///
    /// # Errors
    /// 404, 409, and what `change` says.
    pub async fn modify(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        change: &Change<'_>,
    ) -> Result<Arc<Object>, Status> {
        for _ in 0..ATTEMPTS {
            let current = self.get(resource, namespace, name).await?;
            let old = current.to_value();
            let mut new = change(&old)?.value;
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            if ctx.dry_run {
                return shown(new);
            }
            let prefix = storage::prefix(resource);
            let result = if finished_deletion(resource, &new) {
                let removed = storage::remove(&self.storage, &prefix, current.key(), current.revision()).await;
                removed.and_then(|revision| {
                    new["metadata"]["resourceVersion"] = revision.to_string().into();
                    Ok(shown(new)?)
                })
            } else {
                let expect = Expect::Revision(current.revision());
                storage::write(&self.storage, &prefix, current.key(), finish(new), expect).await
            };
            match result {
                Ok(o) => return Ok(o),
                Err(WriteError::Conflict) => continue,
                Err(WriteError::Status(s)) => return Err(s),
            }
        }
        Err(Status::stale(&resource.group, &resource.plural, name))
    }

    #[allow(clippy::too_many_arguments)]
    async fn update_once(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        current: &Arc<Object>,
        old: &Value,
        mut new: Value,
        fields: Fields,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Object>, WriteError> {
        let strategy = &resource.strategy;
        let managed = new["metadata"].get("managedFields").cloned();
        keep_system_metadata(&mut new, old);
        match subresource {
            "" => {
                if resource.has_status
                    && let Some(m) = new.as_object_mut()
                {
                    match old.get("status") {
                        Some(s) => m.insert("status".into(), s.clone()),
                        None => m.remove("status"),
                    };
                }
                strategy.prepare_update(&mut new, old);
            }
            "status" => {
                keep_all_but_status(&mut new, old, strategy.status_keeps());
                strategy.prepare_status(&mut new, old);
            }
            aspect => strategy.prepare_aspect(aspect, &mut new, old),
        }
        default(resource, &mut new);
        if let Some(m) = managed {
            new["metadata"]["managedFields"] = m;
        }
        if fields == Fields::Follow {
            manage(ctx, resource, subresource, Some(old), &mut new);
        }
        let attributes = Self::attributes(ctx, resource, Operation::Update, namespace, name, subresource);
        if !ctx.scaled {
            self.admit_mutate(&attributes, &mut new, Some(old)).await?;
        }
        default(resource, &mut new);
        if resource.has_generation && subresource != "status" && strategy.generation_changed(&new, old) {
            let g = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = (g + 1).into();
        }
        let mut errors = api::metadata::validate_object_meta(&new, resource.namespaced, |_| None);
        errors.extend(api::metadata::validate_object_meta_update(&new, old));
        match subresource {
            "" => errors.extend(strategy.validate_changed(&new, old)),
            "status" => errors.extend(strategy.validate_status(&new, old)),
            aspect => errors.extend(strategy.validate_aspect(aspect, &new, old)),
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group, &resource.kind, name, &errors).into());
        }
        if !ctx.scaled {
            self.admit_validate(&attributes, Some(&new), Some(old)).await?;
        }
        if subresource.is_empty() {
            warnings.extend(strategy.update_warnings(&new, old));
        }
        let finished = finished_deletion(resource, &new);
        if new == *old && !finished {
            return Ok(current.clone());
        }
        if ctx.dry_run {
            return Ok(shown(new)?);
        }
        if finished {
            let prefix = storage::prefix(resource);
            let revision = storage::remove(&self.storage, &prefix, current.key(), current.revision()).await?;
            new["metadata"]["resourceVersion"] = revision.to_string().into();
            return Ok(shown(new)?);
        }
        self.write(resource, current.key(), new, Expect::Revision(current.revision())).await
    }

    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404, 409 for a precondition that does not hold, and what admission says.
    pub async fn delete(
        &self,
        ctx: &WriteContext,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        for _ in 0..ATTEMPTS {
            let current = self.get(resource, namespace, name).await?;
            let old = self.value_of(resource, &current).await?;
            delete_preconditions(resource, name, options, &current)?;
            let mut attributes = Self::attributes(ctx, resource, Operation::Delete, namespace, name, "");
            options.describe(&mut attributes.options);
            self.admit_validate(&attributes, None, Some(&old)).await?;
            let Some(new) = marked_for_deletion(ctx, resource, options, &old) else {
                let last = if ctx.dry_run {
                    Some(current.clone())
                } else {
                    match storage::remove(&self.storage, &storage::prefix(resource), current.key(), current.revision())
                        .await
                    {
                        Ok(revision) => Some(storage::at_revision(&current, revision)?),
                        Err(WriteError::Conflict) => None,
                        Err(WriteError::Status(s)) => return Err(s),
                    }
                };
                match last {
                    Some(object) => return Ok(Deleted::Gone(object)),
                    None => continue,
                }
            };
            if new == old {
                return Ok(Deleted::Pending(current));
            }
            if ctx.dry_run {
                return Ok(Deleted::Pending(shown(new)?));
            }
            let expect = Expect::Revision(current.revision());
            match self.write(resource, current.key(), new, expect).await {
                Ok(o) => return Ok(Deleted::Pending(o)),
                Err(WriteError::Conflict) => continue,
                Err(WriteError::Status(s)) => return Err(s),
            }
        }
        Err(Status::stale(&resource.group, &resource.plural, name))
    }
}
