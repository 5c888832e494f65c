//! APIService: who serves a group and version: this server, or a service of the cluster
//! (upstream: `kube-aggregator/pkg/apis/apiregistration`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, name};
use super::text;
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

pub(super) struct ApiService;

impl Strategy for ApiService {
    fn status_keeps(&self) -> &'static [&'static str] {
        &["labels", "annotations"]
    }

    fn default(&self, o: &mut Value) {
        if let Some(service) = o.pointer_mut("/spec/service").and_then(Value::as_object_mut)
            && service.get("port").is_none_or(Value::is_null)
        {
            service.insert("port".into(), 443.into());
        }
    }

    fn prepare_create(&self, o: &mut Value) {
        if !o["spec"]["service"].is_object() {
            // What this server serves itself is always there.
            o["status"] = json!({"conditions": [{
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": o["metadata"]["creationTimestamp"],
            }]});
        }
    }

    fn name_error(&self, name: &str) -> Option<String> {
        // `v1.` is the core group's.
        names::path_segment_name(name)
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let (mut errors, spec) = (ErrorList::new(), &o["spec"]);
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let wanted = format!("{version}.{group}");
        if o["metadata"]["name"] != wanted.as_str() {
            let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(FieldError::invalid("metadata.name", o["metadata"]["name"].clone(), why));
        }
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(FieldError::required("spec.group", why));
        }
        if !group.is_empty()
            && let Some(e) = names::dns1123_subdomain(group)
        {
            errors.push(FieldError::invalid("spec.group", group, e));
        }
        if let Some(e) = names::dns1035_label(version) {
            errors.push(FieldError::invalid("spec.version", version, e));
        }
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = spec[field].as_i64().unwrap_or(0);
            if value <= 0 || value > most {
                let why = format!("must be positive and less than {most}");
                errors.push(FieldError::invalid(format!("spec.{field}"), value, why));
            }
        }
        errors.extend(service(spec));
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> ErrorList {
        let conditions = new["status"]["conditions"].as_array().into_iter().flatten().enumerate();
        let wrong = conditions.filter(|(_, c)| !matches!(text(c, "status"), "True" | "False" | "Unknown"));
        let error = |(i, c): (usize, &Value)| {
            let path = format!("status.conditions[{i}].status");
            FieldError::not_supported(path, text(c, "status"), &["True", "False", "Unknown"])
        };
        wrong.map(error).collect()
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let available = o["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Available");
        let available = match available {
            None => "Unknown".to_owned(),
            Some(c) if c["status"] == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
        };
        let service = &o["spec"]["service"];
        let service = match service.is_object() {
            true => format!("{}/{}", text(service, "namespace"), text(service, "name")),
            false => "Local".to_owned(),
        };
        vec![name(o), service.into(), available.into(), age(o, now)]
    }
}

/// What is wrong with the service, and with how it is trusted.
fn service(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (bundle, insecure) = (text(spec, "caBundle"), spec["insecureSkipTLSVerify"] == true);
    let service = &spec["service"];
    if !service.is_object() {
        if !bundle.is_empty() {
            let padding = bundle.bytes().rev().take_while(|b| *b == b'=').count();
            let shown = format!("{} bytes", bundle.len() / 4 * 3 - padding);
            errors.push(FieldError::invalid("spec.caBundle", shown, "local APIServices may not have a caBundle"));
        }
        if insecure {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
        }
        return errors;
    }
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errors.push(FieldError::required(format!("spec.service.{field}"), ""));
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if let Some(e) = names::port_number(port) {
        errors.push(FieldError::invalid("spec.service.port", port, format!("port is not valid: {e}")));
    }
    if insecure && !bundle.is_empty() {
        let why = "may not be true if caBundle is present";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_checked_and_completed() {
        let mut o = json!({"metadata": {"name": "v1.example.org"}, "spec": {"group": "example.org", "version": "v1",
            "groupPriorityMinimum": 2000, "versionPriority": 200, "service": {"name": "a", "namespace": "b"}}});
        ApiService.default(&mut o);
        assert_eq!((&o["spec"]["service"]["port"], ApiService.validate(&o)), (&json!(443), vec![]));
        let said = |pointer: &str, value: Value| {
            let mut o = o.clone();
            *o.pointer_mut(pointer).unwrap() = value;
            ApiService.validate(&o).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said("/spec/service/name", json!("")), "spec.service.name: Required value");
        assert!(said("/spec/service/port", json!(0)).starts_with("spec.service.port: Invalid value: 0: port is not"));
        assert!(said("/spec/versionPriority", json!(1001)).contains("must be positive and less than 1000"));
        o["spec"]["insecureSkipTLSVerify"] = true.into();
        assert_eq!(ApiService.validate(&o), vec![]);
        o["spec"]["caBundle"] = "AAAA".into();
        assert_eq!(
            ApiService.validate(&o)[0].to_string(),
            "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present"
        );
        o["spec"]["service"].take();
        let said = ApiService.validate(&o);
        assert_eq!(
            said[0].to_string(),
            "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle"
        );
    }

    #[test]
    fn a_row_names_the_service_and_why_it_is_not_available() {
        let o = json!({"metadata": {"name": "v1.example.org"}, "spec": {"service": {"name": "a", "namespace": "b"}},
            "status": {"conditions": [{"type": "Available", "status": "False", "reason": "MissingEndpoints"}]}});
        let cells = ApiService.cells(&o, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], ["b/a".into(), Value::from("False (MissingEndpoints)")]);
    }
}
