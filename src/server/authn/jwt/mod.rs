//! Tokens of OpenID Connect issuers (upstream: `plugin/pkg/authenticator/token/oidc`).
//!
//! * here – what is declared of an issuer, and the way of a token.
//! * [`keys`] – the keys that an issuer publishes.  [`claims`] – from claims to a user.

mod claims;
mod keys;
#[cfg(test)]
pub(crate) mod tests;

use api::field::{ErrorList, FieldError};
use http::Uri;
use serde::Deserialize;

use self::claims::Mappings;
use self::keys::Keys;
use super::tokens::unverified;
use crate::authz::rules::quoted;
use crate::request::User;

/// An issuer as a configuration declares it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Declared {
    issuer: DeclaredIssuer,
    #[serde(flatten)]
    mappings: claims::Declared,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeclaredIssuer {
    #[serde(default)]
    url: String,
    #[serde(default, rename = "discoveryURL")]
    discovery_url: String,
    #[serde(default)]
    certificate_authority: String,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    #[serde(default)]
    egress_selector_type: String,
}

impl Declared {
    /// What must be another for every issuer, by its field.
    pub(super) fn urls(&self) -> [(&'static str, &str); 2] {
        [("url", &self.issuer.url), ("discoveryURL", &self.issuer.discovery_url)]
    }
}

/// Knows the tokens of one issuer.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    audiences: Vec<String>,
    mappings: Mappings,
    keys: Keys,
}

impl Issuer {
    /// Compiles a declaration, which stands at `path`.
    pub(super) fn new(declared: Declared, own_issuer: &str, path: &str) -> Result<Issuer, ErrorList> {
        let issuer = declared.issuer;
        let mut errors = issuer_errors(&issuer, own_issuer, &format!("{path}.issuer"));
        let mappings = match Mappings::new(declared.mappings, path) {
            Ok(m) if errors.is_empty() => m,
            Ok(_) => return Err(errors),
            Err(e) => {
                errors.extend(e);
                return Err(errors);
            }
        };
        let keys = Keys::new(&issuer.url, &issuer.discovery_url, &issuer.certificate_authority);
        Ok(Issuer { url: issuer.url, audiences: issuer.audiences, mappings, keys })
    }

    /// Whom a token names; `None` when it is none of this issuer's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn authenticate(&self, token: &str) -> Result<Option<User>, String> {
        if unverified(token).and_then(|c| Some(c["iss"].as_str()? == self.url)) != Some(true) {
            return Ok(None);
        }
        let claims = self.keys.verified(token).await.map_err(|e| format!("oidc: verify token: {e}"))?;
        let meant: Vec<String> = match &claims["aud"] {
            serde_json::Value::String(one) => vec![one.clone()],
            many => many.as_array().into_iter().flatten().filter_map(|a| a.as_str()).map(str::to_owned).collect(),
        };
        if !meant.iter().any(|a| self.audiences.contains(a)) {
            let (wanted, got) = (quoted(&self.audiences), quoted(&meant));
            return Err(format!("oidc: verify token: oidc: expected audience in {wanted} got {got}"));
        }
        self.mappings.user_of(&claims).map(Some)
    }
}

fn issuer_errors(issuer: &DeclaredIssuer, own_issuer: &str, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let field = |f: &str| format!("{path}.{f}");
    if issuer.url.is_empty() {
        errors.push(FieldError::required(field("url"), ""));
    } else {
        if issuer.url == own_issuer {
            let why = format!("URL must not overlap with disallowed issuers: [{own_issuer}]");
            errors.push(FieldError::invalid(field("url"), issuer.url.as_str(), why));
        }
        errors.extend(url_errors(&issuer.url, &field("url")));
    }
    if !issuer.discovery_url.is_empty() {
        if issuer.discovery_url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
            let why = "discoveryURL must be different from URL";
            errors.push(FieldError::invalid(field("discoveryURL"), issuer.discovery_url.as_str(), why));
        }
        errors.extend(url_errors(&issuer.discovery_url, &field("discoveryURL")));
    }
    errors.extend(audience_errors(issuer, path));
    let authority = &issuer.certificate_authority;
    if !authority.is_empty()
        && let Err(e) = client::tls::certificates(authority)
    {
        errors.push(FieldError::invalid(field("certificateAuthority"), "<omitted>", e.to_string()));
    }
    if !issuer.egress_selector_type.is_empty() {
        let why = "there are no egress selectors in sampan";
        errors.push(FieldError::invalid(field("egressSelectorType"), issuer.egress_selector_type.as_str(), why));
    }
    errors
}

fn audience_errors(issuer: &DeclaredIssuer, path: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let field = format!("{path}.audiences");
    let audiences = &issuer.audiences;
    if audiences.is_empty() {
        let why = format!("at least one {field} is required");
        return vec![FieldError::required(field, why)];
    }
    for (i, a) in audiences.iter().enumerate() {
        if a.is_empty() {
            errors.push(FieldError::required(format!("{field}[{i}]"), ""));
        } else if audiences[..i].contains(a) {
            errors.push(FieldError::duplicate(format!("{field}[{i}]"), a.as_str()));
        }
    }
    let policy = issuer.audience_match_policy.as_str();
    let why = match policy {
        "MatchAny" => return errors,
        _ if audiences.len() > 1 => "audienceMatchPolicy must be MatchAny for multiple audiences",
        "" => return errors,
        _ => "audienceMatchPolicy must be empty or MatchAny for single audience",
    };
    errors.push(FieldError::invalid(format!("{path}.audienceMatchPolicy"), policy, why));
    errors
}

fn url_errors(text: &str, path: &str) -> ErrorList {
    let wrong = |why: &str| FieldError::invalid(path, text, why);
    let Ok(url) = text.split('#').next().unwrap_or_default().parse::<Uri>() else {
        return vec![wrong("it is no URL")];
    };
    let mut errors = ErrorList::new();
    if url.scheme_str() != Some("https") {
        errors.push(wrong("URL scheme must be https"));
    }
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        errors.push(wrong("URL must not contain a username or password"));
    }
    if url.query().is_some_and(|q| !q.is_empty()) {
        errors.push(wrong("URL must not contain a query"));
    }
    if text.split_once('#').is_some_and(|(_, f)| !f.is_empty()) {
        errors.push(wrong("URL must not contain a fragment"));
    }
    errors
}
