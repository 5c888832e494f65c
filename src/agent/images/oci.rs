//! OCI images as blobs in memory.

use std::collections::HashMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The architecture's name in images and Node labels.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut s = String::from("sha256:");
    for b in Sha256::digest(bytes) {
        use std::fmt::Write;
        let _ = write!(s, "{b:02x}");
    }
    s
}

/// One blob of an image.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Media type.
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Labels in the content store; those of a manifest keep what it names from being collected.
    pub labels: HashMap<String, String>,
}

impl Blob {
    /// A blob of these bytes.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Blob {
        Blob { media_type: media_type.to_owned(), digest: digest(&bytes), bytes, labels: HashMap::new() }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image: a manifest, and the blobs it names.
#[derive(Clone, Debug)]
pub struct Image {
    /// The names under which it becomes known.
    pub names: Vec<String>,
    /// Its manifest.
    pub manifest: Blob,
    /// Config and layers.
    pub blobs: Vec<Blob>,
}

impl Image {
    /// Puts an image together from its config and layers.
    pub fn of(name: &str, config: &Value, layers: Vec<Blob>) -> Image {
        let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let mut manifest = Blob::new("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        manifest.labels.insert("containerd.io/gc.ref.content.config".into(), config.digest.clone());
        for (i, layer) in layers.iter().enumerate() {
            manifest.labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone());
        }
        let mut blobs = layers;
        blobs.push(config);
        Image { names: vec![name.to_owned()], manifest, blobs }
    }
}
