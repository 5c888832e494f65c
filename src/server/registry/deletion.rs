//! Deletion: what clients ask for, and the marks of objects that stay for now.

use std::sync::Arc;

use api::time::rfc3339;
use api::{Object, Resource, Status};
use serde_json::{Value, json};

use super::WriteContext;

/// What a deletion came to.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Object>),
    /// The object stays until its grace period or its finalizers are over.
    Pending(Arc<Object>),
}

impl Deleted {
    /// The last known state.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Deleted::Gone(o) | Deleted::Pending(o) => o,
        }
    }
}

/// `DeleteOptions`, decoded.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds of grace; `None` for the kind's default.
    pub grace_period_seconds: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// The UID that the object must have.
    pub uid: Option<String>,
    /// The resourceVersion that the object must have.
    pub resource_version: Option<String>,
    /// Whether nothing is to happen.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body of a deletion.
    ///
    /// # Errors
    /// 400 or 422 for values that make no sense.
    pub fn from_value(v: &Value) -> Result<DeleteOptions, Status> {
        let text = |p: &str| v.pointer(p).and_then(Value::as_str).map(str::to_owned);
        let mut propagation = text("/propagationPolicy");
        if let Some(orphan) = v.get("orphanDependents").and_then(Value::as_bool) {
            if propagation.is_some() {
                return Err(Status::bad_request("orphanDependents and deletionPropagation cannot be both set"));
            }
            propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned());
        }
        if let Some(p) = &propagation
            && !matches!(p.as_str(), "Orphan" | "Background" | "Foreground")
        {
            let e = api::field::FieldError::not_supported(
                "propagationPolicy",
                p.clone(),
                &["Foreground", "Background", "Orphan", "nil"],
            );
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &vec![e]));
        }
        let stages: Vec<&str> = v["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if stages.iter().any(|s| *s != "All") {
            let e = api::field::FieldError::not_supported("dryRun", v["dryRun"].clone(), &["All"]);
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &vec![e]));
        }
        let grace = v.get("gracePeriodSeconds").and_then(Value::as_i64);
        Ok(DeleteOptions {
            grace_period_seconds: grace.map(|g| if g < 0 { 1 } else { g }),
            propagation,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: !stages.is_empty(),
        })
    }
}

impl DeleteOptions {
    /// Adds them to the options that admission shows.
    pub(super) fn describe(&self, shown: &mut Value) {
        if let Some(g) = self.grace_period_seconds {
            shown["gracePeriodSeconds"] = g.into();
        }
        if let Some(p) = &self.propagation {
            shown["propagationPolicy"] = p.clone().into();
        }
        if self.uid.is_some() || self.resource_version.is_some() {
            shown["preconditions"] = json!({"uid": self.uid, "resourceVersion": self.resource_version});
        }
    }
}

pub(super) fn uid_conflict(resource: &Resource, name: &str, wanted: &str, actual: &str) -> Status {
    Status::conflict(
        &resource.group,
        &resource.plural,
        name,
        &format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"),
    )
}

pub(super) fn delete_preconditions(
    resource: &Resource,
    name: &str,
    o: &DeleteOptions,
    current: &Object,
) -> Result<(), Status> {
    if let Some(uid) = &o.uid
        && *uid != current.meta().uid
    {
        return Err(uid_conflict(resource, name, uid, current.meta().uid));
    }
    if let Some(rv) = &o.resource_version
        && *rv != current.meta().resource_version
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {rv}, ResourceVersion in object meta: {}",
            current.meta().resource_version
        );
        return Err(Status::conflict(&resource.group, &resource.plural, name, &why));
    }
    Ok(())
}

fn finalizers(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether an object that is being deleted has nothing left that holds it.
pub(super) fn finished_deletion(resource: &Resource, object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && finalizers(object).is_empty()
        && !resource.strategy.holds_deletion(object)
}

/// The object with its deletion marks; `None` when it can go at once.
pub(super) fn marked_for_deletion(
    ctx: &WriteContext,
    resource: &Resource,
    options: &DeleteOptions,
    old: &Value,
) -> Option<Value> {
    let strategy = &resource.strategy;
    let mut new = old.clone();
    let deleting = old["metadata"].get("deletionTimestamp").is_some();

    let mut holds = finalizers(old);
    let marks = |f: &String| f == "orphan" || f == "foregroundDeletion";
    match options.propagation.as_deref() {
        Some(policy) => {
            holds.retain(|f| !marks(f));
            match policy {
                "Orphan" => holds.push("orphan".to_owned()),
                "Foreground" => holds.push("foregroundDeletion".to_owned()),
                _ => {}
            }
        }
        None if strategy.orphans_by_default() && !holds.iter().any(marks) => holds.push("orphan".to_owned()),
        None => {}
    }
    if holds.is_empty() {
        if let Some(m) = new["metadata"].as_object_mut() {
            m.remove("finalizers");
        }
    } else {
        new["metadata"]["finalizers"] = json!(holds);
    }

    let graceful = strategy.default_grace_seconds(old);
    let grace = match (options.grace_period_seconds, graceful) {
        (_, None) => 0,
        (Some(g), Some(_)) => g,
        (None, Some(default)) => default,
    };
    // A kind without grace for this object (an unscheduled pod) says Some(0) as its default.
    let grace = if graceful == Some(0) { 0 } else { grace };

    if grace == 0 && holds.is_empty() && !strategy.holds_deletion(&new) {
        return None;
    }
    let left = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if !deleting || grace < left {
        let at = ctx.now + jiff::SignedDuration::from_secs(grace);
        new["metadata"]["deletionTimestamp"] = rfc3339(at).into();
        new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if !deleting && resource.has_generation {
            let g = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = (g + 1).into();
        }
        strategy.begin_deletion(&mut new);
    }
    Some(new)
}
