//! Roles and bindings.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name};
use super::{list, list_mut, set, text};
use crate::field::{ErrorList, FieldError};
use crate::names;
use crate::resource::Strategy;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) struct Role;

impl Strategy for Role {
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, r) in list(o, "rules").enumerate() {
            let path = format!("rules[{i}]");
            let has = |f: &str| list(r, f).next().is_some();
            if !has("verbs") {
                errors.push(FieldError::required(format!("{path}.verbs"), "verbs must contain at least one value"));
            }
            if has("nonResourceURLs") {
                let namespaced = text(o, "kind") == "Role";
                if namespaced || has("apiGroups") || has("resources") || has("resourceNames") {
                    let detail = if namespaced {
                        "namespaced rules cannot apply to non-resource URLs"
                    } else {
                        "rules cannot apply to both regular resources and non-resource URLs"
                    };
                    errors.push(FieldError::invalid(
                        format!("{path}.nonResourceURLs"),
                        r["nonResourceURLs"].clone(),
                        detail,
                    ));
                }
                continue;
            }
            if !has("apiGroups") {
                errors.push(FieldError::required(
                    format!("{path}.apiGroups"),
                    "resource rules must supply at least one api group",
                ));
            }
            if !has("resources") {
                errors.push(FieldError::required(
                    format!("{path}.resources"),
                    "resource rules must supply at least one resource",
                ));
            }
        }
        if o["aggregationRule"].is_object() && list(&o["aggregationRule"], "clusterRoleSelectors").next().is_none() {
            errors.push(FieldError::required(
                "aggregationRule.clusterRoleSelectors",
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        errors
    }
    fn creates_on_update(&self) -> bool {
        true
    }
    fn name_error(&self, name: &str) -> Option<String> {
        names::path_segment_name(name)
    }
    fn cells(&self, o: &Value, _: Timestamp) -> Vec<Value> {
        vec![name(o), o["metadata"]["creationTimestamp"].clone()]
    }
}

pub(super) struct Binding;

impl Strategy for Binding {
    fn default(&self, o: &mut Value) {
        if let Some(r) = o.get_mut("roleRef").and_then(Value::as_object_mut) {
            set(r, "apiGroup", GROUP);
        }
        for s in list_mut(o, "subjects") {
            let group = matches!(text(s, "kind"), "User" | "Group");
            if let Some(m) = s.as_object_mut().filter(|_| group) {
                set(m, "apiGroup", GROUP);
            }
        }
    }
    fn validate(&self, o: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let role = &o["roleRef"];
        if text(role, "apiGroup") != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", role["apiGroup"].clone(), &[GROUP]));
        }
        let kinds: &[&str] = if text(o, "kind") == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&text(role, "kind")) {
            errors.push(FieldError::not_supported("roleRef.kind", role["kind"].clone(), kinds));
        }
        if text(role, "name").is_empty() {
            errors.push(FieldError::required("roleRef.name", ""));
        }
        for (i, s) in list(o, "subjects").enumerate() {
            let path = format!("subjects[{i}]");
            if text(s, "name").is_empty() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
            match text(s, "kind") {
                "ServiceAccount" if text(s, "namespace").is_empty() && text(o, "kind") == "ClusterRoleBinding" => {
                    errors.push(FieldError::required(format!("{path}.namespace"), ""));
                }
                "ServiceAccount" | "User" | "Group" => {}
                k => errors.push(FieldError::not_supported(
                    format!("{path}.kind"),
                    k,
                    &["ServiceAccount", "User", "Group"],
                )),
            }
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        if new["roleRef"] == old["roleRef"] {
            return ErrorList::new();
        }
        vec![FieldError::invalid("roleRef", new["roleRef"].clone(), "cannot change roleRef")]
    }
    fn creates_on_update(&self) -> bool {
        true
    }
    fn name_error(&self, name: &str) -> Option<String> {
        names::path_segment_name(name)
    }
    fn cells(&self, o: &Value, now: Timestamp) -> Vec<Value> {
        let of = |kind: &str| {
            let all = list(o, "subjects").filter(|s| text(s, "kind") == kind);
            let shown = |s: &Value| match (kind, text(s, "namespace")) {
                ("ServiceAccount", ns) if !ns.is_empty() => format!("{ns}/{}", text(s, "name")),
                _ => text(s, "name").to_owned(),
            };
            Value::from(all.map(shown).collect::<Vec<_>>().join(", "))
        };
        let role = format!("{}/{}", text(&o["roleRef"], "kind"), text(&o["roleRef"], "name"));
        vec![name(o), role.into(), age(o, now), of("User"), of("Group"), of("ServiceAccount")]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_group_is_the_groups_own() {
        let mut o = json!({
            "roleRef": {"apiGroup": "", "kind": "Role", "name": "r"},
            "subjects": [{"apiGroup": "", "kind": "User", "name": "u"}],
        });
        Binding.default(&mut o);
        assert_eq!((&o["roleRef"]["apiGroup"], &o["subjects"][0]["apiGroup"]), (&json!(GROUP), &json!(GROUP)));
    }
}
