//! Token cleaner: deletes bootstrap tokens when they have expired
//! (upstream: `pkg/controller/bootstrap/tokencleaner.go`).
//!
//! Invariant: a token without an end, or whose end is ahead, is never touched.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::k8s::core::v1::Secret;
use async_trait::async_trait;
use client::{Client, Gvr, Informer, ListParams};
use jiff::Timestamp;
use serde_json::json;

use crate::runtime::{self, Action, Context, Controller, Queue};

const NAME: &str = "token-cleaner";

struct TokenCleaner {
    client: Client,
    tokens: Informer,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let selection =
        ListParams { namespace: "kube-system".into(), ..ListParams::field("type", "bootstrap.kubernetes.io/token") };
    let tokens = context.informers.select(Gvr::of::<Secret>(), selection);
    let queue = Queue::default();
    runtime::enqueue_own(&tokens, &queue);
    let controller = TokenCleaner { client: (context.client_for)(NAME), tokens: tokens.clone() };
    runtime::run(context, Arc::new(controller), queue, vec![tokens], 1);
}

/// How long a token is still good; `None` when it has no end, zero when it is over or its end
/// cannot be read.
fn left(token: &Secret, now: Timestamp) -> Option<Duration> {
    let end = token.data.as_ref()?.get("expiration")?;
    let end = std::str::from_utf8(&end.0).ok().and_then(|t| t.parse::<Timestamp>().ok());
    Some(end.map_or(Duration::ZERO, |e| Duration::try_from(e.duration_since(now)).unwrap_or(Duration::ZERO)))
}

#[async_trait]
impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "token_cleaner"
    }

    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(token) = self.tokens.get::<Secret>(key) else { return Ok(Action::Done) };
        match left(&token, Timestamp::now()) {
            None => Ok(Action::Done),
            Some(left) if !left.is_zero() => Ok(Action::After(left)),
            Some(_) => {
                let (namespace, name) = api::split_key(key);
                let same = json!({"preconditions": {"uid": token.metadata.uid}});
                match self.client.delete_with::<Secret>(namespace, name, &same).await {
                    Err(s) if !s.is_not_found() => Err(s),
                    _ => Ok(Action::Done),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::ByteString;

    use super::*;

    #[test]
    fn only_an_end_in_the_past_ends_a_token() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = |end: &str| Secret {
            data: Some([("expiration".to_owned(), ByteString(end.as_bytes().to_vec()))].into()),
            ..Default::default()
        };
        assert_eq!(left(&Secret::default(), now), None);
        assert_eq!(left(&token("2026-01-01T00:01:00Z"), now), Some(Duration::from_secs(60)));
        assert_eq!(left(&token("2025-12-31T23:59:59Z"), now), Some(Duration::ZERO));
        assert_eq!(left(&token("soon"), now), Some(Duration::ZERO));
    }
}
