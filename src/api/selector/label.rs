//! Label selectors: `k8s.io/apimachinery/pkg/labels`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::meta::apis::meta::v1::LabelSelector as MetaSelector;
use crate::names;
use crate::object::labels::LabelSet;
use crate::status::Status;

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `in`, `=`, `==`
    In,
    /// `notin`, `!=`; also matches when the label is absent.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is an integer above the value.
    GreaterThan,
    /// The label is an integer below the value.
    LessThan,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Operator.
    pub operator: Operator,
    /// Values, sorted.
    pub values: Vec<String>,
    /// Whether it was written as `a=b` or `a!=b`.
    exact: bool,
}

impl Requirement {
    /// Makes a checked requirement. `exact` says that it is written `a=b` rather than `a in (b)`.
    ///
    /// # Errors
    /// Upstream's message.
    pub fn new(key: &str, operator: Operator, values: Vec<String>, exact: bool) -> Result<Requirement, String> {
        let wrong = names::qualified_name_errors(key);
        if !wrong.is_empty() {
            return Err(format!("key: Invalid value: {key:?}: {}", wrong.join("; ")));
        }
        let listed = || serde_json::to_string(&values).unwrap_or_default();
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return Err(format!(
                    "values: Invalid value: {}: for 'in', 'notin' operators, values set can't be empty",
                    listed()
                ));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return Err(format!(
                    "values: Invalid value: {}: values set must be empty for exists and does not exist",
                    listed()
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                let [value] = &values[..] else {
                    return Err(format!(
                        "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
                        listed()
                    ));
                };
                if value.parse::<i64>().is_err() {
                    return Err(format!(
                        "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = names::label_value_errors(value);
            if !wrong.is_empty() {
                return Err(format!("values[{i}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
            }
        }
        let mut values = values;
        values.sort();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values, exact })
    }

    /// Whether labels meet it.
    pub fn matches(&self, labels: &impl LabelSet) -> bool {
        let value = labels.label(&self.key);
        let listed = || value.is_some_and(|v| self.values.iter().any(|wanted| wanted == v));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = value.and_then(|v| v.parse::<i64>().ok());
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (number, bound) {
                    (Some(n), Some(b)) if self.operator == Operator::GreaterThan => n > b,
                    (Some(n), Some(b)) => n < b,
                    _ => false,
                }
            }
        }
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In if self.exact => write!(f, "{key}={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn if self.exact => write!(f, "{key}!={values}"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Requirements on labels; all must be met. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object: what the empty selector `{}` means.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Matches no object: what an absent selector means in a spec.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the query form: `a=b,c in (d,e),!f`.
    ///
    /// # Errors
    /// 400 with upstream's message.
    pub fn parse(text: &str) -> Result<LabelSelector, Status> {
        let requirements = super::parse::requirements(text).map_err(Status::bad_request)?;
        Ok(LabelSelector::from_requirements(requirements))
    }

    /// All of these requirements.
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Exactly these labels, unchecked; an empty map matches everything.
    pub fn from_map(labels: &BTreeMap<String, String>) -> LabelSelector {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.clone()],
                exact: true,
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Reads `matchLabels` and `matchExpressions`. `{}` matches everything, null matches nothing.
    ///
    /// # Errors
    /// 400 with upstream's message.
    pub fn from_value(value: &Value) -> Result<LabelSelector, Status> {
        if value.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let selector: MetaSelector = serde_json::from_value(value.clone())
            .map_err(|e| Status::bad_request(format!("invalid label selector: {e}")))?;
        LabelSelector::from_meta(&selector)
    }

    /// Reads the typed form. One without requirements matches everything; see
    /// [`LabelSelector::from_meta_option`] for one that may be absent.
    ///
    /// # Errors
    /// 400 with upstream's message.
    pub fn from_meta(selector: &MetaSelector) -> Result<LabelSelector, Status> {
        let mut all = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            all.push(Requirement::new(key, Operator::In, vec![value.clone()], true).map_err(Status::bad_request)?);
        }
        for e in selector.match_expressions.iter().flatten() {
            let operator = match e.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(Status::bad_request(format!("{other:?} is not a valid label selector operator")));
                }
            };
            let values = e.values.clone().unwrap_or_default();
            all.push(Requirement::new(&e.key, operator, values, false).map_err(Status::bad_request)?);
        }
        Ok(LabelSelector::from_requirements(all))
    }

    /// Reads the typed form; none at all matches nothing.
    ///
    /// # Errors
    /// 400 with upstream's message.
    pub fn from_meta_option(selector: Option<&MetaSelector>) -> Result<LabelSelector, Status> {
        selector.map_or_else(|| Ok(LabelSelector::nothing()), LabelSelector::from_meta)
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether it matches nothing, whatever the labels.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Whether labels meet all requirements.
    pub fn matches(&self, labels: &impl LabelSet) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        f.write_str(&list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn matching() {
        let l = labels(&[("a", "b"), ("n", "5")]);
        for (text, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a!=b", false),
            ("x!=b", true),
            ("a in (b, c)", true),
            ("a notin (b)", false),
            ("x notin (b)", true),
            ("a", true),
            ("!a", false),
            ("!x", true),
            ("n>4", true),
            ("n<5", false),
            ("a>1", false),
            ("a=b,n=5", true),
            ("a=b,n=6", false),
            ("x=", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&l), expected, "{text}");
        }
    }

    #[test]
    fn absent_and_empty_differ() {
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&labels(&[])));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(&labels(&[])));
        let s = LabelSelector::from_value(&json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]}))
        .unwrap();
        assert_eq!(s.to_string(), "a=b,c notin (d)");
        assert!(s.matches(&labels(&[("a", "b")])));
        let e =
            LabelSelector::from_value(&json!({"matchExpressions": [{"key": "c", "operator": "Like"}]})).unwrap_err();
        assert_eq!(e.message, "\"Like\" is not a valid label selector operator");
    }
}
