//! What this version cannot honour must not be ignored: such pods stay pending and say why.

use api::k8s::core::v1::Pod;

use crate::framework::Plugin;

pub(super) struct Unsupported;

impl Plugin for Unsupported {
    fn name(&self) -> &'static str {
        "Unsupported"
    }

    fn pre_filter(&self, pod: &Pod) -> Option<String> {
        let spec = pod.spec.as_ref()?;
        let affinity = spec.affinity.as_ref();
        let required =
            |present: bool, what: &str| present.then(|| format!("{what} is not supported by this version of sampan"));
        let pod_affinity = affinity.and_then(|a| a.pod_affinity.as_ref());
        let anti = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let has = |l: Option<&Vec<_>>| l.is_some_and(|l| !l.is_empty());
        required(
            has(pod_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            "required podAffinity",
        )
        .or_else(|| {
            required(
                has(anti.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
                "required podAntiAffinity",
            )
        })
        .or_else(|| {
            let spread =
                spec.topology_spread_constraints.iter().flatten().any(|c| c.when_unsatisfiable == "DoNotSchedule");
            required(spread, "topologySpreadConstraints with DoNotSchedule")
        })
    }
}
