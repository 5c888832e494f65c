//! API priority and fairness: no client can keep the server from the others
//! (<https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).
//!
//! * [`classify`] – the flow schema of a request.  [`estimate`] – how many seats it takes.
//! * [`seats`] – who is served, who waits.  [`demand`], [`allocation`] – how many seats a level has.
//! * [`watchers`] – who sees a write.
//! * [`configuration`] – the objects: kept as upstream keeps them, read, and told of.
//! * [`counters`] – the metrics.
//!
//! Callers in the server's own process are not limited, nor are streams, but for the beginning of a
//! watch.

mod allocation;
mod classify;
pub mod configuration;
mod counters;
mod demand;
mod estimate;
mod seats;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http::header::{HeaderName, RETRY_AFTER};

use self::classify::Schema;
use self::seats::{Demand, Seats, Ticket};
use self::watchers::Watchers;
pub use self::watchers::Watching;
use crate::Server;
use crate::http::deadline;
use crate::http::respond::{self, Reply};
use crate::request::{Query, RequestInfo, User};

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// How long a request waits for its turn: a quarter of the time that it has.
const PATIENCE: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub struct FlowControl {
    /// In the order in which they are tried.
    schemas: ArcSwap<Vec<Arc<Schema>>>,
    seats: Seats,
    watchers: Watchers,
    /// The seats of the whole server.
    total: u64,
}

/// A request that may go on, and what its answer tells of that.
#[derive(Debug)]
pub struct Admitted {
    schema: Arc<Schema>,
    _ticket: Ticket,
}

impl Admitted {
    /// Names schema and level in an answer.
    pub fn mark(&self, reply: &mut Reply) {
        mark(&self.schema, reply);
    }
}

fn mark(schema: &Schema, reply: &mut Reply) {
    for (name, uid) in [(SCHEMA_UID, &schema.uid), (LEVEL_UID, &schema.level_uid)] {
        if let Ok(value) = HeaderValue::from_str(uid) {
            reply.headers_mut().insert(name, value);
        }
    }
}

impl FlowControl {
    /// Flow control with the objects that every cluster has; others follow with
    /// [`configuration::run`]. `total` requests are served at once.
    pub fn new(total: u64) -> FlowControl {
        let control =
            FlowControl { schemas: ArcSwap::default(), seats: Seats::default(), watchers: Watchers::default(), total };
        control.configure(configuration::Objects::default());
        control
    }

    /// Lets a request go on when it is its turn. `None` for what is not limited.
    ///
    /// # Errors
    /// The answer to one that is turned away.
    pub async fn admit(
        &self,
        server: &Server,
        user: &User,
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Option<Admitted>, Reply> {
        if info.verb != "watch" && deadline::is_long_running(info) {
            return Ok(None);
        }
        let schemas = self.schemas.load();
        // The last one matches everybody; those who are nobody are no user of an authenticator's.
        let Some(schema) = schemas.iter().find(|s| s.matches(user, info)).cloned() else { return Ok(None) };
        drop(schemas);
        let flow = schema.distinguisher(user, info);
        let (width, watchers) = self.width(server, &schema, info, query);
        let demand = Demand {
            schema: &schema.name,
            level: &schema.level,
            flow,
            width,
            is_watch: info.verb == "watch",
            watchers,
            patience: PATIENCE,
        };
        match self.seats.take(demand).await {
            Ok(ticket) => Ok(Some(Admitted { schema, _ticket: ticket })),
            Err(_) => {
                let text = "Too many requests, please try again later.\n";
                let mut reply = respond::bytes(429, "text/plain; charset=utf-8", text);
                reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                mark(&schema, &mut reply);
                Err(reply)
            }
        }
    }

    /// Counts a watch that is open.
    pub fn watching(&self, info: &RequestInfo, query: &Query) -> Watching {
        self.watchers.add(info, query)
    }

    /// The metrics.
    pub fn write_metrics(&self, out: &mut String) {
        self.seats.write_metrics(out);
    }
}

#[cfg(test)]
mod tests;
