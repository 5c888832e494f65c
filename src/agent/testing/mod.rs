//! What the agent's tests stand on: an API in memory, and helpers.

pub mod api;
mod faked;
mod real;

use std::time::Duration;

/// Waits until a condition holds; the condition is looked at again at each change of the API.
pub async fn until<T>(api: &api::FakeApi, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut changes = api.changes();
    let waiting = async {
        loop {
            if let Some(t) = condition() {
                return t;
            }
            changes.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(Duration::from_secs(90), waiting).await {
        Ok(t) => t,
        Err(_) => panic!("{what} did not come about; the API holds:\n{}", api.dump()),
    }
}
