//! APIService: who serves a group and version. So far that is this server, for all of them
//! (upstream: `kube-aggregator/pkg/apis/apiregistration`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, name};
use super::text;
use crate::field::{ErrorList, FieldError};
use crate::resource::Strategy;

pub(super) struct ApiService;

impl Strategy for ApiService {
    fn prepare_create(&self, o: &mut Value) {
        // What this server serves itself is always there.
        o["status"] = json!({"conditions": [{
            "type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available",
            "lastTransitionTime": o["metadata"]["creationTimestamp"],
        }]});
    }

    fn name_error(&self, name: &str) -> Option<String> {
        // `v1.` is the core group's.
        crate::names::path_segment_name(name)
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let (mut errors, spec) = (ErrorList::new(), &o["spec"]);
        let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
        if o["metadata"]["name"] != wanted.as_str() {
            let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(FieldError::invalid("metadata.name", o["metadata"]["name"].clone(), why));
        }
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = spec[field].as_i64().unwrap_or(0);
            if value <= 0 || value > most {
                let why = format!("must be positive and less than {most}");
                errors.push(FieldError::invalid(format!("spec.{field}"), value, why));
            }
        }
        if spec["service"].is_object() {
            let why = "API servers beside this one are not supported by this version of the server";
            errors.push(FieldError::forbidden("spec.service", why));
        }
        errors
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let available = o["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Available");
        let available = available.map_or("Unknown", |c| text(c, "status"));
        vec![name(o), "Local".into(), available.into(), age(o, now)]
    }
}
