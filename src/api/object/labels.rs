//! The labels of an object, as one text: a map of two labels would take ten times their characters.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Something that selectors select by.
pub trait LabelSet {
    /// The value of a label.
    fn label(&self, name: &str) -> Option<&str>;
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// See the module: names and values in turn, each ended by a character that none of them has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

const END: char = '\0';

impl Labels {
    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator(END);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl LabelSet for Labels {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Labels, D::Error> {
        let map = BTreeMap::<String, String>::deserialize(d)?;
        // Validation lets no label in that has the character.
        let valid = |text: &String| !text.contains(END);
        let pairs = map.iter().filter(|(name, value)| valid(name) && valid(value));
        Ok(Labels(pairs.map(|(name, value)| format!("{name}{END}{value}{END}")).collect::<String>().into_boxed_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_found_by_its_name() {
        let labels: Labels = serde_json::from_str(r#"{"b": "", "a/x": "1", "no\u0000": "x"}"#).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a/x", "1"), ("b", "")]);
        assert_eq!((labels.get("b"), labels.get("1"), labels.get("c")), (Some(""), None, None));
        assert!(Labels::default().is_empty());
    }
}
