//! Service account tokens: bound, signed JSON Web Tokens
//! (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Object, Status};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bearer::{Identity, Known};
use crate::Server;
use crate::authz::rules::quoted;
use crate::pki::Pki;
use crate::request::User;
use api::time::rfc3339;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: String,
    jti: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    bound: Bound,
}

/// Signs and verifies tokens.
pub struct Tokens {
    issuer: String,
    key_id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    jwk: Jwk,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.issuer)
    }
}

fn invalid(field: &str, value: impl Into<Value>, why: &str) -> Status {
    let e = api::field::FieldError::invalid(field, value, why);
    Status::invalid("authentication.k8s.io", "TokenRequest", "", &vec![e])
}

impl Tokens {
    /// Tokens of an issuer, signed with the cluster's service account key.
    ///
    /// # Errors
    /// When the key is unusable.
    pub fn new(pki: &Pki, issuer: &str) -> Result<Tokens, Status> {
        let signing = EncodingKey::from_ec_pem(pki.service_key_pem.as_bytes()).map_err(Status::internal)?;
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(Status::internal)?;
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(Status::internal)?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
        let verifying = DecodingKey::from_jwk(&jwk).map_err(Status::internal)?;
        Ok(Tokens { issuer: issuer.to_owned(), key_id, signing, verifying, jwk })
    }

    /// The public keys.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// Answers a TokenRequest for an account; says too how the token is known elsewhere.
    ///
    /// # Errors
    /// 422 for what cannot be granted, 404 or 409 for a bound object that is not there.
    pub async fn request(&self, server: &Server, account: &Object, request: &Value) -> Result<(Value, String), Status> {
        let spec = &request["spec"];
        let mut audiences: Vec<String> =
            spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(self.issuer.clone());
        }
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        if seconds < MIN_SECONDS {
            return Err(invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > MAX_SECONDS {
            return Err(invalid(
                "spec.expirationSeconds",
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
        let m = account.meta();
        let mut bound = Bound {
            namespace: m.namespace.to_owned(),
            serviceaccount: Reference { name: m.name.to_owned(), uid: m.uid.to_owned() },
            ..Default::default()
        };
        if let Some(r) = spec.get("boundObjectRef").filter(|r| r.is_object()) {
            self.bind(server, &mut bound, r).await?;
        }
        let now = jiff::Timestamp::now();
        let claims = Claims {
            aud: audiences.clone(),
            exp: now.as_second() + seconds,
            iat: now.as_second(),
            nbf: now.as_second(),
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", m.namespace, m.name),
            bound,
        };
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.signing).map_err(Status::internal)?;
        let expires = now + jiff::SignedDuration::from_secs(seconds);
        let mut answer = json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": m.name, "namespace": m.namespace, "creationTimestamp": rfc3339(now)},
            "spec": {"audiences": audiences, "expirationSeconds": seconds},
            "status": {"token": token, "expirationTimestamp": rfc3339(expires)},
        });
        if let Some(r) = spec.get("boundObjectRef") {
            answer["spec"]["boundObjectRef"] = r.clone();
        }
        Ok((answer, credential_id(&claims)))
    }

    async fn bind(&self, server: &Server, bound: &mut Bound, reference: &Value) -> Result<(), Status> {
        let text = |f: &str| reference[f].as_str().unwrap_or_default().to_owned();
        let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
        let (plural, namespace) = match kind.as_str() {
            "Pod" => ("pods", bound.namespace.as_str()),
            "Secret" => ("secrets", bound.namespace.as_str()),
            "Node" => ("nodes", ""),
            _ => return Err(invalid("spec.boundObjectRef.kind", kind, "cannot bind token to this kind of object")),
        };
        let resource = server.resource("", "v1", plural)?;
        let object = server.registry().get(&resource, namespace, &name).await?;
        if !uid.is_empty() && uid != object.meta().uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", plural, &name, &why));
        }
        let to = Reference { name, uid: object.meta().uid.to_owned() };
        match kind.as_str() {
            "Pod" => {
                let pod = object.to_value();
                if pod["spec"]["serviceAccountName"] != bound.serviceaccount.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        bound.serviceaccount.name
                    )));
                }
                if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                    let nodes = server.resource("", "v1", "nodes")?;
                    let uid = server.registry().get(&nodes, "", node).await.map(|n| n.meta().uid.to_owned());
                    bound.node = Some(Reference { name: node.to_owned(), uid: uid.unwrap_or_default() });
                }
                bound.pod = Some(to);
            }
            "Secret" => bound.secret = Some(to),
            _ => bound.node = Some(to),
        }
        Ok(())
    }

    /// Whom a token of a service account names, and which of `audiences` it is meant for.
    ///
    /// # Errors
    /// What is wrong with a token of this issuer, in upstream's words.
    pub async fn authenticate(&self, server: &Server, token: &str, audiences: &[String]) -> Known {
        if unverified(token).and_then(|c| Some(c["iss"].as_str()? == self.issuer)) != Some(true) {
            return Ok(None);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        // Audiences are compared below: the answer names those that fit.
        validation.validate_aud = false;
        validation.validate_nbf = true;
        let data = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation).map_err(|e| match e.kind() {
            ErrorKind::ExpiredSignature => "service account token has expired".to_owned(),
            ErrorKind::ImmatureSignature => "service account token is not valid yet".to_owned(),
            _ => format!("invalid bearer token: {e}"),
        })?;
        let claims = data.claims;
        let fits: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if fits.is_empty() {
            let (are, wanted) = (quoted(&claims.aud), quoted(audiences));
            return Err(format!("token audiences {are} is invalid for the target audiences {wanted}"));
        }
        still_there(server, &claims.bound).await?;
        Ok(Some(Identity { user: user_of(&claims), audiences: fits }))
    }
}

/// The claims of a token, before anything of it is checked.
pub(super) fn unverified(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// How a token is named where it must not be shown.
fn credential_id(claims: &Claims) -> String {
    format!("JTI={}", claims.jti)
}

fn user_of(claims: &Claims) -> User {
    let b = &claims.bound;
    let mut extra = BTreeMap::new();
    let mut put = |k: &str, v: &str| extra.insert(format!("authentication.kubernetes.io/{k}"), vec![v.to_owned()]);
    put("credential-id", &credential_id(claims));
    if let Some(p) = &b.pod {
        put("pod-name", &p.name);
        put("pod-uid", &p.uid);
    }
    if let Some(n) = &b.node {
        put("node-name", &n.name);
        put("node-uid", &n.uid);
    }
    let namespace_group = format!("system:serviceaccounts:{}", b.namespace);
    let mut user = User::authenticated(&claims.sub, &["system:serviceaccounts", &namespace_group]);
    user.uid = b.serviceaccount.uid.clone();
    user.extra = extra;
    user
}

/// Whether what a token is bound to exists.
async fn still_there(server: &Server, b: &Bound) -> Result<(), String> {
    const GONE: &str = "service account token has been invalidated";
    let account = &b.serviceaccount;
    let found = find(server, "serviceaccounts", &b.namespace, &account.name).await?;
    if is_deleted(&found) {
        return Err(format!("service account {}/{} has been deleted", b.namespace, account.name));
    }
    if found.meta().uid != account.uid {
        let uid = found.meta().uid;
        return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
    }
    // The node of a pod's token is told, but it is the pod that the token is bound to.
    let node = b.node.as_ref().filter(|_| b.pod.is_none());
    for (kind, plural, namespace, bound) in [
        ("secret", "secrets", b.namespace.as_str(), b.secret.as_ref()),
        ("pod", "pods", b.namespace.as_str(), b.pod.as_ref()),
        ("node", "nodes", "", node),
    ] {
        let Some(bound) = bound else { continue };
        let found = find(server, plural, namespace, &bound.name).await.map_err(|_| GONE)?;
        if is_deleted(&found) {
            return Err(GONE.to_owned());
        }
        let uid = found.meta().uid;
        if *uid != bound.uid {
            return Err(format!("{kind} UID ({uid}) does not match service account {kind} ref claim ({})", bound.uid));
        }
    }
    Ok(())
}

async fn find(server: &Server, plural: &str, namespace: &str, name: &str) -> Result<Arc<Object>, String> {
    let resource = server.resource("", "v1", plural).map_err(|s| s.message)?;
    match server.registry().get_cached(&resource, namespace, name) {
        Ok(o) => Ok(o),
        Err(_) => server.registry().get(&resource, namespace, name).await.map_err(|s| s.message),
    }
}

/// Whether an object is being deleted, and not just since now.
fn is_deleted(o: &Object) -> bool {
    let since = o.meta().deletion_timestamp.as_ref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    since.is_some_and(|t| jiff::Timestamp::now().duration_since(t) > jiff::SignedDuration::from_secs(60))
}
