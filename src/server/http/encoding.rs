//! The last step of an answer: what was made as JSON becomes protobuf where the client wants that
//! (errors, reviews, scales, discovery), and large bodies are compressed.

use std::io::Write;

use api::protobuf::Kind;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY};
use http_body::Body;
use http_body_util::BodyExt;
use serde::Deserialize;

use super::negotiate::{self, Accepted, Form, Media, PROTOBUF};
use super::respond::{Reply, full};

/// Smaller bodies are not worth the time; upstream's figure.
const COMPRESS_FROM: u64 = 128 * 1024;

/// How a client wants its answer to travel.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    protobuf: bool,
    gzip: bool,
}

impl Wishes {
    /// Reads the headers of a request.
    pub fn of(headers: &HeaderMap) -> Wishes {
        let protobuf = Ok(Accepted { form: Form::Object, media: Media::Protobuf });
        Wishes { protobuf: negotiate::accepted(headers, true) == protobuf, gzip: negotiate::accepts_gzip(headers) }
    }

    /// Fulfils them, as far as the answer allows. Streams stay as they are.
    pub async fn fulfil(self, reply: Reply) -> Reply {
        let (mut parts, mut body) = reply.into_parts();
        let size = body.size_hint().exact();
        let is_json = parts.headers.get(CONTENT_TYPE).is_some_and(|t| t == "application/json");
        let to_protobuf = self.protobuf && is_json && size.is_some();
        let compress = self.gzip && size.is_some_and(|n| n > COMPRESS_FROM);
        if !to_protobuf && (!compress || parts.headers.contains_key(CONTENT_ENCODING)) {
            return Reply::from_parts(parts, body);
        }
        let Ok(collected) = body.collect().await;
        let mut bytes = collected.to_bytes();
        if to_protobuf && let Some(encoded) = in_protobuf(&bytes) {
            bytes = encoded;
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        }
        if compress && let Some(smaller) = compressed(bytes.clone()).await {
            bytes = smaller;
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        parts.headers.remove(CONTENT_LENGTH);
        body = full(bytes);
        Reply::from_parts(parts, body)
    }
}

/// The protobuf form of a JSON object; `None` for what has none, which stays JSON.
fn in_protobuf(json: &[u8]) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default)]
        api_version: String,
        kind: String,
    }
    let head: Head = serde_json::from_slice(json).ok()?;
    // Discovery documents name no version of their own.
    let api_version = if head.api_version.is_empty() { "v1" } else { &head.api_version };
    Kind::of(api_version, &head.kind)?.encode(api_version, &head.kind, json).ok()
}

/// Compressed at upstream's level, off the threads that serve requests.
async fn compressed(bytes: Bytes) -> Option<Bytes> {
    let work = move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
        encoder.write_all(&bytes).and_then(|()| encoder.finish()).ok()
    };
    tokio::task::spawn_blocking(work).await.ok().flatten().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http::header::{ACCEPT, ACCEPT_ENCODING};
    use serde_json::json;

    use super::*;
    use crate::http::respond;

    fn wishes(pairs: &[(http::HeaderName, &str)]) -> Wishes {
        Wishes::of(&pairs.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect())
    }

    #[tokio::test]
    async fn errors_are_protobuf_for_those_who_want_it() {
        let wanted = wishes(&[(ACCEPT, "application/vnd.kubernetes.protobuf,application/json")]);
        let reply = wanted.fulfil(respond::status(&api::Status::not_found("", "pods", "a"))).await;
        assert_eq!(reply.headers()[CONTENT_TYPE], PROTOBUF);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let status = api::protobuf::decode(&body).unwrap();
        assert_eq!((&status["code"], &status["details"]["kind"]), (&json!(404), &json!("pods")));
        let other = wanted.fulfil(respond::json(200, &json!({"paths": []}))).await;
        assert_eq!(other.headers()[CONTENT_TYPE], "application/json");
    }

    #[tokio::test]
    async fn large_bodies_are_compressed_on_request() {
        let text = "x".repeat(COMPRESS_FROM as usize + 1);
        let wanted = wishes(&[(ACCEPT_ENCODING, "deflate, gzip")]);
        let reply = wanted.fulfil(respond::bytes(200, "application/json", text.clone())).await;
        assert_eq!(
            (&reply.headers()[CONTENT_ENCODING], &reply.headers()[VARY]),
            (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
        );
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let mut back = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
        let small = wanted.fulfil(respond::bytes(200, "application/json", "{}")).await;
        assert!(!small.headers().contains_key(CONTENT_ENCODING));
        let unasked = wishes(&[]).fulfil(respond::bytes(200, "application/json", text)).await;
        assert!(!unasked.headers().contains_key(CONTENT_ENCODING));
    }
}
