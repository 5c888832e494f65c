//! ImageLocality: nodes that have a pod's images already are a little better.

use api::k8s::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{MAX_SCORE, Plugin};

const MIB: i64 = 1024 * 1024;
const MIN: i64 = 23 * MIB;
const MAX_PER_CONTAINER: i64 = 1000 * MIB;

pub(super) struct ImageLocality;

/// `nginx` and `docker.io/library/nginx:latest` are the same image.
fn canonical(image: &str) -> String {
    let tagged = if image.rsplit('/').next().is_some_and(|l| l.contains(':') || image.contains('@')) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    };
    let first = tagged.split('/').next().unwrap_or_default();
    if !tagged.contains('/') {
        format!("docker.io/library/{tagged}")
    } else if first.contains('.') || first.contains(':') || first == "localhost" {
        tagged
    } else {
        format!("docker.io/{tagged}")
    }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, pod: &Pod, node: &NodeInfo) -> Option<i64> {
        let spec = pod.spec.as_ref()?;
        let images = node.node.status.as_ref().and_then(|s| s.images.as_deref()).unwrap_or_default();
        let mut sum = 0;
        for c in &spec.containers {
            let wanted = canonical(c.image.as_deref().unwrap_or_default());
            let here = images.iter().find(|i| i.names.iter().flatten().any(|n| *n == wanted));
            sum += here.and_then(|i| i.size_bytes).unwrap_or(0);
        }
        let max = MAX_PER_CONTAINER * spec.containers.len().max(1) as i64;
        Some(MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn image_names_are_completed() {
        assert_eq!(canonical("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(canonical("a/b:1"), "docker.io/a/b:1");
        assert_eq!(canonical("localhost:5000/x"), "localhost:5000/x:latest");
    }
}
