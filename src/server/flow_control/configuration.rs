//! The objects of flow control: those that every cluster has are kept, all are read whenever one
//! changes, and each schema is told whether its level exists (upstream:
//! `apiserver/pkg/util/flowcontrol/apf_controller.go`, `pkg/registry/flowcontrol/ensurer`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::codec::Decoded;
use api::k8s::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use api::kinds::flow_control::{bootstrap, is_mandatory};
use api::{Object, Resource, Status};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::FlowControl;
use super::classify::Schema;
use super::seats::{Kind, Limits, Queuing};
use crate::Server;
use crate::bootstrap::system;
use crate::registry::{DeleteOptions, WriteContext};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Objects {
    levels: Vec<Arc<PriorityLevelConfiguration>>,
    schemas: Vec<Arc<FlowSchema>>,
}

fn resource(server: &Server, kind: &str) -> Result<Arc<Resource>, Status> {
    let plural = if kind == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" };
    server.resource(GROUP, "v1", plural)
}

fn context(manager: &str) -> WriteContext {
    WriteContext { field_manager: manager.to_owned(), ..WriteContext::new(system()) }
}

fn cached(server: &Server, kind: &str) -> Result<Vec<Arc<Object>>, Status> {
    let cache = server.registry().cache(&*resource(server, kind)?)?;
    Ok(cache.objects().values().cloned().collect())
}

impl Objects {
    fn read(server: &Server) -> Result<Objects, Status> {
        let levels =
            cached(server, "PriorityLevelConfiguration")?.iter().map(|o| o.typed()).collect::<Result<_, _>>()?;
        let schemas = cached(server, "FlowSchema")?.iter().map(|o| o.typed()).collect::<Result<_, _>>()?;
        Ok(Objects { levels, schemas })
    }
}

/// The mandatory objects count also before they are stored.
fn imagined<T: serde::de::DeserializeOwned>(kind: &str, have: impl Fn(&str) -> bool) -> Vec<Arc<T>> {
    let missing = bootstrap().iter().filter(|o| {
        let name = o["metadata"]["name"].as_str().unwrap_or_default();
        o["kind"] == kind && is_mandatory(name) && !have(name)
    });
    missing.filter_map(|o| serde_json::from_value(o.clone()).ok()).map(Arc::new).collect()
}

impl FlowControl {
    /// Works by these objects from now on.
    pub(super) fn configure(&self, mut objects: Objects) {
        let levels = imagined("PriorityLevelConfiguration", |n| {
            objects.levels.iter().any(|l| l.metadata.name.as_deref() == Some(n))
        });
        objects.levels.extend(levels);
        let schemas = imagined("FlowSchema", |n| objects.schemas.iter().any(|s| s.metadata.name.as_deref() == Some(n)));
        objects.schemas.extend(schemas);
        self.seats.configure(&limits(&objects.levels, self.total));
        let uids: HashMap<&str, &str> = objects
            .levels
            .iter()
            .map(|l| (l.metadata.name.as_deref().unwrap_or_default(), l.metadata.uid.as_deref().unwrap_or_default()))
            .collect();
        // A schema whose level does not exist is as if it were not there.
        let at_work = objects.schemas.iter().filter_map(|s| {
            let level = &s.spec.as_ref()?.priority_level_configuration.name;
            Some(Arc::new(Schema::new(s, (*uids.get(level.as_str())?).to_owned())))
        });
        let mut schemas: Vec<Arc<Schema>> = at_work.collect();
        schemas.sort_by_key(|s| s.rank());
        self.schemas.store(Arc::new(schemas));
    }
}

/// What each level may use of `total` seats.
fn limits(levels: &[Arc<PriorityLevelConfiguration>], total: u64) -> HashMap<Arc<str>, Limits> {
    let sum = levels.iter().map(|l| Shares::of(l).shares).sum::<u64>().max(1);
    let percent = |n: u64, p: i32| (n as f64 * f64::from(p.max(0)) / 100.0).round() as u64;
    let one = |level: &Arc<PriorityLevelConfiguration>| {
        let Shares { shares, lendable, borrowing, kind } = Shares::of(level);
        let nominal = (total * shares).div_ceil(sum);
        let least = nominal.saturating_sub(percent(nominal, lendable));
        let most = nominal + borrowing.map_or(total, |p| percent(nominal, p));
        (Arc::from(level.metadata.name.as_deref().unwrap_or_default()), Limits { nominal, least, most, kind })
    };
    levels.iter().map(one).collect()
}

/// What the spec of a level says, with upstream's defaults.
struct Shares {
    shares: u64,
    lendable: i32,
    borrowing: Option<i32>,
    kind: Kind,
}

impl Shares {
    fn of(level: &PriorityLevelConfiguration) -> Shares {
        let spec = level.spec.clone().unwrap_or_default();
        let count = |shares: Option<i32>, default: i32| shares.unwrap_or(default).max(0) as u64;
        let exempt = spec.exempt.unwrap_or_default();
        let Some(l) = spec.limited.filter(|_| level.metadata.name.as_deref() != Some("exempt")) else {
            let (shares, lendable) = (count(exempt.nominal_concurrency_shares, 0), exempt.lendable_percent);
            return Shares { shares, lendable: lendable.unwrap_or(0), borrowing: None, kind: Kind::Exempt };
        };
        let queuing = l.limit_response.and_then(|r| r.queuing).map(|q| Queuing {
            queues: q.queues.unwrap_or(64).max(1) as usize,
            hand: q.hand_size.unwrap_or(8).max(1) as usize,
            length: q.queue_length_limit.unwrap_or(50).max(1) as usize,
        });
        Shares {
            shares: count(l.nominal_concurrency_shares, 30),
            lendable: l.lendable_percent.unwrap_or(0),
            borrowing: l.borrowing_limit_percent,
            kind: queuing.map_or(Kind::Reject, Kind::Queue),
        }
    }
}

/// How often the seats are divided anew.
const DIVISION: Duration = Duration::from_secs(10);

/// Follows the objects, and divides the seats by demand, until cancelled.
pub async fn run(server: Arc<Server>, cancel: CancellationToken) {
    let divide = async {
        let mut times = tokio::time::interval(DIVISION);
        loop {
            times.tick().await;
            server.flow_control().seats.divide();
        }
    };
    tokio::select! {
        () = divide => {}
        () = follow_all(&server, &cancel) => {}
    }
}

async fn follow_all(server: &Arc<Server>, cancel: &CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            outcome = follow(server) => if let Err(s) = outcome {
                tracing::warn!(error = %s, "flow control works by what it knew; its objects cannot be read or kept");
                // Nothing tells when that ends.
                tokio::time::sleep(Duration::from_secs(10)).await;
            },
        }
    }
}

/// Works by the objects, and again after every change; ends when it cannot, or missed a change.
async fn follow(server: &Arc<Server>) -> Result<(), Status> {
    let watch = |kind: &str| -> Result<_, Status> {
        let cache = server.registry().cache(&*resource(server, kind)?)?;
        let now = server.registry().caches().applied();
        cache.subscribe("", now.max(1), now, Box::new(|_| true))
    };
    let mut levels = watch("PriorityLevelConfiguration")?;
    let mut schemas = watch("FlowSchema")?;
    loop {
        keep(server).await?;
        let objects = Objects::read(server)?;
        let dangling = conditions(&objects);
        server.flow_control().configure(objects);
        for (name, condition) in dangling {
            tell(server, &name, &condition).await?;
        }
        let changed = tokio::select! {
            event = levels.live.recv() => event,
            event = schemas.live.recv() => event,
        };
        if changed.is_none() {
            return Ok(());
        }
        // What changed together is read together.
        while levels.live.try_recv().is_ok() || schemas.live.try_recv().is_ok() {}
    }
}

/// Makes sure that the objects that every cluster has are there and as they should be.
///
/// # Errors
/// What the pipeline says.
pub async fn keep(server: &Arc<Server>) -> Result<(), Status> {
    server.registry().caches().fresh().await?;
    // Together, so that they share the syncs of the disk.
    futures::future::try_join_all(bootstrap().iter().map(|wanted| async move {
        let kind = wanted["kind"].as_str().unwrap_or_default();
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let resource = resource(server, kind)?;
        match server.registry().get_cached(&resource, "", name) {
            Ok(current) => correct(server, &resource, &current, wanted).await,
            Err(s) if s.is_not_found() => crate::bootstrap::ensure(server, wanted).await,
            Err(s) => Err(s),
        }
    }))
    .await?;
    for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
        for o in cached(server, kind)? {
            let meta = o.meta();
            let ours = o.annotation(AUTO_UPDATE).as_deref() == Some("true");
            let known = bootstrap().iter().any(|b| b["kind"] == kind && b["metadata"]["name"] == meta.name);
            // What an older version had made, and nobody made their own.
            if ours && !known {
                let resource = resource(server, kind)?;
                let (ctx, options) = (context(PRODUCER), DeleteOptions::default());
                server.registry().delete(&ctx, &resource, "", meta.name, &options).await?;
            }
        }
    }
    Ok(())
}

/// Gives an object its spec back, unless its annotation says that it is its owner's.
async fn correct(server: &Arc<Server>, resource: &Resource, current: &Object, wanted: &Value) -> Result<(), Status> {
    let have = current.to_value();
    let name = current.meta().name;
    let annotation = current.annotation(AUTO_UPDATE);
    let annotation = annotation.as_deref();
    let ours = is_mandatory(name) || annotation.map_or(current.meta().generation == 1, |a| a == "true");
    let same_spec =
        have["spec"] == wanted["spec"] || name == "exempt" && wanted["kind"] == "PriorityLevelConfiguration";
    let wanted_annotation = if ours { "true" } else { "false" };
    let settled = matches!(annotation, Some("true" | "false")) && (!is_mandatory(name) || annotation == Some("true"));
    if settled && (same_spec || !ours) {
        return Ok(());
    }
    let change = |old: &Value| {
        let mut value = old.clone();
        value["metadata"]["annotations"][AUTO_UPDATE] = wanted_annotation.into();
        if ours && !same_spec {
            value["spec"] = wanted["spec"].clone();
        }
        Ok(Decoded { value, unknown: Vec::new(), duplicate: Vec::new() })
    };
    server.registry().update(&context(PRODUCER), resource, "", name, "", false, &change).await?;
    Ok(())
}

/// The conditions that schemas should have and do not.
fn conditions(objects: &Objects) -> Vec<(String, Value)> {
    let exists =
        |level: &str| is_mandatory(level) || objects.levels.iter().any(|l| l.metadata.name.as_deref() == Some(level));
    let mut wrong = Vec::new();
    for schema in &objects.schemas {
        let level = schema.spec.as_ref().map(|s| s.priority_level_configuration.name.as_str()).unwrap_or_default();
        let (status, reason, what) = match exists(level) {
            true => ("False", "Found", "and it exists"),
            false => ("True", "NotFound", "but there is no such object"),
        };
        let message =
            format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {what}");
        let told = schema.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten().any(|c| {
            c.type_.as_deref() == Some("Dangling")
                && c.status.as_deref() == Some(status)
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message.as_str())
        });
        if !told {
            let now = api::time::rfc3339(jiff::Timestamp::now());
            let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": now});
            wrong.push((schema.metadata.name.clone().unwrap_or_default(), condition));
        }
    }
    wrong
}

async fn tell(server: &Arc<Server>, name: &str, condition: &Value) -> Result<(), Status> {
    let change = |old: &Value| {
        let mut value = old.clone();
        if !value["status"].is_object() {
            value["status"] = json!({});
        }
        let mut all = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.retain(|c| c["type"] != condition["type"]);
        all.push(condition.clone());
        value["status"]["conditions"] = all.into();
        Ok(Decoded { value, unknown: Vec::new(), duplicate: Vec::new() })
    };
    let resource = resource(server, "FlowSchema")?;
    match server.registry().update(&context(CONSUMER), &resource, "", name, "status", false, &change).await {
        // It has gone meanwhile.
        Err(s) if !s.is_not_found() => Err(s),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_shared_as_upstream_shares_them() {
        let of_kind = bootstrap().iter().filter(|o| o["kind"] == "PriorityLevelConfiguration");
        let levels: Vec<_> = of_kind.map(|o| Arc::new(serde_json::from_value(o.clone()).unwrap())).collect();
        let limits = limits(&levels, 600);
        let of = |name: &str| limits[name];
        assert_eq!(of("exempt").kind, Kind::Exempt);
        assert_eq!(of("catch-all"), Limits { nominal: 13, least: 13, most: 613, kind: Kind::Reject });
        let Limits { nominal, least, kind, .. } = of("workload-low");
        assert_eq!((nominal, least), (245, 24));
        assert_eq!(kind, Kind::Queue(Queuing { queues: 128, hand: 6, length: 50 }));
    }
}
