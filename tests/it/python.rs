//! The official Python client, against an API without nodes; `kubectl.rs` has pods for it.

use crate::clients::{python, well};
use crate::lab::Cluster;

#[test]
fn what_programs_in_python_do() {
    let Some(mut command) = python("client.py") else { return };
    let c = Cluster::start();
    let text = well(command.arg(c.kubeconfig()));
    assert!(text.contains("is content"), "{text}");
}
