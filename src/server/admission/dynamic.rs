//! What webhooks and policies have in common: which writes they are about, and what they see of one.
//!
//! * [`matching`] – rules and selectors.  [`conditions`] – match conditions.
//! * [`request`] – the AdmissionRequest.  [`compiled`] – configurations, compiled once.
//! * [`authorizer`] – what expressions ask the authorizers.

pub(super) mod authorizer;
pub(super) mod compiled;
pub(crate) mod conditions;
pub(super) mod matching;
pub(super) mod request;

use super::Attributes;

/// Configuration of admission is itself never subject to it: a mistake could not be taken back.
pub(super) fn is_exempt(a: &Attributes<'_>) -> bool {
    a.resource.group == "admissionregistration.k8s.io"
}
