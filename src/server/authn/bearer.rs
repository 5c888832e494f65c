//! Bearer tokens: `Authorization: Bearer <token>`, or a WebSocket's sub-protocol that carries one.
//! Those who know a kind of tokens are asked in order; the first that knows the token decides.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};

use super::{aggregate, join_tokens};
use crate::Server;
use crate::request::User;

const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
const UNKNOWN: &str = "invalid bearer token";

/// Whom a token names, and which of the audiences that were asked for it is meant for.
#[derive(Debug)]
pub struct Identity {
    /// The user.
    pub user: User,
    /// The audiences.
    pub audiences: Vec<String>,
}

/// What somebody who knows a kind of tokens says of one: an identity, nothing when it is none of
/// that kind, or what is wrong with it.
pub type Known = Result<Option<Identity>, String>;

/// Takes the token off a request's headers. Other schemes are nothing, as upstream.
///
/// # Errors
/// When it cannot be read.
pub(super) fn take(headers: &mut HeaderMap) -> Result<Option<String>, String> {
    let value = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token.map(|(_, t)| t.trim()).filter(|t| !t.is_empty()) {
        Some(token) => {
            let token = token.to_owned();
            headers.remove(AUTHORIZATION);
            Ok(Some(token))
        }
        None => take_from_protocols(headers),
    }
}

/// Browsers cannot set headers of a WebSocket, but name its protocols.
fn take_from_protocols(headers: &mut HeaderMap) -> Result<Option<String>, String> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|v| v.split(',')).map(str::trim).filter(|p| !p.is_empty()).collect();
    let Some(carrier) = offered.iter().find_map(|p| p.strip_prefix(PROTOCOL_PREFIX)) else { return Ok(None) };
    let token = BASE64_URL_SAFE_NO_PAD.decode(carrier).ok().and_then(|t| String::from_utf8(t).ok());
    let token = token.filter(|t| !t.is_empty()).ok_or(UNKNOWN)?;
    let others: Vec<&str> = offered.iter().filter(|p| !p.starts_with(PROTOCOL_PREFIX)).copied().collect();
    // The answer must name a protocol, which can not be the token's.
    let others = (!others.is_empty()).then(|| HeaderValue::from_str(&others.join(", ")));
    let others = others.and_then(Result::ok).ok_or("missing additional subprotocol")?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    Ok(Some(token))
}

/// Whom a token for one of the audiences names.
///
/// # Errors
/// Why it names nobody.
pub async fn authenticate(server: &Arc<Server>, token: &str, audiences: &[String]) -> Result<Identity, String> {
    let mut errors = Vec::new();
    let mut take = |known: Known| match known {
        Ok(identity) => identity,
        Err(e) => {
            errors.push(e);
            None
        }
    };
    if let Some(identity) = take(server.tokens().authenticate(server, token, audiences).await) {
        return Ok(identity);
    }
    let joining = join_tokens::authenticate(server, token).await;
    if let Some(identity) = take(for_this_api(server, audiences, joining)) {
        return Ok(identity);
    }
    for issuer in &server.authentication().current().issuers {
        if let Some(identity) = take(for_this_api(server, audiences, issuer.authenticate(token).await)) {
            return Ok(identity);
        }
    }
    Err(if errors.is_empty() { UNKNOWN.to_owned() } else { aggregate(&errors) })
}

/// The identity of a token that names no audience: it is for this API alone.
fn for_this_api(server: &Server, audiences: &[String], known: Result<Option<User>, String>) -> Known {
    let own = server.own_audiences();
    let audiences: Vec<String> = audiences.iter().filter(|a| own.contains(a)).cloned().collect();
    Ok(known?.filter(|_| !audiences.is_empty()).map(|user| Identity { user, audiences }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_off_the_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(take(&mut headers), Ok(None));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer abc"));
        assert_eq!(take(&mut headers), Ok(Some("abc".to_owned())));
        assert!(headers.is_empty());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(take(&mut headers), Ok(None), "passwords are nothing here, as upstream");
    }

    #[test]
    fn a_websocket_carries_its_token_among_its_protocols() {
        let mut headers = HeaderMap::new();
        let offered = format!("v4.channel.k8s.io, {PROTOCOL_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode("abc"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&offered).unwrap());
        assert_eq!(take(&mut headers), Ok(Some("abc".to_owned())));
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
        assert_eq!(take(&mut headers), Ok(None));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&offered[19..]).unwrap());
        assert_eq!(take(&mut headers).unwrap_err(), "missing additional subprotocol");
    }
}
