//! The [`Api`] trait and the typed [`Client`] over it.
//!
//! Upstream: <https://kubernetes.io/docs/reference/using-api/api-concepts/>.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Group, version and plural name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    /// API group; empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// Plural resource name.
    pub plural: Cow<'static, str>,
}

impl Gvr {
    /// For constants.
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Gvr {
        Gvr { group: Cow::Borrowed(group), version: Cow::Borrowed(version), plural: Cow::Borrowed(plural) }
    }

    /// For what discovery found.
    pub fn dynamic(group: &str, version: &str, plural: &str) -> Gvr {
        Gvr {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            plural: Cow::Owned(plural.to_owned()),
        }
    }

    /// Of a typed kind.
    pub fn of<K: Kind>() -> Gvr {
        Gvr::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
    }

    /// `/api/v1` or `/apis/apps/v1`.
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// The path of a collection, object or subresource; empty parts are left out.
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut p = self.root();
        if !namespace.is_empty() {
            p.push_str("/namespaces/");
            p.push_str(namespace);
        }
        p.push('/');
        p.push_str(&self.plural);
        for part in [name, subresource] {
            if !part.is_empty() {
                p.push('/');
                p.push_str(part);
            }
        }
        p
    }
}

/// A typed kind of Kubernetes.
pub trait Kind:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = api::meta::apis::meta::v1::ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + std::fmt::Debug
    + Any
    + Send
    + Sync
{
}

impl<T> Kind for T where
    T: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = api::meta::apis::meta::v1::ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Any
        + Send
        + Sync
{
}

/// Encodes a query value.
pub fn percent_encode(s: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    s.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own.
    Strategic,
}

impl PatchKind {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// What to do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read it.
    Get,
    /// Create it, or POST to its subresource.
    Create,
    /// Replace it.
    Update,
    /// Change it.
    Patch(PatchKind),
    /// Delete it; the body may be `DeleteOptions`.
    Delete,
    /// Delete all that match; the body may be `DeleteOptions`.
    DeleteCollection,
}

/// One request about one object (or, for `DeleteCollection`, a collection).
#[derive(Clone, Debug)]
pub struct Call {
    /// What to do.
    pub verb: Verb,
    /// With which resource.
    pub gvr: Gvr,
    /// Namespace; empty for cluster-scoped resources.
    pub namespace: String,
    /// Name; empty for creates and collections.
    pub name: String,
    /// Subresource; usually empty.
    pub subresource: String,
    /// Further query parameters, such as `labelSelector` for `DeleteCollection`.
    pub query: Vec<(&'static str, String)>,
    /// JSON body.
    pub body: Option<Bytes>,
}

/// What to list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListParams {
    /// Namespace; empty for all.
    pub namespace: String,
    /// Label selector in its string form; empty selects everything.
    pub label_selector: String,
    /// Field selector in its string form; empty selects everything.
    pub field_selector: String,
    /// Page size; 0 for everything.
    pub limit: u32,
    /// Token of the next page.
    pub continue_token: String,
    /// For lists "not older than"; for watches "start after". Empty: most recent.
    pub resource_version: String,
}

impl ListParams {
    /// Everything in all namespaces.
    pub fn all() -> ListParams {
        ListParams::default()
    }

    /// Everything whose field has a value, such as `spec.nodeName`, `n1`.
    pub fn field(path: &str, value: &str) -> ListParams {
        ListParams { field_selector: format!("{path}={value}"), ..Default::default() }
    }
}

/// A page of objects.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The objects, in key order.
    pub items: Vec<Arc<Object>>,
    /// The revision of the list, from where a watch may start.
    pub resource_version: String,
    /// Token for the next page; empty on the last.
    pub continue_token: String,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object came into being, or into the selection.
    Added(Arc<Object>),
    /// It changed.
    Modified(Arc<Object>),
    /// It is gone, or out of the selection. The object is its last state.
    Deleted(Arc<Object>),
    /// Everything up to this resourceVersion has been sent.
    Bookmark(String),
}

/// A running watch. It ends when the server closes it or after an error, of which
/// a 410 asks for a new list.
pub type Watch = mpsc::Receiver<Result<Event, Status>>;

/// The API, in process or over TLS. Its users cannot tell which.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// Acts on one object and returns the object (or the `Status` object of a deletion).
    async fn call(&self, call: Call) -> Result<Arc<Object>, Status>;

    /// Reads a page of a collection.
    async fn list(&self, gvr: &Gvr, params: &ListParams) -> Result<List, Status>;

    /// Watches a collection; bookmarks are asked for.
    async fn watch(&self, gvr: &Gvr, params: &ListParams) -> Result<Watch, Status>;

    /// Reads any path as JSON (discovery, `/version`, `/openid/v1/jwks` …).
    async fn raw_get(&self, path: &str) -> Result<Bytes, Status>;
}

/// Typed calls over an [`Api`]. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    api: Arc<dyn Api>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

fn encode<T: Serialize>(t: &T) -> Result<Bytes, Status> {
    Ok(Bytes::from(serde_json::to_vec(t).map_err(Status::internal)?))
}

fn meta_of<K: Kind>(k: &K) -> (String, String) {
    let m = k.metadata();
    (m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
}

/// Adds `apiVersion` and `kind`, which the typed structs of list items write themselves.
fn call_for<K: Kind>(verb: Verb, namespace: &str, name: &str, subresource: &str, body: Option<Bytes>) -> Call {
    Call {
        verb,
        gvr: Gvr::of::<K>(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        query: Vec::new(),
        body,
    }
}

impl Client {
    /// A client over a transport.
    pub fn new(api: Arc<dyn Api>) -> Client {
        Client { api }
    }

    /// The untyped interface.
    pub fn api(&self) -> &Arc<dyn Api> {
        &self.api
    }

    /// One object.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<Arc<K>, Status> {
        self.api.call(call_for::<K>(Verb::Get, namespace, name, "", None)).await?.typed::<K>()
    }

    /// One object, `None` when it does not exist.
    pub async fn get_opt<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Status> {
        match self.get(namespace, name).await {
            Ok(k) => Ok(Some(k)),
            Err(s) if s.is_not_found() => Ok(None),
            Err(s) => Err(s),
        }
    }

    /// All objects that `params` select.
    pub async fn list<K: Kind>(&self, params: &ListParams) -> Result<Vec<Arc<K>>, Status> {
        self.api.list(&Gvr::of::<K>(), params).await?.items.iter().map(|o| o.typed::<K>()).collect()
    }

    /// Creates an object in the namespace its metadata names.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<Arc<K>, Status> {
        let (ns, _) = meta_of(object);
        self.api.call(call_for::<K>(Verb::Create, &ns, "", "", Some(encode(object)?))).await?.typed::<K>()
    }

    /// Replaces an object; its resourceVersion must be current when it has one.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<Arc<K>, Status> {
        let (ns, name) = meta_of(object);
        self.api.call(call_for::<K>(Verb::Update, &ns, &name, "", Some(encode(object)?))).await?.typed::<K>()
    }

    /// Replaces an object's status.
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<Arc<K>, Status> {
        let (ns, name) = meta_of(object);
        self.api.call(call_for::<K>(Verb::Update, &ns, &name, "status", Some(encode(object)?))).await?.typed::<K>()
    }

    /// Patches an object or its subresource (empty for the object itself).
    pub async fn patch<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        kind: PatchKind,
        patch: &Value,
    ) -> Result<Arc<K>, Status> {
        let body = Some(encode(patch)?);
        self.api.call(call_for::<K>(Verb::Patch(kind), namespace, name, subresource, body)).await?.typed::<K>()
    }

    /// Deletes an object with the kind's default propagation and grace.
    pub async fn delete<K: Kind>(&self, namespace: &str, name: &str) -> Result<(), Status> {
        self.delete_with::<K>(namespace, name, &json!({})).await
    }

    /// Deletes an object with `DeleteOptions`, such as
    /// `{"preconditions":{"uid":…},"gracePeriodSeconds":0,"propagationPolicy":"Background"}`.
    pub async fn delete_with<K: Kind>(&self, namespace: &str, name: &str, options: &Value) -> Result<(), Status> {
        self.api.call(call_for::<K>(Verb::Delete, namespace, name, "", Some(encode(options)?))).await?;
        Ok(())
    }

    /// Posts any body to a subresource: `binding`, `eviction`, `token` …
    pub async fn post<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<Arc<Object>, Status> {
        self.api.call(call_for::<K>(Verb::Create, namespace, name, subresource, Some(encode(body)?))).await
    }
}
