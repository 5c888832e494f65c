//! A client that reads lists page by page, while others write.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::world::{World, key_and_revision, path};
use super::{KINDS, NAMESPACES, SELECTORS};

/// Reads lists, each whole.
pub(super) async fn run(world: Arc<World>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..20 {
        let kind = random.random_range(0..KINDS.len());
        let namespace = NAMESPACES.get(random.random_range(0..=NAMESPACES.len())).copied();
        let selector = SELECTORS[random.random_range(0..SELECTORS.len())];
        one(&world, &|query| path(kind, namespace, &format!("{selector}&{query}")), random.random_range(1..4)).await;
    }
}

async fn one(world: &World, path: &(dyn Fn(&str) -> String + Sync), limit: usize) {
    let (mut items, mut token, mut first) = (Vec::new(), String::new(), None);
    let told = world.told();
    loop {
        let query = format!("limit={limit}&continue={token}");
        let (code, page) = world.ask("GET", &path(&query), "", &Value::Null).await;
        if code == 410 && !token.is_empty() || code >= 500 {
            return;
        }
        assert_eq!(code, 200, "{page}");
        let revision = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let first = first.get_or_insert_with(|| revision.clone());
        assert_eq!(*first, revision, "all pages are of the first one's revision (seed {})", world.seed);
        assert!(revision.parse::<u64>().unwrap() >= told, "a list is of now: {revision}, {told} (seed {})", world.seed);
        let listed: Vec<_> = page["items"].as_array().unwrap().iter().map(key_and_revision).collect();
        let wanted = page["metadata"]["continue"].as_str().unwrap_or_default();
        assert!(listed.len() == limit || wanted.is_empty() && listed.len() < limit, "{page}");
        items.extend(listed);
        token = wanted.to_owned();
        if token.is_empty() {
            break;
        }
    }
    let exact = format!("resourceVersionMatch=Exact&resourceVersion={}", first.unwrap_or_default());
    let (code, whole) = world.ask("GET", &path(&exact), "", &Value::Null).await;
    if code == 200 {
        let whole: Vec<_> = whole["items"].as_array().unwrap().iter().map(key_and_revision).collect();
        assert_eq!(items, whole, "the pages together are the list (seed {})", world.seed);
    }
}
