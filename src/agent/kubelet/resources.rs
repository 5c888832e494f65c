//! Quantities, what a pod asks for, and its quality-of-service class.
//!
//! Upstream: `pkg/apis/core/v1/helper/qos`, `component-helpers/resource`.

use std::collections::BTreeMap;

use api::k8s::core::v1::{Container, Pod, ResourceRequirements};
use api::meta::api::resource::Quantity;

/// A quantity in thousandths, rounded up; `None` when it is none.
pub fn millis(q: &Quantity) -> Option<i128> {
    let nanos = api::quantity::Quantity::from_meta(q).ok()?.nanos();
    Some(nanos.div_euclid(1_000_000) + i128::from(nanos.rem_euclid(1_000_000) > 0))
}

/// A quantity as a whole number, rounded up; 0 when it is none.
pub fn value(q: &Quantity) -> i64 {
    api::quantity::Quantity::from_meta(q).map_or(0, |q| q.value())
}

/// A CPU quantity in thousandths of a core; 0 when it is none.
pub fn cpu_millis(q: &Quantity) -> i64 {
    api::quantity::Quantity::from_meta(q).map_or(0, |q| q.milli_value())
}

/// Amounts by which pods are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Everything else, by name.
    pub others: BTreeMap<String, i64>,
}

impl Amounts {
    fn of(map: Option<&BTreeMap<String, Quantity>>) -> Amounts {
        let mut a = Amounts::default();
        for (name, q) in map.into_iter().flatten() {
            match name.as_str() {
                "cpu" => a.cpu_millis = cpu_millis(q),
                "memory" => a.memory_bytes = value(q),
                other => {
                    a.others.insert(other.to_owned(), value(q));
                }
            }
        }
        a
    }

    /// Adds other amounts to these.
    pub fn add(&mut self, other: &Amounts) {
        self.cpu_millis += other.cpu_millis;
        self.memory_bytes += other.memory_bytes;
        for (k, v) in &other.others {
            *self.others.entry(k.clone()).or_default() += v;
        }
    }

    fn max(&mut self, other: &Amounts) {
        self.cpu_millis = self.cpu_millis.max(other.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        for (k, v) in &other.others {
            let own = self.others.entry(k.clone()).or_default();
            *own = (*own).max(*v);
        }
    }
}

/// What a pod asks for as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests.
    pub requests: Amounts,
    /// The pod's CPU limit, when every container has one.
    pub cpu_limit_millis: Option<i64>,
    /// The pod's memory limit, when every container has one.
    pub memory_limit_bytes: Option<i64>,
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// Requests of a container; a limit without a request is one.
fn requests(r: Option<&ResourceRequirements>) -> Amounts {
    let Some(r) = r else { return Amounts::default() };
    let mut map = r.limits.clone().unwrap_or_default();
    map.extend(r.requests.clone().unwrap_or_default());
    Amounts::of(Some(&map))
}

fn limit(c: &Container, name: &str) -> Option<Quantity> {
    c.resources.as_ref()?.limits.as_ref()?.get(name).filter(|q| millis(q).unwrap_or(0) > 0).cloned()
}

/// Sums a pod's containers: the greater of (all regular + sidecars) and of each init container
/// with the sidecars before it; then overhead and pod-level resources.
pub fn pod_totals(pod: &Pod) -> Totals {
    let Some(spec) = &pod.spec else { return Totals::default() };
    let mut total = Amounts::default();
    for c in &spec.containers {
        total.add(&requests(c.resources.as_ref()));
    }
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for c in spec.init_containers.iter().flatten() {
        let own = requests(c.resources.as_ref());
        if is_sidecar(c) {
            sidecars.add(&own);
            peak.max(&sidecars);
        } else {
            let mut now = sidecars.clone();
            now.add(&own);
            peak.max(&now);
        }
    }
    total.add(&sidecars);
    total.max(&peak);
    total.add(&Amounts::of(spec.overhead.as_ref()));
    let pod_level = Amounts::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if pod_level.cpu_millis > 0 {
        total.cpu_millis = pod_level.cpu_millis;
    }
    if pod_level.memory_bytes > 0 {
        total.memory_bytes = pod_level.memory_bytes;
    }
    let all = |name: &str, amount: fn(&Quantity) -> i64| -> Option<i64> {
        if let Some(q) = spec.resources.as_ref().and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name)) {
            return Some(amount(q));
        }
        let mut sum = 0i64;
        for c in &spec.containers {
            sum += amount(&limit(c, name)?);
        }
        let mut side = 0i64;
        let mut highest = 0i64;
        for c in spec.init_containers.iter().flatten() {
            let own = amount(&limit(c, name)?);
            if is_sidecar(c) {
                side += own;
                highest = highest.max(side);
            } else {
                highest = highest.max(side + own);
            }
        }
        let overhead = spec.overhead.as_ref().and_then(|o| o.get(name)).map_or(0, amount);
        Some((sum + side).max(highest) + overhead)
    };
    Totals { requests: total, cpu_limit_millis: all("cpu", cpu_millis), memory_limit_bytes: all("memory", value) }
}

/// A pod's quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container's CPU and memory limits equal its requests.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// Computes the class.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let all: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(r) if r.limits.is_some() || r.requests.is_some() => vec![Some(r)],
        _ => {
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.resources.as_ref()).collect()
        }
    };
    let (mut any, mut guaranteed) = (false, true);
    for r in all {
        for name in ["cpu", "memory"] {
            let pick = |m: Option<&BTreeMap<String, Quantity>>| {
                m.and_then(|m| m.get(name)).and_then(millis).filter(|v| *v > 0)
            };
            let limit = pick(r.and_then(|r| r.limits.as_ref()));
            let request = pick(r.and_then(|r| r.requests.as_ref()));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// `cpu.shares` for a CPU request.
pub fn cpu_shares(millis: i64) -> u64 {
    u64::try_from(millis * 1024 / 1000).unwrap_or(0).clamp(2, 262_144)
}

/// `cpu.cfs_quota_us` for a CPU limit and a period of 100 ms.
pub fn cpu_quota(millis: i64) -> i64 {
    if millis <= 0 { 0 } else { (millis * 100).max(1000) }
}

/// `oom_score_adj` of a container.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    if priority >= 2_000_001_000 {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = requests(container.resources.as_ref()).memory_bytes;
            let score = 1000 - (1000 * request) / memory_capacity.max(1);
            if score < 3 {
                3
            } else if score == 1000 {
                999
            } else {
                score
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        let q = |s: &str| millis(&Quantity(s.into()));
        assert_eq!(q("100m"), Some(100));
        assert_eq!(q("1.5"), Some(1500));
        assert_eq!(q("64Mi"), Some(64 * 1024 * 1024 * 1000));
        assert_eq!(q("1e3"), Some(1_000_000));
        assert_eq!(q("100n"), Some(1));
        assert_eq!(q("2k"), Some(2_000_000));
        assert_eq!(q("x"), None);
    }

    #[test]
    fn classes_follow_limits_and_requests() {
        let pod = |r: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "a", "resources": r}]}}))
                .unwrap()
        };
        assert_eq!(qos(&pod(serde_json::json!({}))), Qos::BestEffort);
        assert_eq!(qos(&pod(serde_json::json!({"requests": {"cpu": "1"}}))), Qos::Burstable);
        assert_eq!(qos(&pod(serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), Qos::Guaranteed);
    }
}
