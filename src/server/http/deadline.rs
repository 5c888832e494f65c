//! How long a request may take: a minute, or less where its URL says so. Streams have no end of this kind.

use std::time::Duration;

use api::Status;

use super::respond::{self, Reply};
use crate::request::{Query, RequestInfo};
use crate::subresources;

/// Upstream's `--request-timeout`.
const LONGEST: Duration = Duration::from_secs(60);

/// Whether a request streams: it ends when its client or its subject does.
pub fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || info.is_resource && subresources::is_connect(&info.subresource)
}

/// The time that a request has; `None` for streams.
///
/// # Errors
/// 400 for a `timeout` that is no duration.
pub fn of(query: &Query, info: &RequestInfo) -> Result<Option<Duration>, Status> {
    if is_long_running(info) {
        return Ok(None);
    }
    let Some(text) = query.get("timeout") else { return Ok(Some(LONGEST)) };
    let given = api::time::go_duration(text).ok_or_else(|| {
        Status::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {text:?}"))
    })?;
    // Nothing, and what is less, asks for no limit of its own.
    let given = Duration::try_from_secs_f64(given).unwrap_or_default();
    Ok(Some(if given.is_zero() { LONGEST } else { given.min(LONGEST) }))
}

/// Answers in time: what is not done by then goes on without anybody who waits for it.
pub async fn within(limit: Duration, work: impl Future<Output = Reply> + Send + 'static) -> Reply {
    let mut work = Box::pin(work);
    match tokio::time::timeout(limit, &mut work).await {
        Ok(reply) => reply,
        Err(_) => {
            // A write that was begun is finished, as it would be for a client that went away.
            tokio::spawn(work);
            respond::status(&Status::timeout("request did not complete within the allotted timeout", 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn limit(uri: &str) -> Result<Option<Duration>, Status> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        of(&query, &RequestInfo::new(&Method::GET, path, &query))
    }

    #[test]
    fn the_url_may_shorten_what_a_request_has_but_not_a_stream() {
        assert_eq!(limit("/api/v1/pods").unwrap(), Some(LONGEST));
        assert_eq!(limit("/api/v1/pods?timeout=1500ms").unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(limit("/api/v1/pods?timeout=2h").unwrap(), Some(LONGEST));
        assert_eq!(limit("/api/v1/pods?timeout=0s").unwrap(), Some(LONGEST));
        assert_eq!(limit("/api/v1/pods?watch=1&timeout=1s").unwrap(), None);
        assert_eq!(limit("/api/v1/namespaces/a/pods/b/log?timeout=x").unwrap(), None);
        let wrong = limit("/api/v1/pods?timeout=soon").unwrap_err();
        assert_eq!(
            (wrong.code, wrong.message.as_str()),
            (400, "invalid timeout specified in the request URL - time: invalid duration \"soon\"")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_answered_and_goes_on() {
        let (done, was_done) = tokio::sync::oneshot::channel();
        let work = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _ = done.send(());
            respond::bytes(200, "text/plain", "late")
        };
        let reply = within(Duration::from_secs(1), work).await;
        assert_eq!(reply.status(), 504);
        was_done.await.unwrap();
    }
}
