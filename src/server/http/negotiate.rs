//! Which representation a client accepts, and how a body is written.

use api::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

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

/// A representation of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What is shown.
    pub form: Form,
    /// Whether YAML is wanted instead of JSON.
    pub yaml: bool,
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

const ACCEPTED: &str = "application/json, application/yaml";
const BODIES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Reads `Accept`: the first media type that can be served.
///
/// # Errors
/// 406.
pub fn accepted(headers: &HeaderMap) -> Result<Accepted, Status> {
    let accept = header(headers, &ACCEPT).unwrap_or("*/*");
    for part in accept.split(',') {
        let mut params = part.split(';').map(str::trim);
        let media = params.next().unwrap_or_default();
        let (mut kind, mut group, mut version) = ("", "", "");
        for p in params {
            match p.split_once('=') {
                Some(("as", v)) => kind = v,
                Some(("g", v)) => group = v,
                Some(("v", v)) => version = v,
                _ => {}
            }
        }
        let api_version = match (group, version) {
            ("meta.k8s.io", "v1") => "meta.k8s.io/v1",
            ("meta.k8s.io", "v1beta1") => "meta.k8s.io/v1beta1",
            _ if kind.is_empty() => "",
            _ => continue,
        };
        let form = match kind {
            "" => Form::Object,
            "Table" => Form::Table(api_version),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata(api_version),
            _ => continue,
        };
        match media {
            "application/json" | "*/*" | "application/*" | "" => return Ok(Accepted { form, yaml: false }),
            "application/yaml" => return Ok(Accepted { form, yaml: true }),
            _ => {}
        }
    }
    Err(Status::not_acceptable(ACCEPTED))
}

/// Reads `Content-Type` of a body that is an object.
///
/// # Errors
/// 415.
pub fn body(headers: &HeaderMap) -> Result<Body, Status> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => Ok(Body::Json),
        "application/yaml" => Ok(Body::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Body::Protobuf),
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

    fn form(accept: &str) -> Result<Accepted, Status> {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, accept.parse().unwrap());
        accepted(&h)
    }

    #[test]
    fn kubectl_get_wants_a_table_and_client_go_falls_back_from_protobuf() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl).unwrap().form, Form::Table("meta.k8s.io/v1"));
        let old = "application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io";
        assert_eq!(form(old).unwrap().form, Form::Metadata("meta.k8s.io/v1beta1"));
        let client_go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(form(client_go).unwrap(), Accepted { form: Form::Object, yaml: false });
        assert_eq!(form("text/html").unwrap_err().code, 406);
    }
}
