//! Custom resource definitions at work: their names are accepted, their resources are served, and
//! at their end their objects are deleted
//! (upstream: `apiextensions-apiserver/pkg/controller/{status,establish,finalizer}`).
//!
//! Invariants: a resource is served before its definition says that it is established; a
//! definition goes only when none of its objects is left.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::codec::Decoded;
use api::custom::{self, definition::FINALIZER};
use api::time::rfc3339;
use api::{Object, Resource, Status};
use client::{Gvr, Informers, ListParams, WorkQueue};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::system;
use crate::registry::{DeleteOptions, WriteContext};
use crate::served::Definition;
use crate::storage;
use crate::{Server, api_services};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// Wait before objects with finalizers are looked at again.
const AGAIN: Duration = Duration::from_secs(1);

fn definitions(server: &Server) -> Result<Arc<Resource>, Status> {
    server.resource(GROUP, "v1", PLURAL)
}

fn all(server: &Server) -> Result<Vec<Arc<Object>>, Status> {
    Ok(server.registry().cache(&*definitions(server)?)?.objects().values().cloned().collect())
}

/// Serves what was established before a restart.
///
/// # Errors
/// When stored objects cannot be read.
pub async fn restore(server: &Arc<Server>) -> Result<(), Status> {
    for object in all(server)? {
        let definition = object.to_value();
        if custom::is_true(&definition, "Established") {
            serve(server, &definition).await?;
        }
    }
    Ok(())
}

/// Keeps the APIServices of a definition as its served versions are, and before.
async fn register(server: &Arc<Server>, definition: &Value, before: &[String]) -> Result<(), Status> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let served = definition["spec"]["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true);
    let versions: Vec<String> = served.filter_map(|v| v["name"].as_str().map(str::to_owned)).collect();
    api_services::register(server, group, &versions).await?;
    api_services::forget(server, group, before).await
}

/// What the entries of a definition follow from.
fn source(definition: &Value) -> Value {
    let m = &definition["metadata"];
    json!([m["uid"], m["generation"], m["deletionTimestamp"], definition["status"]["acceptedNames"]])
}

/// Puts the resources of a definition in the table, unless they are there; gives the versions
/// that it had there before.
async fn serve(server: &Arc<Server>, definition: &Value) -> Result<Vec<String>, Status> {
    let (name, source) = (definition["metadata"]["name"].as_str().unwrap_or_default(), source(definition));
    if server.table().has(name, &source) {
        return Ok(Vec::new());
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let plural = text(&definition["status"]["acceptedNames"]["plural"]);
    let prefix = storage::prefix_of(&text(&definition["spec"]["group"]), &plural);
    server.registry().caches().add(&prefix).await?;
    let custom::Served { resources, schemas } = custom::served(definition);
    let before = server.table().set(name, Some(Definition { resources, schemas, prefix, source }));
    Ok(before.map(|b| b.resources.iter().map(|r| r.version.clone()).collect()).unwrap_or_default())
}

/// Starts following definitions.
pub fn start(server: &Arc<Server>, tasks: &TaskTracker, cancel: &CancellationToken) {
    let queue: Arc<WorkQueue<String>> = Arc::default();
    let informers = Informers::new(server.client(system()), tasks.clone(), cancel.clone());
    let informer = informers.select(Gvr::new(GROUP, "v1", PLURAL), ListParams::all());
    {
        let queue = queue.clone();
        // A name that one definition gives up may be what another waits for.
        let every = informer.clone();
        informer.on_change(move |c| {
            queue.add(c.object().key().to_owned());
            if c.new.is_none() {
                every.objects().iter().for_each(|o| queue.add(o.key().to_owned()));
            }
        });
    }
    let (server, cancel) = (server.clone(), cancel.clone());
    tasks.spawn(async move {
        let work = async {
            while let Some(name) = queue.get().await {
                match reconcile(&server, &name).await {
                    Ok(true) => queue.forget(&name),
                    Ok(false) => queue.add_after(name.clone(), AGAIN),
                    Err(s) => {
                        if !s.is_conflict() {
                            tracing::warn!(definition = name, error = %s, "a custom resource definition is not settled; trying again");
                        }
                        queue.add_rate_limited(name.clone());
                    }
                }
                queue.done(&name);
            }
        };
        let _ = cancel.run_until_cancelled(work).await;
    });
}

/// Brings one definition further; whether it is settled.
async fn reconcile(server: &Arc<Server>, name: &str) -> Result<bool, Status> {
    let resource = definitions(server)?;
    let object = match server.registry().get(&resource, "", name).await {
        Ok(o) => o,
        Err(s) if s.is_not_found() => {
            if let Some(gone) = server.table().set(name, None) {
                server.registry().caches().remove(&gone.prefix);
                server.registry().conversions()?.forget(name);
                let versions: Vec<String> = gone.resources.iter().map(|r| r.version.clone()).collect();
                let group = gone.resources.first().map(|r| r.group.clone()).unwrap_or_default();
                api_services::forget(server, &group, &versions).await?;
            }
            return Ok(true);
        }
        Err(s) => return Err(s),
    };
    let mut definition = object.to_value();
    // A definition is called `<plural>.<group>`: the others need not be read to know that they are of another group.
    let group = format!(".{}", definition["spec"]["group"].as_str().unwrap_or_default());
    let others = all(server)?.into_iter().filter(|o| o.meta().name != name && o.meta().name.ends_with(&group));
    let others: Vec<Value> = others.map(|o| o.to_value()).collect();
    let now = rfc3339(Timestamp::now());
    settle_names(server, &mut definition, &others, &now);
    let established = custom::is_true(&definition, "Established");
    let ending = definition["metadata"]["deletionTimestamp"].is_string();
    if ending {
        let why = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
        set_condition(&mut definition, "Terminating", true, why, &now);
    }
    if established {
        let before = serve(server, &definition).await?;
        register(server, &definition, &before).await?;
    }
    if definition["status"] != object.to_value()["status"] {
        write_status(server, &resource, name, &definition["status"]).await?;
    }
    if !ending {
        return Ok(true);
    }
    if established && !delete_objects(server, &definition).await? {
        return Ok(false);
    }
    finish(server, &resource, name, &now).await?;
    Ok(true)
}

async fn write_status(server: &Arc<Server>, resource: &Resource, name: &str, status: &Value) -> Result<(), Status> {
    let change = |old: &Value| {
        let mut new = old.clone();
        // What the strategy keeps there is not ours.
        let stored = old["status"]["storedVersions"].clone();
        new["status"] = status.clone();
        new["status"]["storedVersions"] = stored;
        Ok(Decoded { value: new, ..Default::default() })
    };
    let ctx = WriteContext::new(system());
    server.registry().update(&ctx, resource, "", name, "status", false, &change).await.map(|_| ())
}

/// Lets a definition go whose objects are gone.
async fn finish(server: &Arc<Server>, resource: &Resource, name: &str, now: &str) -> Result<(), Status> {
    let change = |old: &Value| {
        let mut new = old.clone();
        let why = ("InstanceDeletionCompleted", "removed all instances");
        set_condition(&mut new, "Terminating", false, why, now);
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|f| f != FINALIZER);
        }
        Ok(Decoded { value: new, ..Default::default() })
    };
    match server.registry().modify(&WriteContext::new(system()), resource, "", name, &change).await {
        Err(s) if !s.is_not_found() => Err(s),
        _ => Ok(()),
    }
}

/// Deletes all objects of a definition; whether none is left.
async fn delete_objects(server: &Arc<Server>, definition: &Value) -> Result<bool, Status> {
    let resource = custom::storage_resource(definition);
    let cache = server.registry().cache(&resource)?;
    let ctx = WriteContext::new(system());
    for object in cache.objects().values() {
        let m = object.meta();
        if m.deletion_timestamp.is_some() {
            continue;
        }
        let deleted = server.registry().delete(&ctx, &resource, m.namespace, m.name, &DeleteOptions::default()).await;
        if let Err(s) = deleted
            && !s.is_not_found()
        {
            return Err(s);
        }
    }
    server.registry().caches().fresh().await?;
    Ok(cache.objects().is_empty())
}

/// Sets a condition; its time moves only with its status.
fn set_condition(definition: &mut Value, kind: &str, holds: bool, (reason, message): (&str, &str), now: &str) {
    let status = if holds { "True" } else { "False" };
    let mut wanted = json!({
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    if !definition["status"]["conditions"].is_array() {
        definition["status"]["conditions"] = json!([]);
    }
    let Some(all) = definition["status"]["conditions"].as_array_mut() else { return };
    match all.iter_mut().find(|c| c["type"] == kind) {
        Some(c) => {
            if c["status"] == status {
                wanted["lastTransitionTime"] = c["lastTransitionTime"].clone();
            }
            *c = wanted;
        }
        None => all.push(wanted),
    }
}

/// The names that others in the group have: resource names, and kinds.
fn taken(server: &Server, group: &str, others: &[Value]) -> (HashSet<String>, HashSet<String>) {
    let (mut names, mut kinds) = (HashSet::new(), HashSet::new());
    for r in server.table().builtin().iter().filter(|r| r.group == group) {
        names.extend([r.plural.clone(), r.singular.clone()]);
        names.extend(r.short_names.iter().cloned());
        kinds.extend([r.kind.clone(), r.list_kind.clone()]);
    }
    for other in others.iter().filter(|o| o["spec"]["group"] == group) {
        let accepted = &other["status"]["acceptedNames"];
        let text = |f: &str| accepted[f].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        names.extend(["plural", "singular"].into_iter().filter_map(text));
        names.extend(
            accepted["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
        );
        kinds.extend(["kind", "listKind"].into_iter().filter_map(text));
    }
    (names, kinds)
}

/// Accepts the names that nobody else has, and says so.
fn settle_names(server: &Server, definition: &mut Value, others: &[Value], now: &str) {
    let group = definition["spec"]["group"].as_str().unwrap_or_default().to_owned();
    let (names, kinds) = taken(server, &group, others);
    let wanted = definition["spec"]["names"].clone();
    let mut accepted = definition["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict: Option<(&str, String)> = None;
    for (field, in_use, reason) in [
        ("plural", &names, "PluralConflict"),
        ("singular", &names, "SingularConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let name = wanted[field].as_str().unwrap_or_default();
        if in_use.contains(name) {
            conflict = Some((reason, format!("{name:?} is already in use")));
        } else if !name.is_empty() {
            accepted[field] = name.into();
        }
    }
    let short = wanted["shortNames"].as_array().cloned().unwrap_or_default();
    if let Some(used) = short.iter().filter_map(Value::as_str).find(|s| names.contains(*s)) {
        conflict = Some(("ShortNamesConflict", format!("{used:?} is already in use")));
    } else {
        put_list(&mut accepted, "shortNames", short);
    }
    put_list(&mut accepted, "categories", wanted["categories"].as_array().cloned().unwrap_or_default());
    definition["status"]["acceptedNames"] = accepted;
    match &conflict {
        None => set_condition(definition, "NamesAccepted", true, ("NoConflicts", "no conflicts found"), now),
        Some((reason, message)) => set_condition(definition, "NamesAccepted", false, (reason, message), now),
    }
    if custom::is_true(definition, "Established") {
        return;
    }
    match conflict {
        None => {
            let why = ("InitialNamesAccepted", "the initial names have been accepted");
            set_condition(definition, "Established", true, why, now);
        }
        Some(_) => {
            let why = ("NotAccepted", "not all names are accepted");
            set_condition(definition, "Established", false, why, now);
        }
    }
}

fn put_list(accepted: &mut Value, field: &str, list: Vec<Value>) {
    if let Some(map) = accepted.as_object_mut() {
        if list.is_empty() {
            map.remove(field);
        } else {
            map.insert(field.to_owned(), Value::Array(list));
        }
    }
}
