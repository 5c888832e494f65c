//! How long informers run.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::api::{Api, Call, List, Watch};

/// A resource of one object at first; each watch of it is handed to the test.
struct One {
    watches: mpsc::UnboundedSender<mpsc::Sender<Result<Event, api::Status>>>,
}

fn widget(revision: u64) -> Arc<Object> {
    let meta = json!({"name": "w", "namespace": "d", "uid": "u", "resourceVersion": revision.to_string()});
    Arc::new(Object::from_value(&json!({"apiVersion": "e.org/v1", "kind": "Widget", "metadata": meta})).unwrap())
}

#[async_trait]
impl Api for One {
    async fn call(&self, _: Call) -> Result<Arc<Object>, api::Status> {
        Err(api::Status::internal("not asked for here"))
    }

    async fn list(&self, _: &Gvr, _: &ListParams) -> Result<List, api::Status> {
        Ok(List { items: vec![widget(1)], resource_version: "1".into(), ..List::default() })
    }

    async fn watch(&self, _: &Gvr, _: &ListParams) -> Result<Watch, api::Status> {
        let (events, watch) = mpsc::channel(1);
        self.watches.send(events).map_err(api::Status::internal)?;
        Ok(watch)
    }

    async fn raw_get(&self, _: &str) -> Result<Bytes, api::Status> {
        Err(api::Status::internal("not asked for here"))
    }
}

type Watches = mpsc::UnboundedReceiver<mpsc::Sender<Result<Event, api::Status>>>;

fn informers() -> (Informers, Watches) {
    let (watches, started) = mpsc::unbounded_channel();
    let client = Client::new(Arc::new(One { watches }));
    (Informers::new(client, TaskTracker::new(), CancellationToken::new()), started)
}

fn widgets() -> (Gvr, ListParams) {
    (Gvr::new("e.org", "v1", "widgets"), ListParams::all())
}

/// Tells every change that a handler of an informer sees.
fn told(informer: &Informer) -> mpsc::UnboundedReceiver<String> {
    let (tx, rx) = mpsc::unbounded_channel();
    informer.on_change(move |c| drop(tx.send(c.object().meta().resource_version.to_owned())));
    rx
}

#[tokio::test]
async fn an_informer_ends_with_its_last_subscription() {
    let (informers, mut watches) = informers();
    let (gvr, params) = widgets();
    let first = informers.subscribe(gvr.clone(), params.clone());
    let second = informers.subscribe(gvr.clone(), params.clone());
    let (mut of_first, mut of_second) = (told(&first), told(&second));
    let watch = watches.recv().await.unwrap();
    assert_eq!(of_first.recv().await.as_deref(), Some("1"));
    assert_eq!(of_second.recv().await.as_deref(), Some("1"));

    drop(first);
    assert_eq!(of_first.recv().await, None, "its handler goes with it");
    watch.send(Ok(Event::Modified(widget(2)))).await.unwrap();
    assert_eq!(of_second.recv().await.as_deref(), Some("2"), "the other's is called as before");
    assert!(!watch.is_closed());

    drop(second);
    watch.closed().await;
    // Who comes back begins anew, and is told once of what is there.
    let third = informers.subscribe(gvr, params);
    let mut of_third = told(&third);
    watches.recv().await.unwrap();
    assert_eq!(of_third.recv().await.as_deref(), Some("1"));
    assert!(of_third.try_recv().is_err());
}

#[tokio::test]
async fn a_selected_informer_outlives_its_subscriptions() {
    let (informers, mut watches) = informers();
    let (gvr, params) = widgets();
    let subscription = informers.subscribe(gvr.clone(), params.clone());
    let selected = informers.select(gvr, params);
    let mut of_selected = told(&selected);
    let watch = watches.recv().await.unwrap();
    assert_eq!(of_selected.recv().await.as_deref(), Some("1"));
    drop(subscription);
    watch.send(Ok(Event::Modified(widget(2)))).await.unwrap();
    assert_eq!(of_selected.recv().await.as_deref(), Some("2"));
}
