//! The JSONPath of printer columns, scale paths and selectable fields: fields, indexes, `[*]` and
//! filters that compare with a constant
//! (<https://kubernetes.io/docs/reference/kubectl/jsonpath/>, the part that definitions may use).

use serde_json::Value;

/// Filters in filters.
const FILTERS_MAX: usize = 8;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Negative numbers count from the end.
    Index(i64),
    Every,
    /// `?(@.path == value)`; without a comparison the path must be there.
    Filter(JsonPath, Option<(Compare, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARISONS: [(&str, Compare); 6] = [
    ("==", Compare::Equal),
    ("!=", Compare::NotEqual),
    ("<=", Compare::LessOrEqual),
    (">=", Compare::GreaterOrEqual),
    ("<", Compare::Less),
    (">", Compare::Greater),
];

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        JsonPath::parse_within(text, FILTERS_MAX)
    }

    fn parse_within(text: &str, filters: usize) -> Result<JsonPath, String> {
        let text = text.trim();
        let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        let mut rest = inner;
        while !rest.is_empty() {
            rest = if let Some(after) = rest.strip_prefix('.') {
                if after.is_empty() && steps.is_empty() {
                    break;
                }
                field(after, &mut steps)?
            } else if let Some(after) = rest.strip_prefix('[') {
                bracket(after, filters, &mut steps)?
            } else {
                return Err(format!("{text:?}: a field must begin with a dot"));
            };
        }
        Ok(JsonPath(steps))
    }

    /// Everything that the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut at = vec![root];
        for step in &self.0 {
            at = at.into_iter().flat_map(|v| step.from(v)).collect();
        }
        at
    }
}

/// A plain field; a backslash keeps a dot in its name.
fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> Result<&'t str, String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            _ => name.push(c),
        }
    }
    match name.as_str() {
        "" => return Err("a field has no name".into()),
        "*" => steps.push(Step::Every),
        _ => steps.push(Step::Field(name)),
    }
    Ok(&text[end..])
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))
}

fn bracket<'t>(text: &'t str, filters: usize, steps: &mut Vec<Step>) -> Result<&'t str, String> {
    let end = closing(text).ok_or("a bracket is not closed")?;
    let (inside, rest) = (text[..end].trim(), &text[end + 1..]);
    if let Some(condition) = inside.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let filters = filters.checked_sub(1).ok_or("filters are nested too deeply")?;
        steps.push(filter(condition.trim(), filters)?);
    } else if inside == "*" {
        steps.push(Step::Every);
    } else if let Some(name) = quoted(inside) {
        steps.push(Step::Field(name.to_owned()));
    } else {
        steps.push(Step::Index(inside.parse().map_err(|_| format!("{inside:?} is no index"))?));
    }
    Ok(rest)
}

/// Where a bracket that was opened before `text` closes, beyond quotes and inner brackets.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn filter(text: &str, filters: usize) -> Result<Step, String> {
    let own = |t: &str| match t.trim().strip_prefix('@') {
        Some(path) => JsonPath::parse_within(path, filters),
        None => Err(format!("{t:?}: a filter must begin with @")),
    };
    let found = COMPARISONS.iter().find_map(|(sign, c)| text.split_once(sign).map(|(l, r)| (l, *c, r.trim())));
    let Some((left, compare, right)) = found else { return Ok(Step::Filter(own(text)?, None)) };
    let value = match quoted(right) {
        Some(s) => Value::String(s.to_owned()),
        None => serde_json::from_str(right).map_err(|_| format!("{right:?} is no constant"))?,
    };
    Ok(Step::Filter(own(left)?, Some((compare, value))))
}

impl Step {
    fn from<'a>(&self, v: &'a Value) -> Vec<&'a Value> {
        match (self, v) {
            (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Step::Index(i), Value::Array(list)) => {
                let at = if *i < 0 { list.len() as i64 + i } else { *i };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            (Step::Every, Value::Array(list)) => list.iter().collect(),
            (Step::Every, Value::Object(map)) => map.values().collect(),
            (Step::Filter(path, condition), Value::Array(list)) => list
                .iter()
                .filter(|item| {
                    let found = path.find(item);
                    match condition {
                        None => !found.is_empty(),
                        Some((compare, value)) => found.iter().any(|f| compare.holds(f, value)),
                    }
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl Compare {
    fn holds(self, a: &Value, b: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (a, b) {
            (Value::Number(x), Value::Number(y)) => x.as_f64().partial_cmp(&y.as_f64()),
            (Value::String(x), Value::String(y)) => Some(x.cmp(y)),
            _ => (a == b).then_some(Equal),
        };
        match self {
            Compare::Equal => order == Some(Equal),
            Compare::NotEqual => order != Some(Equal),
            Compare::Less => order == Some(Less),
            Compare::LessOrEqual => matches!(order, Some(Less | Equal)),
            Compare::Greater => order == Some(Greater),
            Compare::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_upstreams_do() {
        let v = json!({"spec": {"a.b": 1, "list": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}, "m": {"p": 1, "q": 2}});
        let find = |p: &str| JsonPath::parse(p).unwrap().find(&v).into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(find(".spec.list[0].t"), [json!("x")]);
        assert_eq!(find(".spec.list[-1].v"), [json!(2)]);
        assert_eq!(find(".spec.list[*].v"), [json!(1), json!(2)]);
        assert_eq!(find(r#".spec.list[?(@.t=="y")].v"#), [json!(2)]);
        assert_eq!(find(".spec.list[?(@.v >= 1)].t"), [json!("x"), json!("y")]);
        assert_eq!(find(r".spec.a\.b"), [json!(1)]);
        assert_eq!(find("{.spec['a.b']}"), [json!(1)]);
        assert_eq!(find(".m.*"), [json!(1), json!(2)]);
        assert!(find(".spec.none.deep").is_empty());
        for bad in ["spec", ".spec[", ".a..b", ".a[x]", ".a[?(b==1)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
