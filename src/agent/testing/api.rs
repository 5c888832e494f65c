//! An API in memory that behaves: objects with revisions, watches, status separation, merge
//! patches (strategic ones merge conditions by type), deletion with grace and preconditions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::{Object, Status, key_of};
use async_trait::async_trait;
use bytes::Bytes;
use client::{Api, Call, Client, Event, Gvr, List, ListParams, PatchKind, Verb, Watch};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

struct Watcher {
    gvr: Gvr,
    params: ListParams,
    sender: mpsc::UnboundedSender<Event>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(Gvr, String), Value>,
    log: Vec<(u64, Gvr, Event)>,
    watchers: Vec<Watcher>,
}

/// See the module.
pub struct FakeApi {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

fn selects(params: &ListParams, v: &Value) -> bool {
    let namespace = v["metadata"]["namespace"].as_str().unwrap_or_default();
    if !params.namespace.is_empty() && params.namespace != namespace {
        return false;
    }
    params.field_selector.split(',').filter(|s| !s.is_empty()).all(|s| {
        let (path, want) = s.split_once('=').unwrap();
        let found = path.split('.').fold(v, |v, p| &v[p]);
        found.as_str().unwrap_or_default() == want
    })
}

fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    let (Some(a), Some(b)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (k, v) in b {
        if v.is_null() {
            a.remove(k);
        } else if strategic && k == "conditions" && a.get(k).is_some_and(Value::is_array) {
            let list = a.get_mut(k).unwrap().as_array_mut().unwrap();
            for c in v.as_array().unwrap() {
                match list.iter_mut().find(|o| o["type"] == c["type"]) {
                    Some(o) => merge(o, c, strategic),
                    None => list.push(c.clone()),
                }
            }
        } else if let Some(list) = v.as_array() {
            let list: Vec<Value> = list.iter().filter(|i| i.get("$patch").is_none()).cloned().collect();
            a.insert(k.clone(), Value::Array(list));
        } else {
            merge(a.entry(k.clone()).or_insert(Value::Null), v, strategic);
        }
    }
}

impl FakeApi {
    pub fn new() -> Arc<FakeApi> {
        Arc::new(FakeApi { state: Mutex::default(), changed: watch::Sender::new(0) })
    }

    pub fn client(self: &Arc<Self>) -> Client {
        Client::new(self.clone())
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn dump(&self) -> String {
        let s = self.state.lock().unwrap();
        s.objects.iter().map(|((g, k), v)| format!("{} {k}: {}\n", g.plural, v)).collect()
    }

    pub fn get<K: client::Kind>(&self, key: &str) -> Option<K> {
        let s = self.state.lock().unwrap();
        s.objects.get(&(Gvr::of::<K>(), key.to_owned())).map(|v| serde_json::from_value(v.clone()).unwrap())
    }

    pub fn all<K: client::Kind>(&self) -> Vec<K> {
        let s = self.state.lock().unwrap();
        let of = Gvr::of::<K>();
        s.objects
            .iter()
            .filter(|((g, _), _)| *g == of)
            .map(|(_, v)| serde_json::from_value(v.clone()).unwrap())
            .collect()
    }

    fn commit(&self, s: &mut State, gvr: &Gvr, key: &str, new: Option<Value>) -> Arc<Object> {
        s.revision += 1;
        let id = (gvr.clone(), key.to_owned());
        let old = s.objects.get(&id).cloned();
        let (value, event): (Value, fn(Arc<Object>) -> Event) = match new {
            Some(mut v) => {
                v["metadata"]["resourceVersion"] = json!(s.revision.to_string());
                s.objects.insert(id, v.clone());
                (v, if old.is_some() { Event::Modified } else { Event::Added })
            }
            None => {
                let mut v = s.objects.remove(&id).unwrap();
                v["metadata"]["resourceVersion"] = json!(s.revision.to_string());
                (v, Event::Deleted)
            }
        };
        let object = Arc::new(Object::from_value(&value).unwrap());
        let event = event(object.clone());
        s.log.push((s.revision, gvr.clone(), event.clone()));
        s.watchers.retain(|w| {
            if w.gvr != *gvr || !selects(&w.params, &value) {
                return !w.sender.is_closed();
            }
            w.sender.send(event.clone()).is_ok()
        });
        self.changed.send_replace(s.revision);
        object
    }

    fn act(&self, call: Call) -> Result<Arc<Object>, Status> {
        let mut s = self.state.lock().unwrap();
        let body: Value = call.body.as_ref().map(|b| serde_json::from_slice(b).unwrap()).unwrap_or(Value::Null);
        let (group, plural) = (call.gvr.group.to_string(), call.gvr.plural.to_string());
        if call.subresource == "token" {
            let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                "spec": {"audiences": []}, "status": {"token": format!("token-of-{}", call.name),
                "expirationTimestamp": (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string()}});
            return Ok(Arc::new(Object::from_value(&answer).unwrap()));
        }
        let name =
            if call.verb == Verb::Create { body["metadata"]["name"].as_str().unwrap_or_default() } else { &call.name };
        let key = key_of(&call.namespace, name);
        let id = (call.gvr.clone(), key.clone());
        let found = s.objects.get(&id).cloned();
        if call.verb == Verb::Create {
            if found.is_some() {
                return Err(Status::already_exists(&group, &plural, name));
            }
            let mut v = body;
            v["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
            v["metadata"]["generation"] = json!(1);
            v["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            return Ok(self.commit(&mut s, &call.gvr, &key, Some(v)));
        }
        let Some(old) = found else { return Err(Status::not_found(&group, &plural, name)) };
        let uid_differs = |v: &Value| v.as_str().is_some_and(|u| Some(u) != old["metadata"]["uid"].as_str());
        match call.verb {
            Verb::Get => Ok(Arc::new(Object::from_value(&old).unwrap())),
            Verb::Patch(kind) => {
                if uid_differs(&body["metadata"]["uid"]) {
                    return Err(Status::conflict(&group, &plural, name, "the UID differs"));
                }
                let mut v = old.clone();
                merge(&mut v, &body, kind == PatchKind::Strategic);
                if call.subresource != "status" {
                    v["status"] = old["status"].clone();
                }
                Ok(self.commit(&mut s, &call.gvr, &key, Some(v)))
            }
            Verb::Update => Ok(self.commit(&mut s, &call.gvr, &key, Some(body))),
            Verb::Delete => {
                if uid_differs(&body["preconditions"]["uid"]) {
                    return Err(Status::conflict(&group, &plural, name, "the UID differs"));
                }
                let default = old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
                let grace = body["gracePeriodSeconds"].as_i64().unwrap_or(default);
                let assigned = old["spec"]["nodeName"].is_string();
                if plural == "pods" && assigned && grace > 0 {
                    let mut v = old;
                    v["metadata"]["deletionTimestamp"] =
                        json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                    v["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
                    return Ok(self.commit(&mut s, &call.gvr, &key, Some(v)));
                }
                Ok(self.commit(&mut s, &call.gvr, &key, None))
            }
            Verb::Create | Verb::DeleteCollection => Err(Status::method_not_allowed()),
        }
    }
}

#[async_trait]
impl Api for FakeApi {
    async fn call(&self, call: Call) -> Result<Arc<Object>, Status> {
        self.act(call)
    }

    async fn list(&self, gvr: &Gvr, params: &ListParams) -> Result<List, Status> {
        let s = self.state.lock().unwrap();
        let items = s
            .objects
            .iter()
            .filter(|((g, _), v)| g == gvr && selects(params, v))
            .map(|(_, v)| Arc::new(Object::from_value(v).unwrap()))
            .collect();
        Ok(List { items, resource_version: s.revision.to_string(), continue_token: String::new() })
    }

    async fn watch(&self, gvr: &Gvr, params: &ListParams) -> Result<Watch, Status> {
        let (sender, mut events) = mpsc::unbounded_channel();
        {
            let mut s = self.state.lock().unwrap();
            let from: u64 = params.resource_version.parse().unwrap_or(0);
            for (revision, g, event) in &s.log {
                let (Event::Added(o) | Event::Modified(o) | Event::Deleted(o)) = event else { continue };
                if *revision > from && g == gvr && selects(params, &o.to_value()) {
                    let _ = sender.send(event.clone());
                }
            }
            s.watchers.push(Watcher { gvr: gvr.clone(), params: params.clone(), sender });
        }
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tx.closed() => return,
                    e = events.recv() => match e {
                        Some(e) => if tx.send(Ok(e)).await.is_err() { return },
                        None => return,
                    },
                }
            }
        });
        Ok(rx)
    }

    async fn raw_get(&self, _: &str) -> Result<Bytes, Status> {
        Err(Status::no_such_resource())
    }
}
