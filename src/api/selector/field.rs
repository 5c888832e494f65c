//! Field selectors: `k8s.io/apimachinery/pkg/fields`.

use crate::status::Status;

/// One requirement on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// `spec.nodeName`
    pub path: String,
    /// The value.
    pub value: String,
    /// Whether the field must have the value, or must not.
    pub equal: bool,
}

/// Requirements on fields; all must be met. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads `a=b,c!=d`, with `\` before `,`, `=` and `\` in values.
    ///
    /// # Errors
    /// 400 with upstream's message.
    pub fn parse(text: &str) -> Result<FieldSelector, Status> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((path, equal, raw)) = split_term(term) else {
                return Err(Status::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            let value = unescape(raw).map_err(Status::bad_request)?;
            requirements.push(FieldRequirement { path: path.to_owned(), value, equal });
        }
        Ok(FieldSelector { requirements })
    }

    /// The requirements, in order.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a field must have, where one requirement says so.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.path == path).map(|r| r.value.as_str())
    }

    /// Whether an object whose fields `field` reads meets all requirements. An absent field is empty.
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|r| (field(&r.path).unwrap_or_default() == r.value) == r.equal)
    }

    /// Refuses fields that a resource cannot select by; a built-in kind with none of its own says
    /// it in other words.
    ///
    /// # Errors
    /// 400 with upstream's message.
    pub fn check(&self, selectable: &[String], builtin: bool) -> Result<(), Status> {
        for r in &self.requirements {
            if matches!(r.path.as_str(), "metadata.name" | "metadata.namespace") || selectable.contains(&r.path) {
                continue;
            }
            return Err(Status::bad_request(if selectable.is_empty() && builtin {
                format!("{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", r.path)
            } else {
                format!("field label not supported: {}", r.path)
            }));
        }
        Ok(())
    }
}

/// Splits at commas that no `\` precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(other) => return Err(format!("invalid field selector: invalid escape sequence: \\{other}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c}"));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

impl std::fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list: Vec<String> = self
            .requirements
            .iter()
            .map(|r| {
                let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
                format!("{}{}{value}", r.path, if r.equal { "=" } else { "!=" })
            })
            .collect();
        f.write_str(&list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_written() {
        let s = FieldSelector::parse("a=b,c!=d,,e==f\\,g").unwrap();
        assert_eq!(s.to_string(), "a=b,c!=d,e=f\\,g");
        assert_eq!(s.exact("e"), Some("f,g"));
        assert!(s.matches(|p| {
            Some(
                match p {
                    "a" => "b",
                    "e" => "f,g",
                    _ => "",
                }
                .to_owned(),
            )
        }));
        assert!(!s.matches(|_| None));
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }

    #[test]
    fn refusals() {
        let e = FieldSelector::parse("abc").unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (400, "invalid selector: 'abc'; can't understand 'abc'"));
        assert!(FieldSelector::parse("a=b=c").is_err() && FieldSelector::parse("a=\\b").is_err());
        let s = FieldSelector::parse("spec.x=1").unwrap();
        assert_eq!(s.check(&["spec.y".to_owned()], true).unwrap_err().message, "field label not supported: spec.x");
    }
}
