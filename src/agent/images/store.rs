//! Writes images into containerd's content store and names them, by containerd's own API.
//!
//! containerd collects what nothing refers to, so an import holds a lease until its names exist.

use std::collections::HashMap;

use containerd_client::services::v1 as ctrd;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::Error;
use super::oci::{Blob, Image};

/// The namespace in which CRI keeps its things.
pub const NAMESPACE: &str = "k8s.io";
/// Bytes of a blob sent at once.
const CHUNK: usize = 1 << 20;

/// Puts containerd's namespace, and a lease when there is one, on a request.
pub fn request<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut r = Request::new(message);
    r.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|l| l.parse().ok()) {
        r.metadata_mut().insert("containerd-lease", lease);
    }
    r
}

fn failed(what: &'static str) -> impl Fn(tonic::Status) -> Error {
    move |s| Error::Containerd(what, s.message().to_owned())
}

/// Whether containerd has an image of this name with this manifest.
async fn has(channel: &Channel, name: &str, digest: &str) -> bool {
    let get = ctrd::GetImageRequest { name: name.to_owned() };
    match ImagesClient::new(channel.clone()).get(request(get, None)).await {
        Ok(r) => r.into_inner().image.and_then(|i| i.target).is_some_and(|t| t.digest == digest),
        Err(_) => false,
    }
}

/// Writes an image and its names. What is there already is left alone.
///
/// # Errors
/// When containerd refuses.
pub async fn put(channel: &Channel, image: &Image) -> Result<(), Error> {
    let mut missing = Vec::new();
    for name in &image.names {
        if !has(channel, name, &image.manifest.digest).await {
            missing.push(name.clone());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut leases = LeasesClient::new(channel.clone());
    let id = format!("sampan-import-{}", uuid::Uuid::new_v4());
    // An hour at most, should we die in between.
    let expire = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let create = ctrd::CreateRequest {
        id: id.clone(),
        labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expire.to_string())]),
    };
    leases.create(request(create, None)).await.map_err(failed("create a lease"))?;
    let outcome = put_leased(channel, image, &missing, &id).await;
    let delete = ctrd::DeleteRequest { id, sync: false };
    if let Err(s) = leases.delete(request(delete, None)).await {
        tracing::debug!(error = %s, "an import's lease is left to expire");
    }
    outcome
}

async fn put_leased(channel: &Channel, image: &Image, names: &[String], lease: &str) -> Result<(), Error> {
    for blob in image.blobs.iter().chain([&image.manifest]) {
        write(channel, blob, lease).await?;
    }
    let mut images = ImagesClient::new(channel.clone());
    for name in names {
        let entry = ctrd::Image {
            name: name.clone(),
            labels: HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]),
            target: Some(containerd_client::types::Descriptor {
                media_type: image.manifest.media_type.clone(),
                digest: image.manifest.digest.clone(),
                size: i64::try_from(image.manifest.bytes.len()).unwrap_or(i64::MAX),
                annotations: HashMap::new(),
            }),
            created_at: None,
            updated_at: None,
        };
        let create = ctrd::CreateImageRequest { image: Some(entry.clone()), source_date_epoch: None };
        match images.create(request(create, Some(lease))).await {
            Ok(_) => {}
            Err(s) if s.code() == Code::AlreadyExists => {
                let update =
                    ctrd::UpdateImageRequest { image: Some(entry), update_mask: None, source_date_epoch: None };
                images.update(request(update, Some(lease))).await.map_err(failed("update an image"))?;
            }
            Err(s) => return Err(failed("create an image")(s)),
        }
    }
    Ok(())
}

async fn write(channel: &Channel, blob: &Blob, lease: &str) -> Result<(), Error> {
    let reference = format!("sampan-{}", blob.digest);
    let total = i64::try_from(blob.bytes.len()).unwrap_or(i64::MAX);
    let message = |action: ctrd::WriteAction, offset: usize, data: &[u8]| ctrd::WriteContentRequest {
        action: action as i32,
        r#ref: reference.clone(),
        total,
        expected: blob.digest.clone(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data: data.to_vec(),
        labels: blob.labels.clone(),
    };
    let mut messages: Vec<ctrd::WriteContentRequest> = blob
        .bytes
        .chunks(CHUNK)
        .enumerate()
        .map(|(i, chunk)| message(ctrd::WriteAction::Write, i * CHUNK, chunk))
        .collect();
    messages.push(message(ctrd::WriteAction::Commit, blob.bytes.len(), &[]));
    let stream = request(futures::stream::iter(messages), Some(lease));
    let outcome = async {
        let mut answers = ContentClient::new(channel.clone()).write(stream).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    };
    match outcome.await {
        Ok(()) => Ok(()),
        Err(s) if s.code() == Code::AlreadyExists => Ok(()),
        Err(s) => Err(failed("write content")(s)),
    }
}
