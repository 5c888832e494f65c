//! The keys that an issuer publishes: found by OpenID discovery, fetched when a token comes that
//! none of the known ones has signed, but not for every token that somebody makes up.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Uri};
use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::outbound::{Outbound, Vouched, host_and_port};

/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often an issuer is asked at the most.
const REST: Duration = Duration::from_secs(1);
/// How far the clocks of issuers may be ahead.
const LEEWAY_SECONDS: i64 = 300;

const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The keys of one issuer.
pub(super) struct Keys {
    issuer: String,
    discovery: String,
    connections: Outbound,
    known: ArcSwap<Vec<Jwk>>,
    asked: Mutex<Asked>,
}

/// What was asked of the issuer.
#[derive(Default)]
struct Asked {
    /// Where the keys are.
    keys_url: Option<String>,
    /// When it was asked last, and what went wrong then.
    last: Option<(Instant, Option<String>)>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.issuer)
    }
}

impl Keys {
    /// Those of an issuer, whose server is vouched for by `authority`, or, where that is empty, by
    /// the system.
    pub(super) fn new(issuer: &str, discovery: &str, authority: &str) -> Keys {
        let usual = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let vouched = if authority.is_empty() { Vouched::BySystem } else { Vouched::By(authority) };
        Keys {
            issuer: issuer.to_owned(),
            discovery: if discovery.is_empty() { usual } else { discovery.to_owned() },
            connections: Outbound::new(&vouched, None),
            known: ArcSwap::default(),
            asked: Mutex::default(),
        }
    }

    /// The claims of a token that one of the keys has signed and that is in its time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn verified(&self, token: &str) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| format!("oidc: malformed jwt: {e}"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(format!("oidc: id token signed with unsupported algorithm, got {:?}", header.alg));
        }
        let known = self.known.load_full();
        let claims = match signed_by(&known, token, header.alg, header.kid.as_deref()) {
            Some(claims) => claims,
            None => {
                let fresh = self.fresh(&known).await.map_err(|e| format!("failed to verify signature: {e}"))?;
                signed_by(&fresh, token, header.alg, header.kid.as_deref())
                    .ok_or("failed to verify signature: failed to verify id token signature")?
            }
        };
        in_time(&claims, Timestamp::now())?;
        Ok(claims)
    }

    /// Keys that are newer than those that were not enough, unless the issuer was asked just now.
    async fn fresh(&self, old: &Arc<Vec<Jwk>>) -> Result<Arc<Vec<Jwk>>, String> {
        let mut asked = self.asked.lock().await;
        let known = self.known.load_full();
        if !Arc::ptr_eq(&known, old) {
            return Ok(known);
        }
        if let Some((when, failure)) = &asked.last
            && when.elapsed() < REST
        {
            return failure.clone().map_or(Ok(known), Err);
        }
        let fetched = self.fetch(&mut asked.keys_url).await;
        asked.last = Some((Instant::now(), fetched.as_ref().err().cloned()));
        let keys = Arc::new(fetched.inspect_err(|e| {
            tracing::warn!(issuer = self.issuer, error = e, "the keys of an issuer of tokens cannot be fetched");
        })?);
        self.known.store(keys.clone());
        Ok(keys)
    }

    async fn fetch(&self, keys_url: &mut Option<String>) -> Result<Vec<Jwk>, String> {
        let url = match keys_url {
            Some(url) => url.clone(),
            None => {
                let found = self.discover().await?;
                keys_url.insert(found).clone()
            }
        };
        match self.get(&url).await {
            // What is of no use here (other curves, symmetric keys) is left out.
            Ok(set) => Ok(set["keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|k| serde_json::from_value(k.clone()).ok())
                .collect()),
            Err(e) => {
                // They may be elsewhere now.
                *keys_url = None;
                Err(format!("fetching keys {e}"))
            }
        }
    }

    async fn discover(&self) -> Result<String, String> {
        let document = self.get(&self.discovery).await?;
        let issuer = document["issuer"].as_str().unwrap_or_default();
        if issuer != self.issuer {
            let wanted = &self.issuer;
            return Err(format!(
                "oidc: issuer URL provided to client ({wanted:?}) did not match the issuer URL returned by provider ({issuer:?})"
            ));
        }
        let keys = document["jwks_uri"].as_str().filter(|u| !u.is_empty());
        Ok(keys.ok_or("oidc: the provider names no jwks_uri")?.to_owned())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let told = |e: &dyn std::fmt::Display| format!("Get {url:?}: {e}");
        let uri: Uri = url.parse().map_err(|e| told(&e))?;
        let address = host_and_port(&uri);
        let (head, ()) = Request::get(uri).body(()).map_err(|e| told(&e))?.into_parts();
        let sent = self.connections.send(&head, Bytes::new(), async { Ok(address) });
        let answered = tokio::time::timeout(PATIENCE, sent).await;
        let answered = answered.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        let (status, body) = answered.map_err(|e| told(&e))?;
        if !status.is_success() {
            return Err(told(&status));
        }
        serde_json::from_slice(&body).map_err(|e| told(&e))
    }
}

/// The claims of a token, if one of the keys has signed it. A token that names its key is signed
/// by that one.
fn signed_by(keys: &[Jwk], token: &str, algorithm: Algorithm, key_id: Option<&str>) -> Option<Value> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    // The times are looked at afterwards, in upstream's words.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let fits = |k: &&Jwk| key_id.is_none() || k.common.key_id.as_deref() == key_id;
    keys.iter().filter(fits).find_map(|k| {
        let key = DecodingKey::from_jwk(k).ok()?;
        Some(jsonwebtoken::decode::<Value>(token, &key, &validation).ok()?.claims)
    })
}

fn in_time(claims: &Value, now: Timestamp) -> Result<(), String> {
    let time = |claim: &str| claims[claim].as_f64().and_then(|s| Timestamp::from_second(s as i64).ok());
    let until = time("exp").unwrap_or(Timestamp::UNIX_EPOCH);
    if until < now {
        return Err(format!("oidc: token is expired (Token Expiry: {until})"));
    }
    match time("nbf") {
        Some(from) if now.as_second() + LEEWAY_SECONDS < from.as_second() => {
            Err(format!("oidc: current time {now} before the nbf (not before) time: {from}"))
        }
        _ => Ok(()),
    }
}
