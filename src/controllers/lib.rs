//! The controllers: one file each, one table of all of them.
//!
//! A controller is level-triggered and keyed: sources map changes to keys, one de-duplicating
//! queue orders them, `reconcile(key)` looks at the caches, decides, and writes through the API
//! under the controller's own identity. See docs/checklists/add-a-controller.md.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission_policy_status;
pub mod certificates;
pub mod cluster_authentication;
pub mod cluster_roles;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod garbage_collector;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_control;
pub mod pod_gc;
pub mod pv_protection;
pub mod pvc_protection;
pub mod replicaset;
pub mod resource_quota;
pub mod root_ca;
pub mod runtime;
pub mod service_account;
pub mod stale_disruption;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl_after_finished;

pub use runtime::{Config, Context};

/// Starts every controller; they end with the context's token.
pub fn start(context: &Context) {
    replicaset::start(context);
    deployment::start(context);
    daemonset::start(context);
    job::start(context);
    ttl_after_finished::start(context);
    endpoints::start(context);
    endpointslice::start(context);
    endpointslice_mirroring::start(context);
    disruption::start(context);
    stale_disruption::start(context);
    resource_quota::start(context);
    namespace::start(context);
    service_account::start(context);
    root_ca::start(context);
    cluster_authentication::start(context);
    cluster_roles::start(context);
    node_ipam::start(context);
    node_lifecycle::start(context);
    taint_eviction::start(context);
    pod_gc::start(context);
    token_cleaner::start(context);
    certificates::start(context);
    admission_policy_status::start(context);
    pvc_protection::start(context);
    pv_protection::start(context);
    garbage_collector::start(context);
}
