//! Where a policy is in force, with which parameters, and what follows from its findings.

use api::selector::LabelSelector;
use api::{Object, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::dynamic::matching::{self, Matching};

#[derive(Deserialize)]
struct Stored {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    policy_name: String,
    param_ref: Option<DeclaredRef>,
    match_resources: Option<matching::Declared>,
    #[serde(default)]
    validation_actions: Vec<Action>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct DeclaredRef {
    name: String,
    namespace: String,
    selector: Option<Value>,
    parameter_not_found_action: String,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    Deny,
    Warn,
    Audit,
}

/// Which parameters.
pub(super) enum Chosen {
    ByName(String),
    BySelector(LabelSelector),
}

/// The parameters of a binding.
pub(super) struct ParamRef {
    pub(super) chosen: Chosen,
    /// Empty for that of the request.
    pub(super) namespace: String,
    /// Whether a binding without parameters lets everything pass.
    pub(super) may_be_absent: bool,
}

/// See the module.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) param_ref: Option<ParamRef>,
    pub(super) matching: Option<Matching>,
    pub(super) actions: Vec<Action>,
}

impl Binding {
    /// Reads a stored binding.
    pub(super) fn new(object: &Object) -> Result<Binding, Status> {
        let stored: Stored = serde_json::from_value(object.to_value()).map_err(Status::internal)?;
        let spec = stored.spec;
        Ok(Binding {
            name: object.meta().name.to_owned(),
            policy: spec.policy_name,
            param_ref: spec.param_ref.map(ParamRef::new).transpose()?,
            matching: spec.match_resources.map(Matching::new).transpose()?,
            actions: spec.validation_actions,
        })
    }
}

impl ParamRef {
    fn new(d: DeclaredRef) -> Result<ParamRef, Status> {
        let chosen = match &d.selector {
            Some(s) => Chosen::BySelector(LabelSelector::from_value(s)?),
            None => Chosen::ByName(d.name),
        };
        let may_be_absent = d.parameter_not_found_action == "Allow";
        Ok(ParamRef { chosen, namespace: d.namespace, may_be_absent })
    }
}
