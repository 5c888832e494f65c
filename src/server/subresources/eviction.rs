//! `pods/<name>/eviction`: a deletion that respects disruption budgets
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).

use std::sync::Arc;

use api::codec::Decoded;
use api::selector::LabelSelector;
use api::{Object, Resource, Status};
use serde_json::{Value, json};

use crate::Server;
use crate::http::Call;
use crate::http::respond::{self, Reply};
use crate::registry::{At, DeleteOptions, Selection, WriteContext};

/// Seconds after which a refused eviction may be tried again.
const RETRY_SECONDS: u32 = 10;
/// How often an eviction is tried against a pod that keeps changing.
const ATTEMPTS: usize = 20;
/// Most evictions that a budget remembers as granted but not seen yet.
const MAX_GRANTED: usize = 2000;

/// What a pod's budget says to its eviction.
enum Verdict {
    /// It may go.
    Free,
    /// It may go as it is now: a pod that gets healthy meanwhile is guarded again, by the budget
    /// of this name.
    Unchanged(Option<String>),
}

/// Deletes the pod when its budget, if it has one, allows a disruption, which it takes.
pub async fn serve(server: &Arc<Server>, call: &Call, pods: &Arc<Resource>, eviction: &Value) -> Result<Reply, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let given = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut ctx = server.write_context(call)?;
    let wanted = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    ctx.dry_run |= wanted["dryRun"].as_array().is_some_and(|d| d.iter().any(|v| v == "All"));
    let options = DeleteOptions::from_value(&wanted)?;
    for _ in 0..ATTEMPTS {
        let pod = server.registry().get(pods, namespace, name).await?;
        let value = pod.to_value();
        let mut options = options.clone();
        let own_version = options.resource_version.is_none();
        let verdict = match ignores_budgets(&value) {
            Some(verdict) => verdict,
            None => take_disruption(server, &ctx, &pod, &value).await?,
        };
        if own_version && matches!(verdict, Verdict::Unchanged(_)) {
            options.resource_version = Some(pod.meta().resource_version.to_owned());
        }
        // The pod that the budget was asked about is the one that goes.
        options.uid.get_or_insert_with(|| pod.meta().uid.to_owned());
        match (evict(server, &ctx, pods, &pod, options).await, verdict) {
            (Ok(()), _) => {
                let done =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                return Ok(respond::json(201, &done));
            }
            // The pod has changed since: ask again.
            (Err(s), Verdict::Unchanged(budget)) if s.is_conflict() && own_version => {
                if let Some(name) = budget {
                    return Err(still_processed(&name));
                }
            }
            (Err(s), _) => return Err(s),
        }
    }
    Err(Status::stale("", "pods", name))
}

/// The verdict on a pod that no budget guards: one that has ended or has not begun.
fn ignores_budgets(pod: &Value) -> Option<Verdict> {
    let ending = pod["metadata"].get("deletionTimestamp").is_some();
    match pod["status"]["phase"].as_str() {
        Some("Succeeded" | "Failed") => Some(Verdict::Free),
        _ if ending => Some(Verdict::Free),
        Some("Pending") => Some(Verdict::Unchanged(None)),
        _ => None,
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Marks the pod as the target of a disruption and deletes it.
async fn evict(
    server: &Arc<Server>,
    ctx: &WriteContext,
    pods: &Arc<Resource>,
    pod: &Object,
    mut options: DeleteOptions,
) -> Result<(), Status> {
    let (namespace, name) = (pod.meta().namespace, pod.meta().name);
    if !ctx.dry_run {
        let now = api::time::rfc3339(ctx.now);
        let change = |current: &Value| {
            let is = |wanted: &Option<String>, field: &str| {
                wanted.as_ref().is_none_or(|w| current["metadata"][field] == w.as_str())
            };
            if !is(&options.uid, "uid") || !is(&options.resource_version, "resourceVersion") {
                return Err(Status::stale("", "pods", name));
            }
            Ok(unchecked(with_target_condition(current, &now)))
        };
        let marked = server.registry().modify(ctx, pods, namespace, name, &change).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(marked.meta().resource_version.to_owned());
        }
    }
    server.registry().delete(ctx, pods, namespace, name, &options).await.map(drop)
}

fn unchecked(value: Value) -> Decoded {
    Decoded { value, unknown: Vec::new(), duplicate: Vec::new() }
}

fn with_target_condition(pod: &Value, now: &str) -> Value {
    let mut new = pod.clone();
    let mut conditions = new["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let at = conditions.iter().position(|c| c["type"] == "DisruptionTarget");
    let old = at.map(|i| conditions.remove(i));
    let since = old.filter(|c| c["status"] == "True").map(|c| c["lastTransitionTime"].clone());
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": since.unwrap_or_else(|| now.into()),
    });
    conditions.insert(at.unwrap_or(conditions.len()), condition);
    new["status"]["conditions"] = conditions.into();
    new
}

fn still_processed(budget: &str) -> Status {
    refused(RETRY_SECONDS, format!("The disruption budget {budget} is still being processed by the server."))
}

/// A refusal. Without seconds, clients do not try again by themselves: who evicts decides.
fn refused(retry_seconds: u32, cause: String) -> Status {
    const WHY: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut s = Status::too_many_requests(WHY, retry_seconds);
    if let Some(d) = &mut s.details {
        d.causes.push(api::status::Cause { reason: "DisruptionBudget".into(), message: cause, field: String::new() });
    }
    s
}

/// The only budget that selects a pod.
async fn budget_of(server: &Arc<Server>, budgets: &Resource, pod: &Object) -> Result<Option<Arc<Object>>, Status> {
    let all = Selection::new(budgets, pod.meta().namespace, "", "")?;
    let page = server.registry().list(budgets, &all, At::Consistent, 0, None).await?;
    let mut matching = Vec::new();
    for b in page.items {
        if LabelSelector::from_value(&b.to_value()["spec"]["selector"])?.matches(pod.meta().labels) {
            matching.push(b);
        }
    }
    if matching.len() > 1 {
        return Err(Status::internal_plain(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(matching.pop())
}

async fn take_disruption(
    server: &Arc<Server>,
    ctx: &WriteContext,
    pod: &Object,
    value: &Value,
) -> Result<Verdict, Status> {
    let budgets = server.resource("policy", "v1", "poddisruptionbudgets")?;
    let Some(budget) = budget_of(server, &budgets, pod).await? else { return Ok(Verdict::Free) };
    if !is_ready(value) && spares_unhealthy(&budget.to_value()) {
        return Ok(Verdict::Unchanged(Some(budget.meta().name.to_owned())));
    }
    let (name, pod_name) = (budget.meta().name, pod.meta().name);
    let now = api::time::rfc3339(ctx.now);
    let change = |current: &Value| taken(current, name, pod_name, &now).map(unchecked);
    server.registry().modify(ctx, &budgets, budget.meta().namespace, name, &change).await?;
    Ok(Verdict::Free)
}

/// Whether a budget lets pods that are not ready go: they are not among those that it counts on.
fn spares_unhealthy(budget: &Value) -> bool {
    let number = |f: &str| budget["status"][f].as_i64().unwrap_or(0);
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy"))
}

/// The budget with one disruption less to give.
fn taken(budget: &Value, name: &str, pod: &str, now: &str) -> Result<Value, Status> {
    let status = &budget["status"];
    let number = |f: &str| status[f].as_i64().unwrap_or(0);
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(still_processed(name));
    }
    let allowed = number("disruptionsAllowed");
    let forbidden = |why: &str| Status::forbidden("policy", "poddisruptionbudgets", name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|d| d.len() > MAX_GRANTED) {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
        let cause = format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently");
        return Err(refused(0, cause));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = now.into();
    if allowed == 1 {
        for c in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if c["type"] == "DisruptionAllowed" {
                c["status"] = "False".into();
                c["reason"] = "InsufficientPods".into();
                c["lastTransitionTime"] = now.into();
            }
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has_and_then_says_what_it_needs() {
        let b = json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1,
            "desiredHealthy": 2, "currentHealthy": 2, "conditions": [{"type": "DisruptionAllowed", "status": "True"}]}});
        let after = taken(&b, "b", "p", "t").unwrap();
        assert_eq!(after["status"]["disruptedPods"]["p"], "t");
        assert_eq!(after["status"]["conditions"][0]["status"], "False");
        let s = taken(&after, "b", "q", "t").unwrap_err();
        assert_eq!(s.code, 429);
        let told = &s.details.unwrap().causes[0].message;
        assert_eq!(told, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }

    #[test]
    fn pods_that_are_not_ready_are_let_go_while_the_budget_is_met() {
        let b = |current: i64| json!({"status": {"desiredHealthy": 2, "currentHealthy": current}});
        assert!(spares_unhealthy(&b(2)));
        assert!(!spares_unhealthy(&b(1)));
        assert!(spares_unhealthy(&json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})));
    }
}
