//! The operations, each done to the objects that those before it have left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use hyper::Method;
use serde_json::{Value, json};

use super::encoding::{Encoding, JSON};
use super::lab::https::{Form, Watch};
use super::load::{Call, Measured, load};
use super::subject::Subject;
use super::workload::{Kind, LISTS, PAGE, Plan, SENT, WATCHERS};

const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// How long watchers may take to see everything.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Get,
    Update,
    Patch,
    List,
    Pages,
    FanOut,
    Delete,
}

impl Operation {
    pub const ALL: [Operation; 8] = [
        Operation::Create,
        Operation::Get,
        Operation::Update,
        Operation::Patch,
        Operation::List,
        Operation::Pages,
        Operation::FanOut,
        Operation::Delete,
    ];

    pub fn name(self) -> String {
        match self {
            Operation::Create => "create".to_owned(),
            Operation::Get => "get".to_owned(),
            Operation::Update => "update".to_owned(),
            Operation::Patch => "patch".to_owned(),
            Operation::List => "list, 1 client".to_owned(),
            Operation::Pages => format!("pages of {PAGE}, 1 client"),
            Operation::FanOut => format!("events, {WATCHERS} watchers"),
            Operation::Delete => "delete".to_owned(),
        }
    }

    /// Does it, and reads off what it cost the server.
    pub async fn run(self, subject: &Subject, kind: Kind, plan: &Plan) -> Measured {
        let wanted = Form { accept: plan.encoding.media(), sent: plan.encoding.media() };
        let simple = move |method: Method| {
            move |n| Call { method: method.clone(), path: kind.path(n), form: wanted, body: Bytes::new() }
        };
        let bodies = match self {
            Operation::Update => changed(subject, kind, plan.encoding).await,
            Operation::Create => (0..plan.objects).map(|n| (String::new(), kind.object(n))).collect(),
            _ => Vec::new(),
        };
        let bodies: Vec<_> = bodies.into_iter().map(|(p, o)| (p, Bytes::from(plan.encoding.body(&o)))).collect();
        let before = subject.cpu();
        let measured = match self {
            Operation::Create => {
                let made = move |n: u64| {
                    let body = bodies[n as usize].1.clone();
                    Call { method: Method::POST, path: kind.collection(), form: wanted, body }
                };
                load(&subject.endpoint, plan.objects, made).await
            }
            Operation::Get => load(&subject.endpoint, plan.objects, simple(Method::GET)).await,
            Operation::Update => {
                let put = move |n: u64| {
                    let (path, body) = bodies[n as usize].clone();
                    Call { method: Method::PUT, path, form: wanted, body }
                };
                load(&subject.endpoint, plan.objects, put).await
            }
            Operation::Patch => load(&subject.endpoint, plan.objects, patch(kind, wanted, Instant::now())).await,
            Operation::List => lists(subject, kind, plan, 0).await,
            Operation::Pages => lists(subject, kind, plan, PAGE).await,
            Operation::FanOut => fan_out(subject, kind, plan, wanted).await,
            Operation::Delete => load(&subject.endpoint, plan.objects, simple(Method::DELETE)).await,
        };
        Measured { cpu: subject.cpu().saturating_sub(before), ..measured }
    }
}

/// What is there, with its path and a further label.
async fn changed(subject: &Subject, kind: Kind, encoding: Encoding) -> Vec<(String, Value)> {
    let mut api = subject.endpoint.connect().await.expect("a connection");
    let selector = "?labelSelector=app%3Dapplication";
    let mut list = api.json(Method::GET, &format!("{}{selector}", kind.collection()), "").await.expect("a list");
    let Value::Array(items) = list["items"].take() else { panic!("a list has items") };
    let of_list = |field: &str| list[field].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
    let (api_version, kind_name) = (of_list("apiVersion"), of_list("kind"));
    let changed = items.into_iter().map(|mut object| {
        object["metadata"]["labels"]["updated"] = "true".into();
        if encoding == Encoding::Protobuf {
            object["apiVersion"] = api_version.clone().into();
            object["kind"] = kind_name.clone().into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        (format!("{}/{name}", kind.collection()), object)
    });
    changed.collect()
}

/// Tells in an annotation how long after `begun` it was sent.
fn patch(kind: Kind, form: Form, begun: Instant) -> impl Fn(u64) -> Call + Send + Sync + 'static {
    move |n| {
        let sent = format!("{:012}", begun.elapsed().as_micros());
        let body = json!({"metadata": {"annotations": {SENT: sent}}}).to_string().into();
        Call { method: Method::PATCH, path: kind.path(n), form: Form { sent: STRATEGIC, ..form }, body }
    }
}

/// Lists everything again and again, in pages of `page` or at once. Counted is each whole list.
async fn lists(subject: &Subject, kind: Kind, plan: &Plan, page: u64) -> Measured {
    let mut api = subject.endpoint.connect().await.expect("a connection");
    let form = Form { accept: plan.encoding.media(), sent: JSON };
    let mut measured = Measured { count: LISTS as u64, ..Measured::default() };
    let begun = Instant::now();
    for _ in 0..LISTS {
        let start = Instant::now();
        let mut token = String::new();
        loop {
            let limit = if page == 0 { String::new() } else { format!("?limit={page}&continue={token}") };
            let path = format!("{}{limit}", kind.collection());
            let answer = api.call(Method::GET, &path, form, Bytes::new()).await.expect("a list");
            measured.bytes += answer.len() as u64;
            token = continues(&answer, plan.encoding);
            if token.is_empty() {
                break;
            }
        }
        measured.latencies.push(start.elapsed());
    }
    Measured { took: begun.elapsed(), ..measured }
}

/// The token of a list's metadata, which both encodings have near one end of it.
fn continues(list: &[u8], encoding: Encoding) -> String {
    let head = &list[..list.len().min(1024)];
    let token = match encoding {
        Encoding::Json => memchr::memmem::find(head, b"\"continue\":\"").map(|at| at + 12),
        // Upstream's tokens and ours are base64 of JSON objects, and so begin alike.
        Encoding::Protobuf => memchr::memmem::find(head, b"eyJ"),
    };
    let of = |at: usize| head[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || b"-_=".contains(b));
    token.map(|at| of(at).map(|b| char::from(*b)).collect()).unwrap_or_default()
}

/// Writes while many watch. Counted is every event of every watcher; the latencies are those of
/// the first watcher, from sending the write to reading its event.
async fn fan_out(subject: &Subject, kind: Kind, plan: &Plan, form: Form) -> Measured {
    let mut api = subject.endpoint.connect().await.expect("a connection");
    let list = api.json(Method::GET, &format!("{}?limit=1", kind.collection()), "").await.expect("a list");
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("{}?watch=true&resourceVersion={revision}", kind.collection());
    let writes = plan.writes.min(plan.objects);
    let begun = Arc::new(Instant::now());
    let mut watchers = Vec::new();
    for number in 0..WATCHERS {
        let connection = subject.endpoint.connect().await.expect("a connection");
        let watch = connection.watch(&path, plan.encoding.media()).await.expect("a watch");
        let clock = (number == 0).then(|| begun.clone());
        watchers.push(tokio::spawn(look_on(watch, writes, plan.encoding, clock)));
    }
    let start = Instant::now();
    load(&subject.endpoint, writes, patch(kind, form, *begun)).await;
    let mut measured = Measured::default();
    for watcher in watchers {
        let seen = tokio::time::timeout(PATIENCE, watcher).await.expect("the events in time").expect("a watcher");
        measured.count += seen.count;
        measured.bytes += seen.bytes;
        measured.latencies.extend(seen.latencies);
    }
    let all = writes * WATCHERS as u64;
    if measured.count < all {
        println!("{}: {} of {all} events were not delivered", subject.name, all - measured.count);
    }
    Measured { took: start.elapsed(), ..measured }
}

/// Reads `events` events, or as many as come; with a clock, how late they are.
async fn look_on(mut watch: Watch, events: u64, encoding: Encoding, clock: Option<Arc<Instant>>) -> Measured {
    let mut seen = Measured::default();
    while seen.count < events {
        let Some(()) = watch.more().await else { break };
        while let Some(length) = encoding.event(&watch.read) {
            if let Some(begun) = &clock
                && let Some(sent) = sent(&watch.read[..length])
            {
                seen.latencies.push(begun.elapsed().saturating_sub(sent));
            }
            watch.read.advance(length);
            seen.count += 1;
            seen.bytes += length as u64;
        }
    }
    seen
}

/// When an event's write was sent.
fn sent(event: &[u8]) -> Option<Duration> {
    let after = &event[memchr::memmem::find(event, SENT.as_bytes())? + SENT.len()..];
    let digits = after.iter().skip_while(|b| !b.is_ascii_digit()).take_while(|b| b.is_ascii_digit());
    let text: String = digits.map(|b| char::from(*b)).collect();
    text.parse().ok().map(Duration::from_micros)
}
