//! Field errors with upstream's types and wording (`k8s.io/apimachinery/pkg/util/validation/field`).

use serde_json::Value;

/// The kind of a field error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A required value is missing.
    Required,
    /// The value is not acceptable.
    Invalid,
    /// The value is not one of those supported.
    NotSupported,
    /// The same value occurs twice.
    Duplicate,
    /// The field may not be set here.
    Forbidden,
    /// Something referred to does not exist.
    NotFound,
    /// The value has too many bytes.
    TooLong,
    /// The list has too many entries.
    TooMany,
    /// The value has the wrong type.
    TypeInvalid,
    /// The server failed.
    Internal,
}

impl ErrorKind {
    /// The cause reason on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::NotFound => "Not found",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of error.
    pub kind: ErrorKind,
    /// The path, such as `spec.containers[0].name`.
    pub field: String,
    /// The offending value, where the kind shows one.
    pub value: Option<Value>,
    /// Details for people.
    pub detail: String,
}

/// All that is wrong with an object.
pub type ErrorList = Vec<FieldError>;

impl FieldError {
    /// A missing value.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError { kind: ErrorKind::Required, field: field.into(), value: None, detail: detail.into() }
    }
    /// An unacceptable value.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError { kind: ErrorKind::Invalid, field: field.into(), value: Some(value.into()), detail: detail.into() }
    }
    /// A value outside an enumeration.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        FieldError {
            kind: ErrorKind::NotSupported,
            field: field.into(),
            value: Some(value.into()),
            detail: format!("supported values: {}", quoted.join(", ")),
        }
    }
    /// A value that occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> FieldError {
        FieldError { kind: ErrorKind::Duplicate, field: field.into(), value: Some(value.into()), detail: String::new() }
    }
    /// A field that may not be set.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError { kind: ErrorKind::Forbidden, field: field.into(), value: None, detail: detail.into() }
    }
    /// A referenced thing that is absent.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> FieldError {
        FieldError { kind: ErrorKind::NotFound, field: field.into(), value: Some(value.into()), detail: String::new() }
    }
    /// A value of more than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        FieldError {
            kind: ErrorKind::TooLong,
            field: field.into(),
            value: None,
            detail: format!("may not be more than {max} bytes"),
        }
    }
    /// A list of more than `max` entries.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> FieldError {
        FieldError {
            kind: ErrorKind::TooMany,
            field: field.into(),
            value: Some(actual.into()),
            detail: format!("must have at most {max} items"),
        }
    }

    /// The message without the field path: what `causes[].message` carries.
    pub fn body(&self) -> String {
        let title = self.kind.title();
        let mut text = match (&self.kind, &self.value) {
            (ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal, _) | (_, None) => {
                title.to_owned()
            }
            (_, Some(Value::String(s))) => format!("{title}: {s:?}"),
            (_, Some(v)) => format!("{title}: {v}"),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}
