//! EventRateLimit: so many events a second, by server, namespace, user, or source and object.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Admission, Attributes, Operation};

/// Upstream's number of buckets that are remembered.
const CACHE: usize = 4096;

/// By what events are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

#[derive(Clone, Debug)]
struct Limit {
    kind: Kind,
    qps: f64,
    burst: f64,
    cache: usize,
}

/// The limits of a plugin configuration.
#[derive(Clone, Debug, Default)]
pub struct Configuration(Vec<Limit>);

impl Configuration {
    /// Reads a `Configuration` of `eventratelimit.admission.k8s.io`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(v: &Value) -> Result<Configuration, String> {
        let limits = v["limits"].as_array().filter(|l| !l.is_empty()).ok_or("limits: Required value")?;
        let limit = |(i, l): (usize, &Value)| {
            let kind = match l["type"].as_str().unwrap_or_default() {
                "Server" => Kind::Server,
                "Namespace" => Kind::Namespace,
                "User" => Kind::User,
                "SourceAndObject" => Kind::SourceAndObject,
                other => return Err(format!("limits[{i}].type: Unsupported value: {other:?}")),
            };
            let positive = |f: &str| {
                let n = l[f].as_f64().unwrap_or(0.0);
                if n > 0.0 { Ok(n) } else { Err(format!("limits[{i}].{f}: Invalid value: {n}: must be positive")) }
            };
            let cache = l["cacheSize"].as_u64().filter(|n| *n > 0).map_or(CACHE, |n| n as usize);
            Ok(Limit { kind, qps: positive("qps")?, burst: positive("burst")?, cache })
        };
        limits.iter().enumerate().map(limit).collect::<Result<_, String>>().map(Configuration)
    }
}

/// What is left, and since when.
struct Bucket {
    tokens: f64,
    at: Instant,
}

pub(super) struct EventRateLimit {
    limits: Vec<(Limit, Mutex<HashMap<String, Bucket>>)>,
}

impl EventRateLimit {
    pub(super) fn new(configuration: &Configuration) -> EventRateLimit {
        EventRateLimit { limits: configuration.0.iter().map(|l| (l.clone(), Mutex::default())).collect() }
    }

    /// Counts an event; gives the limits that are reached.
    fn reached(&self, now: Instant, key: impl Fn(Kind) -> String) -> Vec<String> {
        // Every limit counts the event, also when another refuses it.
        let reached = self.limits.iter().filter_map(|(limit, buckets)| {
            let mut buckets = buckets.lock().unwrap_or_else(|e| e.into_inner());
            let key = key(limit.kind);
            if buckets.len() >= limit.cache && !buckets.contains_key(&key) {
                let oldest = buckets.iter().min_by_key(|(_, b)| b.at).map(|(k, _)| k.clone());
                oldest.map(|k| buckets.remove(&k));
            }
            let b = buckets.entry(key.clone()).or_insert(Bucket { tokens: limit.burst, at: now });
            b.tokens = (b.tokens + limit.qps * now.duration_since(b.at).as_secs_f64()).min(limit.burst);
            b.at = now;
            if b.tokens >= 1.0 {
                b.tokens -= 1.0;
                return None;
            }
            Some(format!("limit reached on type {:?} for key {key}", limit.kind))
        });
        reached.collect()
    }
}

#[async_trait]
impl Admission for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    async fn validate(&self, a: &Attributes<'_>, object: Option<&Value>, _: Option<&Value>) -> Result<(), Status> {
        let counted = matches!(a.operation, Operation::Create | Operation::Update);
        if a.resource.kind != "Event" || !counted || a.dry_run {
            return Ok(());
        }
        let event = object.unwrap_or(&Value::Null);
        let key = |kind| match kind {
            Kind::Server => String::new(),
            Kind::Namespace => a.namespace.to_owned(),
            Kind::User => a.user.name.clone(),
            Kind::SourceAndObject => format!("{}{}", event["source"], event["involvedObject"]),
        };
        let reached = self.reached(Instant::now(), key);
        match reached.as_slice() {
            [] => Ok(()),
            [one] => Err(Status::too_many_requests(one.clone(), 1)),
            all => Err(Status::too_many_requests(format!("[{}]", all.join(", ")), 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::json;

    #[test]
    fn a_burst_and_then_the_rate() {
        let c = Configuration::parse(&json!({"limits": [{"type": "Namespace", "qps": 1, "burst": 2}]})).unwrap();
        let (plugin, now) = (EventRateLimit::new(&c), Instant::now());
        let at =
            |s: u64, ns: &'static str| plugin.reached(now + Duration::from_secs(s), move |_| ns.to_owned()).is_empty();
        assert_eq!(
            [at(0, "a"), at(0, "a"), at(0, "a"), at(0, "b"), at(1, "a"), at(1, "a")],
            [true, true, false, true, true, false]
        );
        assert!(Configuration::parse(&json!({})).is_err());
    }
}
