//! DefaultStorageClass and DefaultIngressClass: who names no class gets the newest of those that
//! an annotation calls the default.

use std::sync::Weak;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation, alive};
use crate::Server;
use crate::registry::{At, Selection};

/// What has a class, and where its default is said.
pub(super) struct Facts {
    plugin: &'static str,
    /// Group and plural of what has a class.
    resource: (&'static str, &'static str),
    field: &'static str,
    /// An older way to name a class.
    annotation: &'static str,
    /// Group and plural of the classes.
    classes: (&'static str, &'static str),
    /// The annotations of the default class.
    marks: &'static [&'static str],
}

/// DefaultStorageClass
pub(super) static STORAGE: Facts = Facts {
    plugin: "DefaultStorageClass",
    resource: ("", "persistentvolumeclaims"),
    field: "storageClassName",
    annotation: "volume.beta.kubernetes.io/storage-class",
    classes: ("storage.k8s.io", "storageclasses"),
    marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
};

/// DefaultIngressClass
pub(super) static INGRESS: Facts = Facts {
    plugin: "DefaultIngressClass",
    resource: ("networking.k8s.io", "ingresses"),
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
    classes: ("networking.k8s.io", "ingressclasses"),
    marks: &["ingressclass.kubernetes.io/is-default-class"],
};

pub(super) struct DefaultClass {
    pub(super) server: Weak<Server>,
    pub(super) facts: &'static Facts,
}

#[async_trait]
impl Admission for DefaultClass {
    fn name(&self) -> &'static str {
        self.facts.plugin
    }

    async fn mutate(&self, a: &Attributes<'_>, object: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let f = self.facts;
        let concerned = (a.resource.group.as_str(), a.resource.plural.as_str()) == f.resource;
        if a.operation != Operation::Create
            || !concerned
            || !a.subresource.is_empty()
            || object["spec"][f.field].is_string()
            || object["metadata"]["annotations"].get(f.annotation).is_some()
        {
            return Ok(());
        }
        let server = alive(&self.server)?;
        let classes = server.resource(f.classes.0, "v1", f.classes.1)?;
        let all = Selection::new(&classes, "", "", "")?;
        let page = server.registry().list(&classes, &all, At::Consistent, 0, None).await?;
        if let Some(name) = newest_default(&page.items, f.marks) {
            object["spec"][f.field] = name.into();
        }
        Ok(())
    }
}

fn newest_default(classes: &[std::sync::Arc<Object>], marks: &[&str]) -> Option<String> {
    let marked = classes.iter().map(|o| o.to_value()).filter(|c| {
        let annotations = &c["metadata"]["annotations"];
        marks.iter().any(|m| annotations[*m] == "true")
    });
    let order = |c: &Value| {
        let text = |f: &str| c["metadata"][f].as_str().unwrap_or_default().to_owned();
        (std::cmp::Reverse(text("creationTimestamp")), text("name"))
    };
    marked.min_by_key(order).and_then(|c| c["metadata"]["name"].as_str().map(str::to_owned))
}
