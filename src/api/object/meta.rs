//! The metadata of an object, as little of it as the machinery needs and in as few pieces: a
//! cluster holds many thousands of objects, and most are small.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::labels::Labels;

/// An owner reference, as far as the machinery needs it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerRef {
    /// `apps/v1`
    pub api_version: String,
    /// `ReplicaSet`
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's UID.
    pub uid: String,
    /// Whether this owner manages the object.
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for the object.
    pub block_owner_deletion: bool,
}

/// The part of `metadata` that generic machinery reads.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// Name.
    pub name: &'a str,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// UID.
    pub uid: &'a str,
    /// The revision, as a decimal string.
    pub resource_version: &'a str,
    /// Generation.
    pub generation: i64,
    /// Labels.
    pub labels: &'a Labels,
    /// Finalizers.
    pub finalizers: &'a [String],
    /// Owners.
    pub owner_references: &'a [OwnerRef],
    /// Set once deletion has been requested.
    pub deletion_timestamp: Option<&'a str>,
    /// Seconds of grace left to the object.
    pub deletion_grace_period_seconds: Option<i64>,
}

/// What few objects have.
struct Lifecycle {
    finalizers: Vec<String>,
    owner_references: Vec<OwnerRef>,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
}

static NO_LIFECYCLE: Lifecycle = Lifecycle {
    finalizers: Vec::new(),
    owner_references: Vec::new(),
    deletion_timestamp: None,
    deletion_grace_period_seconds: None,
};

/// How [`Meta`] is held.
pub(super) struct Held {
    /// `namespace/name` or `name`, then UID, then revision.
    text: Box<str>,
    namespace: u16,
    /// The length of the key.
    key: u16,
    uid: u16,
    /// Where the JSON has the value of `managedFields`; empty when it has none.
    managed: (u32, u32),
    generation: i64,
    labels: Labels,
    lifecycle: Option<Box<Lifecycle>>,
}

impl Held {
    /// `namespace/name`, or `name` for cluster-scoped objects.
    pub(super) fn key(&self) -> &str {
        &self.text[..usize::from(self.key)]
    }

    /// Where the JSON has the value of `managedFields`.
    pub(super) fn managed(&self) -> Option<Range<usize>> {
        let (start, end) = self.managed;
        (start < end).then_some(start as usize..end as usize)
    }

    pub(super) fn view(&self) -> Meta<'_> {
        let (key, rest) = self.text.split_at(usize::from(self.key));
        let (uid, resource_version) = rest.split_at(usize::from(self.uid));
        let (namespace, name) = match self.namespace {
            0 => ("", key),
            n => (&key[..usize::from(n)], &key[usize::from(n) + 1..]),
        };
        let lifecycle = self.lifecycle.as_deref().unwrap_or(&NO_LIFECYCLE);
        Meta {
            name,
            namespace,
            uid,
            resource_version,
            generation: self.generation,
            labels: &self.labels,
            finalizers: &lifecycle.finalizers,
            owner_references: &lifecycle.owner_references,
            deletion_timestamp: lifecycle.deletion_timestamp.as_deref(),
            deletion_grace_period_seconds: lifecycle.deletion_grace_period_seconds,
        }
    }
}

/// Where a part of a text is in it.
fn within(all: &[u8], part: &[u8]) -> Option<(u32, u32)> {
    let start = (part.as_ptr() as usize).checked_sub(all.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= all.len()).then_some((u32::try_from(start).ok()?, u32::try_from(end).ok()?))
}

/// As it is read.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Read<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) resource_version: Cow<'a, str>,
    generation: i64,
    labels: Labels,
    finalizers: Vec<String>,
    owner_references: Vec<OwnerRef>,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
    #[serde(borrow)]
    managed_fields: Option<&'a RawValue>,
}

/// Of an entry of the managed fields.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
}

impl Read<'_> {
    /// Where this JSON has the field sets of the managed fields, in order.
    pub(super) fn field_sets(&self, json: &[u8]) -> Vec<Range<usize>> {
        let entries = self.managed_fields.and_then(|m| serde_json::from_str::<Vec<Entry<'_>>>(m.get()).ok());
        let sets = entries.into_iter().flatten().filter_map(|entry| within(json, entry.fields?.get().as_bytes()));
        sets.map(|(start, end)| start as usize..end as usize).collect()
    }

    /// To be kept, of this JSON.
    ///
    /// # Errors
    /// For names that are longer than any can be.
    pub(super) fn held(self, json: &[u8]) -> Result<Held, serde_json::Error> {
        let key = super::key_of(&self.namespace, &self.name);
        let length = |text: &str| {
            u16::try_from(text.len()).map_err(|_| serde::de::Error::custom("a name in the metadata is too long"))
        };
        let lifecycle = Lifecycle {
            finalizers: self.finalizers,
            owner_references: self.owner_references,
            deletion_timestamp: self.deletion_timestamp,
            deletion_grace_period_seconds: self.deletion_grace_period_seconds,
        };
        let is_plain = lifecycle.finalizers.is_empty()
            && lifecycle.owner_references.is_empty()
            && lifecycle.deletion_timestamp.is_none()
            && lifecycle.deletion_grace_period_seconds.is_none();
        let managed = self.managed_fields.and_then(|found| within(json, found.get().as_bytes()));
        Ok(Held {
            managed: managed.unwrap_or_default(),
            namespace: length(&self.namespace)?,
            key: length(&key)?,
            uid: length(&self.uid)?,
            text: [&key, &*self.uid, &*self.resource_version].concat().into_boxed_str(),
            generation: self.generation,
            labels: self.labels,
            lifecycle: (!is_plain).then(|| Box::new(lifecycle)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(json: &str) -> Held {
        serde_json::from_str::<Read<'_>>(json).unwrap().held(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_held_is_what_was_read() {
        let plain = held(r#"{"name": "a\"b", "uid": "u", "resourceVersion": "7"}"#);
        let meta = plain.view();
        assert_eq!((meta.name, meta.namespace, meta.uid, meta.resource_version), ("a\"b", "", "u", "7"));
        assert_eq!((plain.key(), meta.finalizers.len(), meta.deletion_timestamp), ("a\"b", 0, None));
        let going = held(
            r#"{"name": "b", "namespace": "n", "generation": 3, "labels": {"l": "v"}, "finalizers": ["f"],
                "ownerReferences": [{"name": "o"}], "deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}"#,
        );
        let meta = going.view();
        assert_eq!((going.key(), meta.name, meta.namespace, meta.uid), ("n/b", "b", "n", ""));
        assert_eq!((meta.generation, meta.labels.get("l"), meta.finalizers), (3, Some("v"), &["f".to_owned()][..]));
        assert_eq!((meta.owner_references[0].name.as_str(), meta.deletion_timestamp), ("o", Some("t")));
        assert_eq!(meta.deletion_grace_period_seconds, Some(0));
    }

    #[test]
    fn managed_fields_are_found_where_they_are() {
        for (json, found) in [
            (r#"{"name": "a", "managedFields": [{"a": 1}], "uid": "u"}"#, Some(r#"[{"a": 1}]"#)),
            (r#"{"managedFields": null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(held(json).managed().map(|at| &json[at]), found);
        }
        let json = r#"{"managedFields": [{"fieldsV1": {"f:a": {}}}, {}, {"fieldsV1": {"f:b":{}}, "time": null}]}"#;
        let sets = serde_json::from_str::<Read<'_>>(json).unwrap().field_sets(json.as_bytes());
        assert_eq!(sets.into_iter().map(|at| &json[at]).collect::<Vec<_>>(), [r#"{"f:a": {}}"#, r#"{"f:b":{}}"#]);
    }

    #[test]
    fn a_name_that_is_too_long_is_an_error() {
        let json = format!(r#"{{"name": "{}"}}"#, "x".repeat(70_000));
        assert!(serde_json::from_str::<Read<'_>>(&json).unwrap().held(json.as_bytes()).is_err());
    }
}
