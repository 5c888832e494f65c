//! Nodes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, name};
use super::container::resources;
use super::{list, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::{Strategy, field_at};

const ROLE: &str = "node-role.kubernetes.io/";

pub(super) struct Node;

impl Strategy for Node {
    fn field(&self, o: &Value, path: &str) -> Option<String> {
        field_at(o, path).or_else(|| (path == "spec.unschedulable").then(|| "false".to_owned()))
    }
    fn default(&self, o: &mut Value) {
        // The one range is the first of all; where they differ, the one wins, as upstream converts them.
        if let Some(spec) = o.get_mut("spec").and_then(Value::as_object_mut) {
            let one = spec.get("podCIDR").and_then(Value::as_str).map(str::to_owned);
            let first = spec.get("podCIDRs").and_then(|all| all[0].as_str()).map(str::to_owned);
            match (one, first) {
                (None, Some(first)) => {
                    spec.insert("podCIDR".into(), first.into());
                }
                (Some(one), first) if first.as_ref() != Some(&one) => {
                    spec.insert("podCIDRs".into(), json!([one]));
                }
                _ => {}
            }
        }
        // The status defaults allocatable to capacity; the kubelet always sends both.
        if o.get("status").is_some_and(|s| s.get("allocatable").is_none())
            && let Some(c) = o.pointer("/status/capacity").cloned()
        {
            o["status"]["allocatable"] = c;
        }
    }

    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = Vec::new();
        for (i, t) in list(&o["spec"], "taints").enumerate() {
            // Upstream has this path.
            let path = format!("metadata.taints[{i}]");
            let (key, effect) = (text(t, "key"), text(t, "effect"));
            errors.extend(
                names::qualified_name_errors(key)
                    .into_iter()
                    .map(|e| FieldError::invalid(format!("{path}.key"), key, e)),
            );
            if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                let all = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                errors.push(FieldError::not_supported(format!("{path}.effect"), effect, &all));
            }
            let value = text(t, "value");
            let wrong = names::label_value_errors(value);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(format!("{path}.value"), value, wrong.join(";")));
            }
            if seen.contains(&(key, effect)) {
                errors.push(FieldError::duplicate(path, t.clone()));
            }
            seen.push((key, effect));
        }
        let cidrs: Vec<&str> = list(&o["spec"], "podCIDRs").filter_map(Value::as_str).collect();
        for (i, c) in cidrs.iter().enumerate() {
            let field = format!("spec.podCIDRs[{i}]");
            if c.parse::<ipnet::IpNet>().is_err() {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(FieldError::invalid(field.clone(), *c, detail));
            }
            if cidrs[..i].contains(c) {
                errors.push(FieldError::duplicate(field, *c));
            }
        }
        let ranges: Vec<ipnet::IpNet> = cidrs.iter().filter_map(|c| c.parse().ok()).collect();
        let of_family = |six: bool| ranges.iter().filter(|r| matches!(r, ipnet::IpNet::V6(_)) == six).count();
        if ranges.len() == cidrs.len() && (of_family(false) > 1 || of_family(true) > 1) {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid("spec.podCIDRs", o["spec"]["podCIDRs"].clone(), detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let (is, was, mut errors) = (&new["spec"], &old["spec"], ErrorList::new());
        if list(was, "podCIDRs").next().is_some() && is["podCIDRs"] != was["podCIDRs"] {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.podCIDRs", detail));
        }
        if !text(was, "providerID").is_empty() && is["providerID"] != was["providerID"] {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.providerID", detail));
        }
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let (status, mut errors) = (&new["status"], ErrorList::new());
        for field in ["capacity", "allocatable"] {
            for (name, q) in status[field].as_object().into_iter().flatten() {
                let path = format!("status.{field}[{name}]");
                resources::amount(name, q, &path, &mut errors);
            }
        }
        let mut seen = Vec::new();
        for (i, a) in list(status, "addresses").enumerate() {
            if seen.contains(&a) {
                errors.push(FieldError::duplicate(format!("status.addresses[{i}]"), a.clone()));
            }
            seen.push(a);
        }
        errors
    }

    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let ready = list(&o["status"], "conditions").find(|c| c["type"] == "Ready");
        let mut status = match ready.map(|c| text(c, "status")) {
            Some("True") => "Ready".to_owned(),
            Some(_) => "NotReady".to_owned(),
            None => "Unknown".to_owned(),
        };
        if o["spec"]["unschedulable"] == true {
            status += ",SchedulingDisabled";
        }
        let mut roles: Vec<&str> = o["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(k, _)| k.strip_prefix(ROLE))
            .collect();
        roles.sort_unstable();
        let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") };
        let address = |kind: &str| {
            let found = list(&o["status"], "addresses").find(|a| a["type"] == kind).map(|a| text(a, "address"));
            Value::from(found.unwrap_or("<none>"))
        };
        let info = |f: &str| {
            let v = text(&o["status"]["nodeInfo"], f);
            Value::from(if v.is_empty() { "<unknown>" } else { v })
        };
        vec![
            name(o),
            status.into(),
            roles.into(),
            age(o, now),
            text(&o["status"]["nodeInfo"], "kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut node = json!({"spec": spec});
        Node.default(&mut node);
        node
    }

    #[test]
    fn the_range_of_pods_and_the_ranges_follow_each_other() {
        let both = json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]});
        assert_eq!(defaulted(json!({"podCIDR": "10.0.0.0/24"}))["spec"], both);
        assert_eq!(defaulted(json!({"podCIDRs": ["10.0.0.0/24"]}))["spec"], both);
        assert_eq!(defaulted(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]}))["spec"], both);
        let two = json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]});
        assert_eq!(defaulted(two.clone())["spec"], two);
        assert_eq!(defaulted(json!({}))["spec"], json!({}));
    }

    #[test]
    fn ranges_of_pods_are_ranges_and_one_of_each_family() {
        let said = |spec: Value| Node.validate(&defaulted(spec)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(said(json!({"podCIDR": "x"}))[0].starts_with("spec.podCIDRs[0]: Invalid value: \"x\""));
        assert!(said(json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]})).is_empty());
        let two = said(json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}));
        assert!(two[0].ends_with("may specify no more than one CIDR for each IP family"), "{two:?}");
    }
}
