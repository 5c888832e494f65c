//! Many clients at once, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;

use super::lab::https::{Endpoint, Form};
use super::workload::CLIENTS;

/// What one client is to send.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub form: Form,
    pub body: Bytes,
}

/// What a number of requests took.
#[derive(Default)]
pub struct Measured {
    /// One for each request, or for each event that one of the watchers saw.
    pub latencies: Vec<Duration>,
    /// How often what is counted happened: requests, or events of all watchers.
    pub count: u64,
    /// Of the answers.
    pub bytes: u64,
    pub took: Duration,
    /// Of the server's processes.
    pub cpu: Duration,
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

/// Makes the calls 0 .. `calls`, from all clients together.
pub async fn load<F>(endpoint: &Endpoint, calls: u64, call: F) -> Measured
where
    F: Fn(u64) -> Call + Send + Sync + 'static,
{
    let (call, next) = (Arc::new(call), Arc::new(AtomicU64::new(0)));
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(endpoint.connect().await.expect("a connection"));
    }
    let begun = Instant::now();
    let clients: Vec<_> = connections
        .into_iter()
        .map(|mut api| {
            let (call, next) = (call.clone(), next.clone());
            tokio::spawn(async move {
                let (mut latencies, mut bytes) = (Vec::new(), 0);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= calls {
                        return (latencies, bytes);
                    }
                    let Call { method, path, form, body } = call(number);
                    let start = Instant::now();
                    bytes += api.call(method, &path, form, body).await.expect("an answer").len() as u64;
                    latencies.push(start.elapsed());
                }
            })
        })
        .collect();
    let mut all = Measured { count: calls, ..Measured::default() };
    for client in clients {
        let (latencies, bytes) = client.await.expect("a client");
        all.latencies.extend(latencies);
        all.bytes += bytes;
    }
    Measured { took: begun.elapsed(), ..all }
}
