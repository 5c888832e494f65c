//! Which labels a node may give itself
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>).
//!
//! The rest of `kubernetes.io` and `k8s.io`, and all of `node-restriction.kubernetes.io`, is the
//! administrator's: workloads are steered by it, so a node that could set it could draw them.

/// The domain that is kept from nodes altogether.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// The labels of `kubernetes.io` that nodes set.
const OWN: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The domains of `kubernetes.io` under which nodes set what they like.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn is_under(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a node may set this label on itself.
pub fn is_allowed(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(d, _)| d);
    if is_under(domain, RESTRICTED) {
        return false;
    }
    let reserved = is_under(domain, "kubernetes.io") || is_under(domain, "k8s.io");
    !reserved || OWN.contains(&key) || OWN_DOMAINS.iter().any(|d| is_under(domain, d))
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn nodes_set_their_own_labels_and_those_outside_of_kubernetes() {
        for key in [
            "disk",
            "example.com/disk",
            "kubernetes.io/os",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "a.kubelet.kubernetes.io/x",
            "notkubernetes.io/x",
        ] {
            assert!(is_allowed(key), "{key}");
        }
    }

    #[test]
    fn nodes_do_not_set_what_steers_workloads() {
        for key in [
            "node-restriction.kubernetes.io/team",
            "a.node-restriction.kubernetes.io/team",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/other",
            "other.kubernetes.io/x",
            "other.k8s.io/x",
            "k8s.io/x",
        ] {
            assert!(!is_allowed(key), "{key}");
        }
    }
}
