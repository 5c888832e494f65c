//! Lists: which objects, of which state, and how many of them.

use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector};
use api::{Object, Resource, Status};
use store::Revision;

use super::Registry;

/// Which objects a list, watch or deletecollection is about.
#[derive(Debug)]
pub struct Selection {
    /// Namespace; empty for all.
    pub namespace: String,
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
}

impl Selection {
    /// Parses the selectors and checks that the resource has the fields.
    ///
    /// # Errors
    /// 400 for a selector that does not parse or an unknown field.
    pub fn new(resource: &Resource, namespace: &str, labels: &str, fields: &str) -> Result<Selection, Status> {
        let labels = LabelSelector::parse(labels)?;
        let fields = FieldSelector::parse(fields)?;
        fields.check(&resource.selectable_fields, resource.schema.is_typed())?;
        Ok(Selection { namespace: namespace.to_owned(), labels, fields })
    }

    /// The key prefix that the selected objects share.
    pub fn key_prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    /// Whether the selectors select everything in the namespace.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.requirements().is_empty()
    }

    /// Whether an object is selected.
    pub fn selects(&self, resource: &Resource, object: &Object) -> bool {
        let m = object.meta();
        if !self.labels.is_empty() && !self.labels.matches(m.labels) {
            return false;
        }
        self.fields.requirements().iter().all(|r| {
            let equal = match r.path.as_str() {
                "metadata.name" => m.name == r.value,
                "metadata.namespace" => m.namespace == r.value,
                path => object.selectable(resource, path) == r.value,
            };
            equal == r.equal
        })
    }
}

/// Which state a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Everything that has been acknowledged.
    Consistent,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(Revision),
    /// Exactly this revision.
    Exact(Revision),
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects in key order.
    pub items: Vec<Arc<Object>>,
    /// The revision of the whole list; 0 when it has none.
    pub revision: Revision,
    /// The last key of this page when more follow.
    pub next: Option<String>,
    /// How many follow, where nothing is selected.
    pub remaining: Option<usize>,
}

impl Registry {
    /// A page of a list, from a key on.
    ///
    /// # Errors
    /// 410 for an exact revision that is gone, 504 for one that is not reached in time.
    pub async fn list(
        &self,
        resource: &Resource,
        selection: &Selection,
        at: At,
        limit: usize,
        start: Option<&str>,
    ) -> Result<Page, Status> {
        let cache = self.cache(resource)?;
        let (objects, revision) = match at {
            At::Any => {
                let r = self.caches.applied();
                (cache.objects(), r)
            }
            At::Consistent => {
                let r = self.caches.fresh().await?;
                (cache.objects(), r)
            }
            At::NotOlderThan(r) => {
                let r = self.caches.reached(r).await?;
                (cache.objects(), r)
            }
            At::Exact(r) => {
                self.caches.reached(r).await?;
                self.caches.kept(r)?;
                (cache.objects_at(r)?, r)
            }
        };
        let prefix = selection.key_prefix();
        let start: Arc<str> = Arc::from(start.unwrap_or(&prefix));
        let all = selection.is_everything();
        let mut items = Vec::new();
        let mut last: Option<Arc<str>> = None;
        let mut range = objects.range(start..).take_while(|(k, _)| k.starts_with(prefix.as_str()));
        for (key, object) in range.by_ref() {
            if all || selection.selects(resource, object) {
                items.push(object.clone());
                if limit != 0 && items.len() == limit {
                    last = Some(key.clone());
                    break;
                }
            }
        }
        // As upstream: more follow, whether or not they are selected.
        let following = if last.is_some() { range.count() } else { 0 };
        let next = last.filter(|_| following > 0).map(|k| k.to_string());
        Ok(Page { items, revision, remaining: (all && next.is_some()).then_some(following), next })
    }
}
