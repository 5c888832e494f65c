//! Many custom resources: `SAMPAN_BENCH_DEFINITIONS` (200) definitions, `SAMPAN_BENCH_OBJECTS`
//! (20000) objects spread over them and as many of one more. How soon a definition is served and
//! described, what discovery, OpenAPI and lists cost, what an object costs in memory beside its
//! serialized size, and how long a restart takes with all of it.
//!
//! With `SAMPAN_BENCH_REFERENCE_KUBECONFIG` the same is asked of that API server, whose memory is
//! that of the processes in `SAMPAN_BENCH_REFERENCE_PIDS`.
#![allow(missing_docs)]

mod definitions;
mod subject;

#[path = "../lab/mod.rs"]
mod lab;

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use hyper::{Method, StatusCode};
use lab::Target;
use lab::https::Connection;
use serde_json::Value;

use subject::{Figures, Subject};

type Result<T> = anyhow::Result<T>;

const CLIENTS: usize = 16;
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DISCOVERY: (&str, &str) = (
    "accept",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
);
const PAGE: usize = 500;
/// Requests for what nobody was given before, and for what is known.
const ASKED: usize = 15;

/// What upstream promises of the publication of a definition.
const PUBLISHED: Target = Target::AtMost(1000.0);

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Sends requests with numbers below `count`, by some clients together.
async fn together<F>(subject: &Subject, count: usize, request: F) -> Result<Duration>
where
    F: Fn(usize) -> (String, String) + Sync,
{
    let (next, begun) = (std::sync::atomic::AtomicUsize::new(0), Instant::now());
    try_join_all((0..CLIENTS).map(|_| async {
        let mut api = subject.endpoint.connect().await?;
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= count {
                return Result::Ok(());
            }
            let (path, body) = request(number);
            api.send(Method::POST, &path, body).await?;
        }
    }))
    .await?;
    Ok(begun.elapsed())
}

/// Asks until an answer holds all of the texts; gives how long that took since `begun`.
async fn until(api: &mut Connection, path: &str, holds: &[String], begun: Instant) -> Result<f64> {
    loop {
        let (status, _, body) = api.ask(Method::GET, path, &[DISCOVERY], "").await?;
        // Quicker than `contains`, which takes longer than the server where nothing is optimized.
        let holds_it = |h: &String| memchr::memmem::find(&body, h.as_bytes()).is_some();
        if status.is_success() && holds.iter().all(holds_it) {
            return Ok(milliseconds(begun));
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(300), "{path} never has {}", holds.join(" and "));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

async fn until_established(api: &mut Connection, numbers: std::ops::Range<usize>, begun: Instant) -> Result<f64> {
    for number in numbers {
        let path = format!("{DEFINITIONS}/{}", definitions::name(number));
        while !is_established(&api.json(Method::GET, &path, "").await?) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(milliseconds(begun))
}

/// How soon some definitions that come together are served and described.
async fn publication(
    subject: &Subject,
    numbers: std::ops::Range<usize>,
    what: &str,
    figures: &mut Figures,
) -> Result<()> {
    let [mut established, mut discovery, mut documents] =
        [subject.endpoint.connect().await?, subject.endpoint.connect().await?, subject.endpoint.connect().await?];
    let names = |of: &dyn Fn(usize) -> String| -> Vec<String> { numbers.clone().map(of).collect() };
    let in_discovery = names(&|n| format!("\"{}\"", definitions::plural(n)));
    let in_v2 = names(&|n| format!("/{}/{{name}}\"", definitions::plural(n)));
    let last = numbers.end - 1;
    let document = format!("/openapi/v3/apis/{}/v1", definitions::group(last));
    let begun = Instant::now();
    let create = together(subject, numbers.len(), |n| (DEFINITIONS.into(), definitions::definition(numbers.start + n)));
    let (created, established, discovery, (v3, v2)) = tokio::try_join!(
        create,
        async {
            // It is not there before it was created.
            let path = format!("{DEFINITIONS}/{}", definitions::name(last));
            until(&mut established, &path, &["acceptedNames".into()], begun).await?;
            until_established(&mut established, numbers.clone(), begun).await
        },
        until(&mut discovery, "/apis", &in_discovery, begun),
        async {
            let v3 = until(&mut documents, &document, &in_v2[in_v2.len() - 1..], begun).await?;
            // The large document is what clients ask for last, and seldom.
            Result::Ok((v3, until(&mut documents, "/openapi/v2", &in_v2, begun).await?))
        },
    )?;
    figures.add(format!("{what}: created"), created.as_secs_f64() * 1000.0, "ms", Target::None);
    figures.add(format!("{what}: established"), established, "ms", Target::None);
    figures.add(format!("{what}: in discovery"), discovery, "ms", PUBLISHED);
    figures.add(format!("{what}: in OpenAPI v2"), v2, "ms", PUBLISHED);
    figures.add(format!("{what}: in OpenAPI v3"), v3, "ms", PUBLISHED);
    Ok(())
}

/// What a document costs whom it is new to, and who has it.
async fn document(subject: &Subject, name: &str, path: &str, figures: &mut Figures) -> Result<()> {
    let mut api = subject.endpoint.connect().await?;
    let (mut all, mut known) = (Vec::new(), Vec::new());
    let (mut size, mut tag) = (0, String::new());
    for _ in 0..ASKED {
        let begun = Instant::now();
        let (status, headers, body) = api.ask(Method::GET, path, &[DISCOVERY], "").await?;
        all.push(begun.elapsed());
        anyhow::ensure!(status.is_success(), "{path}: {status}");
        size = body.len();
        tag = headers.get("etag").and_then(|t| t.to_str().ok()).unwrap_or_default().to_owned();
    }
    let first = all[0].as_secs_f64() * 1000.0;
    figures.add(format!("{name}: first"), first, "ms", Target::None);
    figures.add(format!("{name}: again"), lab::percentile(&mut all, 0.5), "ms", Target::None);
    figures.add(format!("{name}: size"), size as f64 / 1e3, "kB", Target::None);
    let mut status = StatusCode::OK;
    for _ in 0..ASKED {
        let begun = Instant::now();
        status = api.ask(Method::GET, path, &[DISCOVERY, ("if-none-match", &tag)], "").await?.0;
        known.push(begun.elapsed());
    }
    figures.add(
        format!("{name}: with its tag ({})", status.as_u16()),
        lab::percentile(&mut known, 0.5),
        "ms",
        Target::None,
    );
    Ok(())
}

/// Where a list goes on; it stands in the metadata, before the items or after them.
fn continue_token(page: &[u8]) -> Option<String> {
    const FIELD: &[u8] = b"\"continue\":\"";
    let ends = [&page[..page.len().min(1024)], &page[page.len().saturating_sub(1024)..]];
    let found = ends.iter().find_map(|e| Some(&e[e.windows(FIELD.len()).position(|w| w == FIELD)? + FIELD.len()..]))?;
    let token = found.split(|b| *b == b'"').next()?;
    Some(String::from_utf8_lossy(token).replace('=', "%3D")).filter(|t| !t.is_empty())
}

/// The list of all objects of a definition, at once and in pages; gives the bytes of an object.
async fn lists(subject: &Subject, number: usize, objects: usize, figures: &mut Figures) -> Result<f64> {
    let mut api = subject.endpoint.connect().await?;
    let path = definitions::path(number);
    let (mut whole, mut size) = (Vec::new(), 0);
    for _ in 0..5 {
        let begun = Instant::now();
        size = api.send(Method::GET, &path, "").await?.len();
        whole.push(begun.elapsed());
    }
    let middle = lab::percentile(&mut whole, 0.5);
    figures.add(format!("list of {objects}, {:.1} MB", size as f64 / 1e6), middle, "ms", Target::None);
    let (begun, mut next) = (Instant::now(), String::new());
    loop {
        let page = api.send(Method::GET, &format!("{path}?limit={PAGE}&continue={next}"), "").await?;
        let Some(token) = continue_token(&page) else { break };
        next = token;
    }
    figures.add(format!("the same in pages of {PAGE}"), milliseconds(begun), "ms", Target::None);
    Ok(size as f64 / objects as f64)
}

/// Creates objects; gives how much memory that took.
async fn fill(
    subject: &Subject,
    what: &str,
    count: usize,
    of: impl Fn(usize) -> usize + Sync,
    figures: &mut Figures,
) -> Result<f64> {
    let before = subject.settled_memory().await;
    let took =
        together(subject, count, |n| (definitions::path(of(n)), definitions::object(of(n), &format!("object-{n}"))))
            .await?;
    figures.add(format!("{what}: created"), count as f64 / took.as_secs_f64(), "/s", Target::None);
    Ok(subject.settled_memory().await - before)
}

/// Everything that is measured of one API server, before a restart.
async fn measure(subject: &Subject) -> Result<Figures> {
    let mut figures = Figures::default();
    let count = lab::setting("SAMPAN_BENCH_DEFINITIONS", 200) as usize;
    let objects = lab::setting("SAMPAN_BENCH_OBJECTS", 20_000) as usize;
    let mib = f64::from(1 << 20);
    let empty = subject.settled_memory().await;
    figures.add("memory, empty".into(), empty, "MiB", Target::None);
    publication(subject, 0..1, "one definition", &mut figures).await?;
    publication(subject, 1..count, &format!("{} definitions", count - 1), &mut figures).await?;
    let one = definitions::definition(0).len() as f64;
    figures.add("a definition: serialized".into(), one / 1e3, "kB", Target::None);
    let grown = subject.settled_memory().await - empty;
    figures.add("a definition: in memory / serialized".into(), grown * mib / one / count as f64, "x", Target::None);
    for (name, path) in [("/apis", "/apis"), ("/openapi/v2", "/openapi/v2"), ("/openapi/v3", "/openapi/v3")] {
        document(subject, name, path, &mut figures).await?;
    }
    document(
        subject,
        "/openapi/v3 of a group",
        &format!("/openapi/v3/apis/{}/v1", definitions::group(0)),
        &mut figures,
    )
    .await?;
    // What the server takes to work at all, its code in memory first, is not what an object takes.
    together(subject, objects / 10, |n| {
        (definitions::path(n % count), definitions::object(n % count, &format!("first-{n}")))
    })
    .await?;
    let spread =
        fill(subject, &format!("{objects} objects of {count} kinds"), objects, |n| n % count, &mut figures).await?;
    let last = count;
    publication(subject, last..last + 1, "one more definition", &mut figures).await?;
    let alike = fill(subject, &format!("{objects} objects of one kind"), objects, |_| last, &mut figures).await?;
    let size = lists(subject, last, objects, &mut figures).await?;
    figures.add("an object: serialized".into(), size / 1e3, "kB", Target::None);
    for (what, grown) in [("many kinds", spread), ("one kind", alike)] {
        figures.add(
            format!("an object of {what}: in memory / serialized"),
            grown * mib / size / objects as f64,
            "x",
            Target::AtMost(1.3),
        );
    }
    figures.add("memory, full".into(), subject.settled_memory().await, "MiB", Target::None);
    Ok(figures)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut server = lab::Server::start(false);
    let (endpoint, _) = server.answers().await;
    let mut figures = measure(&Subject { endpoint, processes: vec![server.pid()] }).await?;
    server.restart();
    let (endpoint, mut api) = server.answers().await;
    figures.add("restart: answers".into(), milliseconds(server.started()), "ms", Target::None);
    let last = format!("\"{}\"", definitions::plural(0));
    figures.add(
        "restart: has the custom resources".into(),
        until(&mut api, "/apis", &[last], server.started()).await?,
        "ms",
        Target::None,
    );
    let subject = Subject { endpoint, processes: vec![server.pid()] };
    figures.add("memory after the restart".into(), subject.settled_memory().await, "MiB", Target::None);
    drop(server);
    let reference = match Subject::reference()? {
        Some(reference) => Some(measure(&reference).await?),
        None => None,
    };
    figures.print("200 definitions and their objects", reference.as_ref());
    Ok(())
}
