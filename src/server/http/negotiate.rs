//! Which representation a client accepts, and how a body is written.

use api::Status;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};

use crate::request::Query;

/// How objects are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Object,
    /// `Table`, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// `PartialObjectMetadata[List]`, in this version of `meta.k8s.io`.
    Metadata(&'static str),
}

/// The encodings of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// JSON.
    Json,
    /// JSON for people's eyes.
    Pretty,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// A representation of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What is shown.
    pub form: Form,
    /// How it is encoded.
    pub media: Media,
}

/// The body formats that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// The media type of protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What objects can be shown in, in the server's order.
const SERVED: [(&str, Media); 3] =
    [("application/json", Media::Json), ("application/yaml", Media::Yaml), (PROTOBUF, Media::Protobuf)];
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMED: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const BODIES: &str = ACCEPTED;

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// One media range of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    quality: f32,
    kind: &'a str,
    group: &'a str,
    version: &'a str,
    stream: &'a str,
    pretty: bool,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Range<'a>> {
        let mut params = text.split(';').map(str::trim);
        let media = match params.next()? {
            "*" => "*/*",
            m if m.split('/').count() == 2 => m,
            _ => return None,
        };
        let mut r = Range { media, quality: 1.0, kind: "", group: "", version: "", stream: "", pretty: false };
        for (name, value) in params.filter_map(|p| p.split_once('=')) {
            match name {
                // Not a number would have no place in an order.
                "q" => r.quality = value.parse().ok().filter(|q: &f32| q.is_finite()).unwrap_or(0.0),
                "as" => r.kind = value,
                "g" => r.group = value,
                "v" => r.version = value,
                "stream" => r.stream = value,
                "pretty" => r.pretty = value == "1",
                _ => {}
            }
        }
        Some(r)
    }

    fn matches(&self, media: &str) -> bool {
        self.media == media || matches!(self.media, "*/*" | "application/*")
    }

    /// What is asked for, if this encoding can show it.
    fn form(&self, media: Media, protobuf: bool) -> Option<Form> {
        if !matches!(self.stream, "" | "watch") || self.stream == "watch" && media == Media::Yaml {
            return None;
        }
        let api_version = match (self.group, self.version) {
            ("meta.k8s.io", "v1") => "meta.k8s.io/v1",
            ("meta.k8s.io", "v1beta1") => "meta.k8s.io/v1beta1",
            ("", "") if self.kind.is_empty() => return (protobuf || media != Media::Protobuf).then_some(Form::Object),
            _ => return None,
        };
        match self.kind {
            "Table" if media != Media::Protobuf => Some(Form::Table(api_version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata(api_version)),
            _ => None,
        }
    }
}

/// Reads `Accept`: of what is wanted most, the first that can be served. `protobuf` says whether
/// the objects themselves have a protobuf form; their metadata always has.
///
/// # Errors
/// 406.
pub fn accepted(headers: &HeaderMap, protobuf: bool) -> Result<Accepted, Status> {
    let accept = header(headers, &ACCEPT).filter(|a| !a.is_empty()).unwrap_or("*/*");
    let mut ranges: Vec<Range<'_>> = accept.split(',').filter_map(|r| Range::parse(r.trim())).collect();
    let rank = |r: &Range<'_>| (-r.quality, r.media.ends_with('*'));
    ranges.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal));
    for range in &ranges {
        for (_, media) in SERVED.iter().filter(|(name, _)| range.matches(name)) {
            if let Some(form) = range.form(*media, protobuf) {
                let media = if *media == Media::Json && range.pretty { Media::Pretty } else { *media };
                return Ok(Accepted { form, media });
            }
        }
    }
    Err(not_acceptable())
}

/// 406 for what none of the served encodings can show.
pub fn not_acceptable() -> Status {
    Status::not_acceptable(ACCEPTED)
}

/// As [`accepted`], for watches, which YAML cannot carry.
///
/// # Errors
/// 406.
pub fn streamed(accepted: Accepted) -> Result<Accepted, Status> {
    match accepted.media {
        Media::Yaml => Err(Status::not_acceptable(STREAMED)),
        Media::Pretty => Ok(Accepted { media: Media::Json, ..accepted }),
        _ => Ok(accepted),
    }
}

/// Whether a person reads the answer: the query says so, or the program is one for people.
pub fn is_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(wish) = query.get("pretty") {
        return matches!(wish.to_ascii_lowercase().as_str(), "1" | "t" | "true");
    }
    let agent = header(headers, &USER_AGENT).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p))
}

/// Whether the answer may be compressed.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    header(headers, &ACCEPT_ENCODING).is_some_and(|e| e.split(',').any(|t| t.trim() == "gzip"))
}

/// Reads `Content-Type` of a body that is an object.
///
/// # Errors
/// 415.
pub fn body(headers: &HeaderMap) -> Result<Body, Status> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => Ok(Body::Json),
        "application/yaml" => Ok(Body::Yaml),
        PROTOBUF => Ok(Body::Protobuf),
        _ => Err(Status::unsupported_media_type(BODIES)),
    }
}

/// The media type of the body, without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    header(headers, &CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str, protobuf: bool) -> Result<Accepted, Status> {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, accept.parse().unwrap());
        accepted(&h, protobuf)
    }

    fn media(accept: &str) -> Media {
        of(accept, true).unwrap().media
    }

    #[test]
    fn kubectl_get_wants_a_table() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl, true).unwrap().form, Form::Table("meta.k8s.io/v1"));
        let old = "application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io";
        assert_eq!(of(old, true).unwrap().form, Form::Metadata("meta.k8s.io/v1beta1"));
    }

    #[test]
    fn what_is_wanted_most_is_served_if_it_can_be() {
        assert_eq!(media("application/vnd.kubernetes.protobuf,application/json"), Media::Protobuf);
        assert_eq!(media("application/json, application/vnd.kubernetes.protobuf"), Media::Json);
        assert_eq!(media("application/json;q=0.5, application/vnd.kubernetes.protobuf;q=0.8"), Media::Protobuf);
        assert_eq!(media("application/vnd.kubernetes.protobuf, */*"), Media::Protobuf);
        assert_eq!(media("*/*"), Media::Json);
        assert_eq!(media("text/html, application/*;q=0.9"), Media::Json);
        assert_eq!(media("application/json;pretty=1"), Media::Pretty);
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json", false).unwrap().media, Media::Json);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for (accept, protobuf) in [
            ("text/html", true),
            ("application/vnd.kubernetes.protobuf", false),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", true),
            ("application/json;as=Other;g=meta.k8s.io;v=v1", true),
        ] {
            let refused = of(accept, protobuf).unwrap_err();
            assert_eq!(refused.code, 406, "{accept}");
            assert_eq!(
                refused.message,
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            );
        }
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(of(metadata, false).unwrap().media, Media::Protobuf);
        assert_eq!(streamed(of("application/yaml", true).unwrap()).unwrap_err().code, 406);
    }
}
