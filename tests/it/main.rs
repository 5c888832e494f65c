//! Whole-system tests: the real executable, real kubectl. One binary, one file per subject.
//!
//! What a machine cannot run is reported as skipped, never left out silently.

#![allow(clippy::unwrap_used, missing_docs)]

mod aggregation;
mod api;
mod apply;
mod authn;
mod authz_webhook;
mod clients;
mod corruption;
mod csr;
mod custom_resources;
mod durability;
mod encryption;
mod golden;
mod helm;
mod hosts;
mod https;
mod image;
mod install;
mod join;
mod kubectl;
mod lab;
mod node;
mod pods;
mod python;
mod tidy;
mod verbs;
#[path = "../../src/server/testing/webhook.rs"]
mod webhook;
mod webhooks;
mod workloads;
