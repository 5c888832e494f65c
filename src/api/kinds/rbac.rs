//! Roles and bindings.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name};
use super::{list, list_mut, rules, set, text};
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
            errors.push(FieldError::not_supported("roleRef.apiGroup", text(role, "apiGroup"), &[GROUP]));
        }
        let kinds: &[&str] = if text(o, "kind") == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&text(role, "kind")) {
            errors.push(FieldError::not_supported("roleRef.kind", text(role, "kind"), kinds));
        }
        let form = |n: &str| names::path_segment_name(n).into_iter().collect();
        rules::named(role, "name", "roleRef", form, &mut errors);
        for (i, s) in list(o, "subjects").enumerate() {
            subject(s, text(o, "kind") == "RoleBinding", &format!("subjects[{i}]"), &mut errors);
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

fn subject(s: &Value, namespaced: bool, path: &str, errors: &mut ErrorList) {
    let (name, kind, group) = (text(s, "name"), text(s, "kind"), text(s, "apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let of_group = |wanted: &str| {
        let field = format!("{path}.apiGroup");
        (group != wanted).then(|| FieldError::not_supported(field, group, &[wanted]))
    };
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                rules::all_wrong(&format!("{path}.name"), name, names::dns1123_subdomain_errors(name), errors);
            }
            errors.extend(of_group(""));
            if !namespaced && text(s, "namespace").is_empty() {
                errors.push(FieldError::required(format!("{path}.namespace"), ""));
            }
        }
        "User" | "Group" => errors.extend(of_group(GROUP)),
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(format!("{path}.kind"), other, &kinds));
        }
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

    #[test]
    fn a_subject_is_of_the_group_of_its_kind() {
        let o = json!({"kind": "RoleBinding",
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "10%"},
            "subjects": [{"apiGroup": " ", "kind": "User", "name": "u"},
                {"apiGroup": GROUP, "kind": "ServiceAccount", "name": " ", "namespace": "n"}]});
        let told: Vec<String> = Binding.validate(&o).iter().map(|e| e.field.clone()).collect();
        assert_eq!(told, ["roleRef.name", "subjects[0].apiGroup", "subjects[1].name", "subjects[1].apiGroup"]);
    }
}
