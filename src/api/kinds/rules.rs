//! Rules that many kinds share, with upstream's words (`apimachinery/pkg/api/validation`,
//! `pkg/apis/core/validation`). Each looks at one value at a path and adds what is wrong with it.

use serde_json::Value;

use super::{list, text};
use crate::field::{ErrorKind, ErrorList, FieldError};
use crate::metadata::validate_labels;
use crate::names;
use crate::quantity::Quantity;

/// What is wrong with a name.
pub(super) type Form = fn(&str) -> Vec<String>;

pub(super) const IMMUTABLE: &str = "field is immutable";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// Upstream's words for a mode of a file.
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Notes each of several things that are wrong with one string.
pub(super) fn all_wrong(field: &str, value: &str, wrong: impl IntoIterator<Item = String>, errors: &mut ErrorList) {
    errors.extend(wrong.into_iter().map(|w| FieldError::invalid(field, value, w)));
}

/// A name that must be there, and of a form.
pub(super) fn named(v: &Value, field: &str, path: &str, form: Form, errors: &mut ErrorList) {
    let (path, name) = (format!("{path}.{field}"), text(v, field));
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        all_wrong(&path, name, form(name), errors);
    }
}

/// A name that may be there, of a form.
pub(super) fn named_if_given(v: &Value, field: &str, path: &str, form: Form, errors: &mut ErrorList) {
    if !text(v, field).is_empty() {
        named(v, field, path, form, errors);
    }
}

/// Strings that must not be empty.
pub(super) fn required(v: &Value, fields: &[&str], path: &str, errors: &mut ErrorList) {
    let empty = fields.iter().filter(|f| text(v, f).is_empty());
    errors.extend(empty.map(|f| FieldError::required(format!("{path}.{f}"), "")));
}

/// One of some words; required when nothing is given.
pub(super) fn one_of(v: &Value, field: &str, path: &str, supported: &[&str], errors: &mut ErrorList) {
    if text(v, field).is_empty() {
        errors.push(FieldError::required(format!("{path}.{field}"), ""));
    } else {
        one_of_if_given(v, field, path, supported, errors);
    }
}

/// One of some words, where something is given.
pub(super) fn one_of_if_given(v: &Value, field: &str, path: &str, supported: &[&str], errors: &mut ErrorList) {
    if let Some(given) = v[field].as_str().filter(|g| !supported.contains(g)) {
        errors.push(FieldError::not_supported(format!("{path}.{field}"), given, supported));
    }
}

/// Numbers of at least 0.
pub(super) fn not_negative(v: &Value, fields: &[&str], path: &str, errors: &mut ErrorList) {
    for f in fields {
        if let Some(n) = v[*f].as_i64().filter(|n| *n < 0) {
            errors.push(FieldError::invalid(format!("{path}.{f}"), n, NOT_NEGATIVE));
        }
    }
}

/// A number within bounds.
pub(super) fn between(v: &Value, field: &str, path: &str, least: i64, most: i64, errors: &mut ErrorList) {
    if let Some(n) = v[field].as_i64().filter(|n| *n < least || *n > most) {
        let detail = format!("must be between {least} and {most}, inclusive");
        errors.push(FieldError::invalid(format!("{path}.{field}"), n, detail));
    }
}

/// The id of a user or group.
pub(super) fn id(v: &Value, field: &str, path: &str, errors: &mut ErrorList) {
    between(v, field, path, 0, i64::from(i32::MAX), errors);
}

/// The mode of a file.
pub(super) fn file_mode(v: &Value, field: &str, path: &str, errors: &mut ErrorList) {
    if let Some(n) = v[field].as_i64().filter(|n| *n < 0 || *n > 0o777) {
        errors.push(FieldError::invalid(format!("{path}.{field}"), n, FILE_MODE));
    }
}

/// A number or name of a port.
pub(super) fn port_or_name(v: &Value, path: &str, errors: &mut ErrorList) {
    let field = format!("{path}.port");
    match &v["port"] {
        Value::String(name) => all_wrong(&field, name, names::port_name_errors(name), errors),
        other => {
            let n = other.as_i64().unwrap_or(0);
            errors.extend(names::port_number(n).map(|w| FieldError::invalid(field, n, w)));
        }
    }
}

/// What the fields have may not change.
pub(super) fn immutable(new: &Value, old: &Value, fields: &[&str], path: &str, errors: &mut ErrorList) {
    for f in fields.iter().filter(|f| new[**f] != old[**f]) {
        let field = if path.is_empty() { (*f).to_owned() } else { format!("{path}.{f}") };
        errors.push(FieldError::invalid(field, new[*f].clone(), IMMUTABLE));
    }
}

/// The key of a label.
pub(super) fn label_name(key: &str, field: &str, errors: &mut ErrorList) {
    all_wrong(field, key, names::qualified_name_errors(key), errors);
}

/// A label selector at a path; null is none.
pub(super) fn label_selector(v: &Value, path: &str, errors: &mut ErrorList) {
    errors.extend(validate_labels(&v["matchLabels"], &format!("{path}.matchLabels")));
    for (i, e) in list(v, "matchExpressions").enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let empty = list(e, "values").next().is_none();
        operator(e, &path, empty, &["In", "NotIn"], errors);
        label_name(text(e, "key"), &format!("{path}.key"), errors);
        for (n, value) in list(e, "values").enumerate() {
            let value = value.as_str().unwrap_or_default();
            all_wrong(&format!("{path}.values[{n}]"), value, names::label_value_errors(value), errors);
        }
    }
}

/// The operator of a requirement, and whether it has values.
pub(super) fn operator(e: &Value, path: &str, empty: bool, with_values: &[&str], errors: &mut ErrorList) {
    let values = format!("{path}.values");
    match text(e, "operator") {
        o if with_values.contains(&o) => {
            if empty {
                errors.push(FieldError::required(values, "must be specified when `operator` is 'In' or 'NotIn'"));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !empty {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(values, detail));
            }
        }
        other => {
            errors.push(FieldError::invalid(format!("{path}.operator"), other, "not a valid selector operator"));
        }
    }
}

/// An amount that is none is told by the decoder; this tells of those below 0.
pub(super) fn amount(q: &Value, field: &str, errors: &mut ErrorList) -> Option<Quantity> {
    match Quantity::from_value(q) {
        Err(e) => {
            errors.push(FieldError::invalid(field, q.clone(), e));
            None
        }
        Ok(parsed) => {
            if parsed.sign() < 0 {
                errors.push(FieldError::invalid(field, q.clone(), NOT_NEGATIVE));
            }
            Some(parsed)
        }
    }
}

/// A reference to a thing of the same namespace, by name.
pub(super) fn not_found(field: String, name: &str, detail: String) -> FieldError {
    FieldError { detail, ..FieldError { kind: ErrorKind::NotFound, ..FieldError::not_found(field, name) } }
}

/// A relative path that stays below where it starts.
pub(super) fn descending_path(given: &str, field: &str, errors: &mut ErrorList) {
    if given.starts_with('/') {
        errors.push(FieldError::invalid(field, given, "must be a relative path"));
    }
    no_backsteps(given, field, errors);
}

/// A path that never goes up.
pub(super) fn no_backsteps(given: &str, field: &str, errors: &mut ErrorList) {
    if given.split('/').any(|p| p == "..") {
        errors.push(FieldError::invalid(field, given, "must not contain '..'"));
    }
}

/// The path of a projected file.
pub(super) fn file_path(given: &str, field: &str, errors: &mut ErrorList) {
    descending_path(given, field, errors);
    if given.starts_with("..") && !given.starts_with("../") {
        errors.push(FieldError::invalid(field, given, "must not start with '..'"));
    }
}

/// The name of a CSI driver.
pub(super) fn csi_driver(v: &Value, field: &str, path: &str, errors: &mut ErrorList) {
    let (path, name) = (format!("{path}.{field}"), text(v, field));
    if name.is_empty() {
        errors.push(FieldError::required(path.clone(), ""));
    }
    if name.len() > 63 {
        errors.push(FieldError::too_long(path.clone(), 63));
    }
    all_wrong(&path, name, names::dns1123_subdomain_errors(&name.to_lowercase()), errors);
}
