//! Clients that write whatever comes to their mind.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::world::{World, key_and_revision, path};
use super::{KINDS, NAMESPACES, WRITES};

fn labels(random: &mut StdRng) -> Value {
    json!({"side": if random.random() { "left" } else { "right" }})
}

/// Writes until it has written enough.
pub(super) async fn run(world: Arc<World>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..WRITES {
        let kind = random.random_range(0..KINDS.len());
        let namespace = NAMESPACES[random.random_range(0..NAMESPACES.len())];
        let name = format!("n{}", random.random_range(0..5));
        let collection = path(kind, Some(namespace), "");
        let one = collection.replace('?', &format!("/{name}"));
        // Every write says something that was never said, so that none is empty.
        let annotations = json!({"said": random.random::<u64>().to_string()});
        let object = json!({"metadata": {"name": name, "labels": labels(&mut random), "annotations": annotations}});
        let before = world.told();
        let (code, answer) = match random.random_range(0..10) {
            0..4 => world.ask("POST", &collection, "application/json", &object).await,
            4..6 => world.ask("PUT", &one, "application/json", &object).await,
            6..8 => world.ask("PATCH", &one, "application/merge-patch+json", &object).await,
            8 => {
                let applied = format!("{one}?fieldManager=m&force=true");
                let mut object = object;
                (object["apiVersion"], object["kind"]) = kind_of(kind);
                world.ask("PATCH", &applied, "application/apply-patch+yaml", &object).await
            }
            _ => world.ask("DELETE", &one, "application/json", &Value::Null).await,
        };
        match code {
            200 | 201 if answer["kind"] != "Status" => {
                let (key, revision) = key_and_revision(&answer);
                assert!(revision > before, "{revision} was given after {before} (seed {})", world.seed);
                world.acknowledge(revision, kind, key);
            }
            // Deleted; there already, not there, changed by another at the same time, or a lease without its version.
            200 | 404 | 409 | 422 => {}
            other => panic!("{other}: {answer}"),
        }
    }
}

fn kind_of(kind: usize) -> (Value, Value) {
    let [version, kind] = [["v1", "ConfigMap"], ["v1", "Secret"], ["coordination.k8s.io/v1", "Lease"]][kind];
    (version.into(), kind.into())
}
