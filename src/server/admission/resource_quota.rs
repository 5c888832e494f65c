//! ResourceQuota: what a namespace may hold. A write that adds to what a quota counts is charged
//! to the quota's status before it is stored, by compare-and-set, so that writes at the same time
//! never hold more together than the quota allows. What is not stored in the end, or deleted, is
//! taken back by the controller of the same name.

use std::sync::{Arc, Weak};

use api::codec::Decoded;
use api::pod_resources::{self as resources, Amounts};
use api::quota::Counted;
use api::{Object, Status};
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::bootstrap::system;
use crate::registry::{At, Selection, WriteContext};

pub(super) struct ResourceQuota(pub(super) Weak<Server>);

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let counts = matches!(a.operation, Operation::Create | Operation::Update) && a.subresource.is_empty();
        let Some(object) = object.filter(|_| counts && a.resource.namespaced && a.resource.stored) else {
            return Ok(());
        };
        let server = alive(&self.0)?;
        let quotas = quotas(&server, a.namespace).await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let counted = Counted { group: &a.resource.group, plural: &a.resource.plural };
        let now = Timestamp::now();
        let delta = added(&counted.usage(object, now), old.map(|o| counted.usage(o, now)));
        let mut charged = Vec::new();
        for quota in quotas {
            let value = quota.to_value();
            let names = governed(counted, &value);
            if names.is_empty() || !counted.in_scope(&value["spec"], object) {
                continue;
            }
            if a.operation == Operation::Create
                && let Some(missing) = counted.missing(&names, object)
            {
                return Err(refused(a, &format!("failed quota: {}: {missing}", quota.meta().name)));
            }
            let part: Amounts = delta.iter().filter(|(n, _)| names.contains(n)).map(|(n, q)| (n.clone(), *q)).collect();
            if !part.is_empty() {
                // All are asked before one is charged.
                with_charge(a, &value, &names, &part)?;
                charged.push((quota, names, part));
            }
        }
        if a.dry_run {
            return Ok(());
        }
        for (quota, names, part) in charged {
            charge(&server, a, &quota, &names, &part).await?;
        }
        Ok(())
    }
}

fn refused(a: &Attributes<'_>, why: &str) -> Status {
    Status::forbidden(&a.resource.group, &a.resource.plural, a.name, why)
}

async fn quotas(server: &Arc<Server>, namespace: &str) -> Result<Vec<Arc<Object>>, Status> {
    let resource = server.resource("", "v1", "resourcequotas")?;
    let all = Selection::new(&resource, namespace, "", "")?;
    Ok(server.registry().list(&resource, &all, At::Consistent, 0, None).await?.items)
}

/// What a write adds.
fn added(new: &Amounts, old: Option<Amounts>) -> Amounts {
    let old = old.unwrap_or_default();
    let more = new.iter().map(|(name, q)| (name.clone(), old.get(name).map_or(*q, |had| *q - *had)));
    more.filter(|(_, q)| q.sign() > 0).collect()
}

/// The names of a quota that a resource counts for. Only what the status shows is in force.
fn governed(counted: Counted<'_>, quota: &Value) -> Vec<String> {
    let hard = quota["status"]["hard"].as_object().into_iter().flatten();
    hard.map(|(name, _)| name.clone()).filter(|n| counted.counts_for(n)).collect()
}

fn shown(all: &Amounts, names: &[&String]) -> String {
    let pairs = names.iter().filter_map(|n| Some(format!("{n}={}", all.get(*n)?)));
    pairs.collect::<Vec<_>>().join(",")
}

/// The quota with what is added, or why that is too much.
fn with_charge(a: &Attributes<'_>, quota: &Value, names: &[String], part: &Amounts) -> Result<Value, Status> {
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let hard = resources::amounts(&quota["status"]["hard"]);
    let mut used = resources::amounts(&quota["status"]["used"]);
    if names.iter().any(|n| !used.contains_key(n)) {
        let why = format!("status unknown for quota: {name}, resources: {}", names.join(","));
        return Err(refused(a, &why));
    }
    let before = used.clone();
    resources::add(&mut used, part);
    let over = |n: &&String| hard.get(*n).is_some_and(|most| used.get(*n).is_some_and(|u| u > most));
    let exceeded: Vec<&String> = part.keys().filter(over).collect();
    if !exceeded.is_empty() {
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            shown(part, &exceeded),
            shown(&before, &exceeded),
            shown(&hard, &exceeded)
        );
        return Err(refused(a, &why));
    }
    let mut new = quota.clone();
    new["status"]["used"] = resources::to_value(&used);
    Ok(new)
}

async fn charge(
    server: &Arc<Server>,
    a: &Attributes<'_>,
    quota: &Object,
    names: &[String],
    part: &Amounts,
) -> Result<(), Status> {
    let resource = server.resource("", "v1", "resourcequotas")?;
    let change = |current: &Value| {
        let value = with_charge(a, current, names, part)?;
        Ok(Decoded { value, unknown: Vec::new(), duplicate: Vec::new() })
    };
    let ctx = WriteContext::new(system());
    match server.registry().modify(&ctx, &resource, a.namespace, quota.meta().name, &change).await {
        // It is gone: it allows everything.
        Err(s) if s.is_not_found() => Ok(()),
        r => r.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::request::User;
    use serde_json::json;

    #[test]
    fn a_charge_stops_at_what_is_allowed() {
        let pods = api::registry::builtin().into_iter().find(|r| r.plural == "pods").unwrap();
        let ctx = WriteContext::new(User::anonymous());
        let a = Registry::attributes(&ctx, &pods, Operation::Create, "n", "p", "");
        let quota =
            |used: &str| json!({"metadata": {"name": "q"}, "status": {"hard": {"cpu": "1"}, "used": {"cpu": used}}});
        let part = resources::amounts(&json!({"cpu": "600m"}));
        let names = ["cpu".to_owned()];
        assert_eq!(with_charge(&a, &quota("300m"), &names, &part).unwrap()["status"]["used"]["cpu"], "900m");
        let s = with_charge(&a, &quota("500m"), &names, &part).unwrap_err();
        assert!(
            s.message.ends_with("exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1"),
            "{}",
            s.message
        );
        let fresh = json!({"metadata": {"name": "q"}, "status": {"hard": {"cpu": "1"}}});
        assert!(with_charge(&a, &fresh, &names, &part).is_err(), "nothing is let in before the count is known");
    }

    #[test]
    fn an_update_is_charged_for_what_it_adds() {
        let of = |q: &str| resources::amounts(&json!({"cpu": q}));
        assert_eq!(added(&of("3"), Some(of("1"))), of("2"));
        assert!(added(&of("1"), Some(of("3"))).is_empty());
    }
}
