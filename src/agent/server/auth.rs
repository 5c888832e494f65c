//! Who asks, and whether it may. Upstream: `pkg/kubelet/server/auth.go`.

use api::Status;
use api::k8s::authentication::v1::{TokenReview, TokenReviewSpec};
use api::k8s::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use http::{Method, Request};
use rustls_pki_types::CertificateDer;

use crate::kubelet::Shared;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    name: String,
    uid: String,
    groups: Vec<String>,
}

impl Peer {
    /// Reads a client certificate that was verified already: CN is the name, O are the groups.
    pub(super) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Peer> {
        let first = chain?.first()?;
        let (_, cert) = x509_parser::parse_x509_certificate(first).ok()?;
        let subject = cert.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Peer { name, uid: String::new(), groups })
    }
}

async fn of_token(shared: &Shared, token: &str) -> Result<Peer, Status> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token.to_owned()), ..Default::default() },
        ..Default::default()
    };
    let answer = shared.client.create(&review).await?;
    let status = answer.status.as_ref().filter(|s| s.authenticated == Some(true)).ok_or_else(Status::unauthorized)?;
    let user = status.user.clone().unwrap_or_default();
    Ok(Peer {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
    })
}

/// The subresources of the Node that allow a path, the closest first.
fn subresources(path: &str) -> Vec<&'static str> {
    let under = |p: &str| path == p || path.strip_prefix(p).is_some_and(|r| r.starts_with('/'));
    if under("/stats") {
        vec!["stats"]
    } else if under("/metrics") {
        vec!["metrics"]
    } else if under("/logs") {
        vec!["log"]
    } else if under("/pods") || under("/runningpods") {
        vec!["pods", "proxy"]
    } else if under("/healthz") {
        vec!["healthz", "proxy"]
    } else if under("/configz") {
        vec!["configz", "proxy"]
    } else {
        vec!["proxy"]
    }
}

/// Lets a request through, or says why not.
pub(super) async fn check<B>(
    shared: &Shared,
    request: &Request<B>,
    peer: Option<Peer>,
    path: &str,
) -> Result<(), Status> {
    let peer = match peer {
        Some(p) => p,
        None => {
            let header = request.headers().get(http::header::AUTHORIZATION).and_then(|h| h.to_str().ok());
            let token = header.and_then(|h| h.strip_prefix("Bearer ")).ok_or_else(Status::unauthorized)?;
            of_token(shared, token.trim()).await?
        }
    };
    if peer.groups.iter().any(|g| g == "system:masters") || shared.config.api_server_names.contains(&peer.name) {
        return Ok(());
    }
    let verb = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let node = &shared.config.node_name;
    let mut last = "";
    for subresource in subresources(path) {
        last = subresource;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(peer.name.clone()),
                uid: (!peer.uid.is_empty()).then(|| peer.uid.clone()),
                groups: Some(peer.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.into()),
                    name: Some(node.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = shared.client.create(&review).await?;
        if answer.status.as_ref().is_some_and(|s| s.allowed) {
            return Ok(());
        }
    }
    Err(Status::new(
        403,
        "Forbidden",
        format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{last}])", peer.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::subresources;

    #[test]
    fn paths_map_to_subresources_of_the_node() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/metrics/cadvisor"), ["metrics"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/podsx"), ["proxy"]);
    }
}
