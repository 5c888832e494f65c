//! Image tarballs, as `docker save` and OCI tools write them, from a folder into containerd:
//! all of them at start, and later each one that is written or moved there.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use tonic::transport::Channel;

use super::oci::{Blob, Image, go_arch};
use super::{Error, store};
use client::dirwatch::DirWatch;

/// Reads all images of a tarball; gzip is recognised by its first bytes.
///
/// # Errors
/// When the file cannot be read or is no image archive.
pub fn read(path: &Path) -> Result<Vec<Image>, Error> {
    let mut file = std::fs::File::open(path).map_err(Error::Archive)?;
    let mut magic = [0u8; 2];
    let packed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    std::io::Seek::rewind(&mut file).map_err(Error::Archive)?;
    let input: Box<dyn Read> = if packed { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut files: HashMap<String, Vec<u8>> = HashMap::new();
    let mut links: Vec<(String, String)> = Vec::new();
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().map_err(Error::Archive)? {
        let mut entry = entry.map_err(Error::Archive)?;
        let name = entry.path().map_err(Error::Archive)?.to_string_lossy().trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(Error::Archive)?;
                files.insert(name, bytes);
            }
            // `docker save` links equal layers to each other.
            tar::EntryType::Symlink | tar::EntryType::Link => {
                if let Ok(Some(target)) = entry.link_name() {
                    links.push((name, target.to_string_lossy().trim_start_matches("../").to_owned()));
                }
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(bytes) = files.get(&target).cloned() {
            files.insert(name, bytes);
        }
    }
    let not = |why: String| Error::NotAnImage(path.to_owned(), why);
    if files.contains_key("index.json") {
        oci_layout(&files).map_err(not)
    } else if files.contains_key("manifest.json") {
        docker_archive(&files).map_err(not)
    } else {
        Err(not("it has neither index.json nor manifest.json".into()))
    }
}

fn json(files: &HashMap<String, Vec<u8>>, name: &str) -> Result<Value, String> {
    let bytes = files.get(name).ok_or_else(|| format!("{name} is missing"))?;
    serde_json::from_slice(bytes).map_err(|e| format!("{name}: {e}"))
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn blob(files: &HashMap<String, Vec<u8>>, descriptor: &Value) -> Result<Blob, String> {
    let digest = descriptor["digest"].as_str().ok_or("a descriptor has no digest")?;
    let bytes = files.get(&blob_path(digest)).ok_or_else(|| format!("blob {digest} is missing"))?;
    let blob = Blob::new(descriptor["mediaType"].as_str().unwrap_or("application/octet-stream"), bytes.clone());
    if blob.digest != digest { Err(format!("blob {digest} is damaged")) } else { Ok(blob) }
}

/// An OCI image layout: `index.json` names manifests, or indexes of which this machine's platform is taken.
fn oci_layout(files: &HashMap<String, Vec<u8>>) -> Result<Vec<Image>, String> {
    let index = json(files, "index.json")?;
    let mut images = Vec::new();
    for entry in index["manifests"].as_array().ok_or("index.json has no manifests")? {
        let annotations = &entry["annotations"];
        let name = annotations["io.containerd.image.name"]
            .as_str()
            .or_else(|| annotations["org.opencontainers.image.ref.name"].as_str().filter(|n| n.contains(['/', ':'])))
            .map(normalized);
        let mut descriptor = entry.clone();
        if entry["mediaType"].as_str().is_some_and(|m| m.contains("index") || m.contains("manifest.list")) {
            let inner: Value = serde_json::from_slice(&blob(files, entry)?.bytes).map_err(|e| e.to_string())?;
            let platforms = inner["manifests"].as_array().cloned().unwrap_or_default();
            descriptor = platforms
                .into_iter()
                .find(|m| m["platform"]["architecture"].as_str() == Some(go_arch()))
                .ok_or_else(|| format!("no image for {}", go_arch()))?;
        }
        let mut manifest = blob(files, &descriptor)?;
        let content: Value = serde_json::from_slice(&manifest.bytes).map_err(|e| e.to_string())?;
        let config = blob(files, &content["config"])?;
        manifest.labels.insert("containerd.io/gc.ref.content.config".into(), config.digest.clone());
        let mut blobs = vec![config];
        for (i, layer) in content["layers"].as_array().into_iter().flatten().enumerate() {
            let layer = blob(files, layer)?;
            manifest.labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone());
            blobs.push(layer);
        }
        let names = name.into_iter().collect();
        images.push(Image { names, manifest, blobs });
    }
    images.retain(|i| !i.names.is_empty());
    if images.is_empty() { Err("no image in it has a name".into()) } else { Ok(images) }
}

/// What `docker save` wrote before it wrote OCI layouts: `manifest.json` with config, layers and tags.
fn docker_archive(files: &HashMap<String, Vec<u8>>) -> Result<Vec<Image>, String> {
    let manifest = json(files, "manifest.json")?;
    let mut images = Vec::new();
    for entry in manifest.as_array().ok_or("manifest.json is no list")? {
        let config = json(files, entry["Config"].as_str().ok_or("an image has no Config")?)?;
        let mut layers = Vec::new();
        for layer in entry["Layers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let bytes = files.get(layer).ok_or_else(|| format!("layer {layer} is missing"))?;
            layers.push(Blob::new("application/vnd.oci.image.layer.v1.tar", bytes.clone()));
        }
        let names: Vec<String> =
            entry["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(normalized).collect();
        let mut image = Image::of("", &config, layers);
        image.names = names;
        images.push(image);
    }
    images.retain(|i| !i.names.is_empty());
    if images.is_empty() { Err("no image in it has a tag".into()) } else { Ok(images) }
}

/// A full reference: `nginx` -> `docker.io/library/nginx:latest`.
pub fn normalized(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let mut full = if first.contains(['.', ':']) || first == "localhost" {
        name.to_owned()
    } else if first.is_empty() {
        format!("docker.io/library/{rest}")
    } else {
        format!("docker.io/{name}")
    };
    let last = full.rsplit('/').next().unwrap_or("");
    if !last.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

async fn import_file(channel: &Channel, path: &Path) {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if ![".tar", ".tar.gz", ".tgz"].iter().any(|e| name.ends_with(e)) {
        return;
    }
    let owned = path.to_owned();
    let images = match tokio::task::spawn_blocking(move || read(&owned)).await {
        Ok(Ok(images)) => images,
        Ok(Err(e)) => return tracing::error!(file = %path.display(), error = %e, "an image file was not imported"),
        Err(e) => return tracing::error!(file = %path.display(), error = %e, "reading an image file failed"),
    };
    for image in images {
        match store::put(channel, &image).await {
            Ok(()) => tracing::info!(file = %path.display(), names = ?image.names, "image imported"),
            Err(e) => tracing::error!(file = %path.display(), error = %e, "an image was not imported"),
        }
    }
}

/// Imports everything that is in the folder now.
pub async fn import_all(channel: &Channel, dir: &Path) {
    let mut files: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        import_file(channel, &file).await;
    }
}

/// Imports every file that comes into the folder from now on. Runs until it is cancelled.
pub async fn follow(channel: Channel, dir: std::path::PathBuf, mut watch: DirWatch) {
    loop {
        match watch.changed().await {
            Ok(mut names) => {
                names.sort();
                names.dedup();
                for name in names {
                    let path = dir.join(name);
                    // A file that is still being written is announced again when it is closed.
                    if path.is_file() {
                        import_file(&channel, &path).await;
                    }
                }
            }
            Err(e) => return tracing::error!(error = %e, "the images folder is not watched any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn names_become_full_references() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("bitnami/redis:7", "docker.io/bitnami/redis:7"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("quay.io/a/b:1", "quay.io/a/b:1"),
        ] {
            assert_eq!(normalized(short), full);
        }
    }
}
