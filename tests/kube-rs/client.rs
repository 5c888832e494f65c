//! A reflector, streaming lists, a controller of a custom resource, server-side apply, finalizers:
//! what programs written with kube-rs do, against the executable.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::CustomResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config, CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own, ended and removed with its test.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Server> {
        let program = executable()?;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new(program)
            .args(["server", "--disable-agent", "--https-listen-port=0", "--bind-address=127.0.0.1"])
            .arg("--data-dir")
            .arg(at("data"))
            .arg("--write-kubeconfig")
            .arg(at("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Server { child, directory })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    async fn client(&mut self) -> Client {
        while !self.log().contains("the API is ready") {
            assert!(self.child.try_wait().unwrap().is_none(), "the server ended:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let file = kube::config::Kubeconfig::read_from(self.directory.path().join("kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The executable beside this test: the tests of the whole build it.
fn executable() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("sampan");
    if !program.is_file() {
        eprintln!("skipped: {} is not built", program.display());
        return None;
    }
    Some(program)
}

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "boats.example.com", version = "v1", kind = "Sail", namespaced, status = "SailStatus", shortname = "sl")]
#[kube(printcolumn = r#"{"name":"Colour","type":"string","jsonPath":".spec.colour"}"#)]
struct SailSpec {
    colour: String,
    #[serde(default)]
    area: i64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct SailStatus {
    set: bool,
}

fn map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"test": "kube-rs"}}, "data": {"a": value},
    }))
    .unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

#[tokio::test]
async fn a_reflector_follows_objects_listed_or_streamed() {
    let Some(mut server) = Server::start() else { return };
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &map(name, "1")).await.unwrap();
    }
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (reader, writer) = reflector::store();
        let config = config.labels("test=kube-rs");
        let stream = watcher(maps.clone(), config).default_backoff().reflect(writer).applied_objects();
        let followed = tokio::spawn(stream.for_each(|event| async { drop(event.unwrap()) }));
        within("the objects are there", reader.wait_until_ready()).await.unwrap();
        assert_eq!(reader.state().len(), 3);
        maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}}))).await.unwrap();
        let key = reflector::ObjectRef::new("b").within("default");
        within("a change comes", async {
            while reader.get(&key).unwrap().data.as_ref().unwrap()["a"] != "2" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        followed.abort();
        maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "1"}}))).await.unwrap();
    }
    let page = maps.list(&ListParams::default().labels("test=kube-rs").limit(2)).await.unwrap();
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (2, None), "no count beside a selector");
    let rest = ListParams::default().labels("test=kube-rs").continue_token(&page.metadata.continue_.unwrap());
    assert_eq!(maps.list(&rest).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_controller_owns_a_custom_resource() {
    let Some(mut server) = Server::start() else { return };
    let client = server.client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let manager = PatchParams::apply("kube-rs").force();
    definitions.patch("sails.boats.example.com", &manager, &Patch::Apply(Sail::crd())).await.unwrap();
    let established = await_condition(definitions, "sails.boats.example.com", conditions::is_crd_established());
    within("the definition is established", established).await.unwrap();

    let sails: Api<Sail> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let controller = tokio::spawn(
        Controller::new(sails.clone(), watcher::Config::default())
            .owns(maps.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(client.clone()))
            .for_each(|done| async {
                if let Err(e) = done {
                    eprintln!("{e}: {:?}", std::error::Error::source(&e))
                }
            }),
    );
    let spec = SailSpec { colour: "red".into(), area: 3 };
    sails.create(&PostParams::default(), &Sail::new("main", spec)).await.unwrap();
    let set = |s: Option<&Sail>| s.and_then(|s| s.status.as_ref()).is_some_and(|s| s.set);
    within("the status is set", await_condition(sails.clone(), "main", set)).await.unwrap();
    assert_eq!(maps.get("main").await.unwrap().data.unwrap()["colour"], "red");

    // What is owned comes back.
    let uid = maps.get("main").await.unwrap().uid().unwrap();
    maps.delete("main", &DeleteParams::default()).await.unwrap();
    let again = move |m: Option<&ConfigMap>| m.is_some_and(|m| m.uid().as_deref() != Some(&uid));
    within("what is owned comes back", await_condition(maps.clone(), "main", again)).await.unwrap();

    // The finalizer's work is done before the object is gone.
    let uid = sails.get("main").await.unwrap().uid().unwrap();
    sails.delete("main", &DeleteParams::default()).await.unwrap();
    within("it is deleted", await_condition(sails.clone(), "main", conditions::is_deleted(&uid))).await.unwrap();
    assert_eq!(maps.get("goodbye-main").await.unwrap().data.unwrap()["a"], "cleaned");

    let bad = json!({"apiVersion": "boats.example.com/v1", "kind": "Sail", "metadata": {"name": "x"}, "spec": {}});
    let error = sails.patch("x", &manager, &Patch::Apply(&bad)).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert!(status.code == 422 && status.message.contains("spec.colour: Required value"), "{status:?}");
    controller.abort();
}

#[derive(Debug)]
struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

fn failed(e: impl std::fmt::Display) -> Failed {
    Failed(e.to_string())
}

async fn reconcile(sail: Arc<Sail>, client: Arc<Client>) -> Result<Action, Failed> {
    let sails: Api<Sail> = Api::default_namespaced(client.as_ref().clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.as_ref().clone());
    let step = |event: Event<Sail>| async move {
        match event {
            Event::Apply(sail) => applied(&sail, &maps, &Api::default_namespaced(client.as_ref().clone())).await,
            Event::Cleanup(sail) => {
                let name = format!("goodbye-{}", sail.name_any());
                maps.create(&PostParams::default(), &map(&name, "cleaned")).await?;
                Ok(Action::await_change())
            }
        }
    };
    finalizer(&sails, "boats.example.com/cleanup", sail, step).await.map_err(failed)
}

async fn applied(sail: &Sail, maps: &Api<ConfigMap>, sails: &Api<Sail>) -> Result<Action, kube::Error> {
    use kube::Resource;
    let name = sail.name_any();
    let owned = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![sail.controller_owner_ref(&()).unwrap()]),
            ..ObjectMeta::default()
        },
        data: Some([("colour".to_owned(), sail.spec.colour.clone())].into()),
        ..ConfigMap::default()
    };
    let manager = PatchParams::apply("sails").force();
    maps.patch(&name, &manager, &Patch::Apply(&owned)).await?;
    let status = json!({"apiVersion": "boats.example.com/v1", "kind": "Sail", "status": {"set": true}});
    sails.patch_status(&name, &manager, &Patch::Apply(&status)).await?;
    Ok(Action::requeue(Duration::from_secs(300)))
}

#[tokio::test]
async fn two_managers_of_one_field_are_told() {
    let Some(mut server) = Server::start() else { return };
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    maps.patch("m", &PatchParams::apply("one"), &Patch::Apply(map("m", "1"))).await.unwrap();
    let error = maps.patch("m", &PatchParams::apply("two"), &Patch::Apply(map("m", "2"))).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let details = status.details.unwrap();
    assert_eq!(
        (details.causes[0].reason.as_str(), details.causes[0].field.as_str()),
        ("FieldManagerConflict", ".data.a")
    );
    let forced = maps.patch("m", &PatchParams::apply("two").force(), &Patch::Apply(map("m", "2"))).await.unwrap();
    assert_eq!(forced.managed_fields().len(), 2);
    // Two writers that read the same: the second is told.
    let mut stale = maps.get("m").await.unwrap();
    maps.replace("m", &PostParams::default(), &stale).await.unwrap();
    maps.patch("m", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "3"}}))).await.unwrap();
    stale.data = None;
    let error = maps.replace("m", &PostParams::default(), &stale).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(s) if s.code == 409), "{error}");
}
