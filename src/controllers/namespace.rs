//! Namespace deletion: everything in a terminating namespace goes, then the namespace
//! (upstream: `pkg/controller/namespace/deletion`).
//!
//! Invariant: the `kubernetes` finalizer is removed only when every listable resource has been
//! seen empty, those of other API servers too.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::core::v1::Namespace;
use async_trait::async_trait;
use client::api::{Call, Gvr, ListParams, PatchKind, Verb};
use client::{Client, Informer};
use serde_json::{Value, json};

use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// Pods need their grace period; what is left is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct NamespaceController {
    client: Client,
    namespaces: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let client = (context.client_for)(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let queue = Queue::default();
    runtime::enqueue_own(&namespaces, &queue);
    let controller = NamespaceController { client, namespaces: namespaces.clone() };
    runtime::run(context, Arc::new(controller), queue, vec![namespaces], 4);
}

/// What discovery found.
pub(crate) struct Discovered {
    /// The resources that can be listed, watched and deleted.
    pub(crate) resources: Vec<Found>,
    /// The group versions whose servers did not answer.
    pub(crate) failed: Vec<String>,
}

/// One resource.
pub(crate) struct Found {
    pub(crate) gvr: Gvr,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

/// Asks for all resources. A server beside the API server that does not answer leaves the others'.
pub(crate) async fn discover(client: &Client) -> Result<Discovered, Status> {
    let read = async |path: &str| -> Result<Value, Status> {
        serde_json::from_slice(&client.api().raw_get(path).await?).map_err(Status::internal)
    };
    let mut versions = vec!["v1".to_owned()];
    for g in read("/apis").await?["groups"].as_array().into_iter().flatten() {
        versions.push(g["preferredVersion"]["groupVersion"].as_str().unwrap_or_default().to_owned());
    }
    let (mut resources, mut failed) = (Vec::new(), Vec::new());
    for gv in versions {
        let (group, version) = gv.split_once('/').unwrap_or(("", &gv));
        let root = if group.is_empty() { "api" } else { "apis" };
        let list = match read(&format!("/{root}/{gv}")).await {
            Ok(list) => list,
            // Without the core group nothing works.
            Err(s) if group.is_empty() => return Err(s),
            // It has gone since the groups were read.
            Err(s) if s.is_not_found() => continue,
            Err(s) => {
                tracing::debug!(gv, error = %s, "discovery of a group version failed");
                failed.push(gv);
                continue;
            }
        };
        for r in list["resources"].as_array().into_iter().flatten() {
            let name = r["name"].as_str().unwrap_or_default();
            let verbs: Vec<&str> = r["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let fits = ["list", "delete", "watch"].iter().all(|v| verbs.contains(v));
            if !name.contains('/') && fits {
                let kind = r["kind"].as_str().unwrap_or_default().to_owned();
                resources.push(Found {
                    gvr: Gvr::dynamic(group, version, name),
                    kind,
                    namespaced: r["namespaced"] == true,
                });
            }
        }
    }
    Ok(Discovered { resources, failed })
}

/// What a terminating namespace still has.
#[derive(Default)]
struct Left {
    /// Resource, count, finalizers.
    objects: Vec<(String, usize, Vec<String>)>,
    /// Group versions that could not be asked for their resources.
    unknown: Vec<String>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.objects.is_empty() && self.unknown.is_empty()
    }
}

fn condition(kind: &str, bad: bool, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": if bad { "True" } else { "False" }, "reason": reason, "message": message,
        "lastTransitionTime": api::meta::apis::meta::v1::Time(jiff::Timestamp::now())})
}

/// Whether discovery was complete, in upstream's words.
fn discovery(unknown: &[String]) -> Value {
    const KIND: &str = "NamespaceDeletionDiscoveryFailure";
    if unknown.is_empty() {
        return condition(KIND, false, "ResourcesDiscovered", "All resources successfully discovered");
    }
    let failures: Vec<String> = unknown.iter().map(|gv| format!("{gv}: stale GroupVersion discovery: {gv}")).collect();
    let why = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
        unknown.len(),
        failures.join(", ")
    );
    condition(KIND, true, "DiscoveryFailed", &why)
}

impl NamespaceController {
    /// Deletes what can be deleted; returns what is left.
    async fn empty(&self, namespace: &str) -> Result<Left, Status> {
        let found = discover(&self.client).await?;
        let mut left = Left { unknown: found.failed, ..Default::default() };
        for Found { gvr, .. } in found.resources.into_iter().filter(|f| f.namespaced) {
            // Events about the end of the others come until the end.
            let params = ListParams { namespace: namespace.to_owned(), ..Default::default() };
            let list = self.client.api().list(&gvr, &params).await?;
            if list.items.is_empty() {
                continue;
            }
            let call = Call {
                verb: Verb::DeleteCollection,
                gvr: gvr.clone(),
                namespace: namespace.to_owned(),
                name: String::new(),
                subresource: String::new(),
                query: Vec::new(),
                body: Some(json!({"propagationPolicy": "Background"}).to_string().into()),
            };
            self.client.api().call(call).await?;
            let rest = self.client.api().list(&gvr, &params).await?.items;
            if !rest.is_empty() {
                let mut finalizers: Vec<String> = rest.iter().flat_map(|o| o.meta().finalizers.to_owned()).collect();
                finalizers.sort();
                finalizers.dedup();
                left.objects.push((api::status::qualified(&gvr.group, &gvr.plural), rest.len(), finalizers));
            }
        }
        Ok(left)
    }

    async fn report(&self, namespace: &Namespace, left: &Left) -> Result<(), Status> {
        let Left { objects: left, unknown } = left;
        let counts: Vec<String> = left.iter().map(|(r, n, _)| format!("{r} has {n} resource instances")).collect();
        let remaining = counts.join(", ");
        let holding: Vec<String> =
            left.iter().flat_map(|(_, n, f)| f.iter().map(move |f| format!("{f} in {n} resource instances"))).collect();
        let content = if left.is_empty() {
            condition("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed")
        } else {
            condition(
                "NamespaceContentRemaining",
                true,
                "SomeResourcesRemain",
                &format!("Some resources are remaining: {remaining}"),
            )
        };
        let finalizers = if holding.is_empty() {
            condition(
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            )
        } else {
            let text = format!("Some content in the namespace has finalizers remaining: {}", holding.join(", "));
            condition("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", &text)
        };
        let mut wanted = vec![
            discovery(unknown),
            condition(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            condition(
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            content,
            finalizers,
        ];
        let have = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let mut same = have.len() >= wanted.len();
        for w in &mut wanted {
            let old = have.iter().find(|c| w["type"] == c.type_);
            same &=
                old.is_some_and(|c| w["status"] == c.status && w["message"] == c.message.clone().unwrap_or_default());
            if let Some(c) = old.filter(|c| w["status"] == c.status) {
                w["lastTransitionTime"] = json!(c.last_transition_time);
            }
        }
        if same {
            return Ok(());
        }
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let patch = json!({"status": {"conditions": wanted}});
        crate::pod_control::ignore_absent(
            self.client.patch::<Namespace>("", &name, "status", PatchKind::Strategic, &patch).await,
        )?;
        Ok(())
    }
}

#[async_trait]
impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "namespace"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(namespace) = self.namespaces.get::<Namespace>(key) else { return Ok(Action::Done) };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(Action::Done);
        }
        let left = self.empty(key).await?;
        self.report(&namespace, &left).await?;
        if !left.is_nothing() {
            return Ok(Action::After(LOOK_AGAIN));
        }
        let rest: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": key}, "spec": {"finalizers": rest}});
        let call = Call {
            verb: Verb::Update,
            gvr: Gvr::of::<Namespace>(),
            namespace: String::new(),
            name: key.to_owned(),
            subresource: "finalize".to_owned(),
            query: Vec::new(),
            body: Some(body.to_string().into()),
        };
        crate::pod_control::ignore_absent(self.client.api().call(call).await)?;
        Ok(Action::Done)
    }
}
