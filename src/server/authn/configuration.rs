//! `AuthenticationConfiguration` (`apiserver.config.k8s.io`): issuers of tokens, and who may be
//! anonymous
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration>).

use std::collections::HashSet;
use std::sync::Arc;

use api::field::{ErrorList, FieldError};
use serde::Deserialize;

use super::aggregate;
use super::jwt::{self, Issuer};

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const ISSUERS_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<jwt::Declared>,
    anonymous: Option<DeclaredAnonymous>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeclaredAnonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    path: String,
}

/// Who may come without showing anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Everybody; what they may do is for authorization to say.
    Anywhere,
    /// Those who ask for one of these paths.
    At(Vec<String>),
    /// Nobody.
    Nowhere,
}

impl Anonymous {
    /// Whether a request for a path may be anonymous.
    pub fn allows(&self, path: &str) -> bool {
        match self {
            Anonymous::Anywhere => true,
            Anonymous::At(paths) => paths.iter().any(|p| p == path),
            Anonymous::Nowhere => false,
        }
    }
}

/// What is in force.
#[derive(Debug)]
pub struct Configuration {
    /// The issuers of tokens in order.
    pub issuers: Vec<Arc<Issuer>>,
    /// Who may be anonymous.
    pub anonymous: Anonymous,
}

impl Default for Configuration {
    fn default() -> Configuration {
        Configuration { issuers: Vec::new(), anonymous: Anonymous::Anywhere }
    }
}

impl Configuration {
    /// Reads a file in YAML or JSON. `own_issuer` signs the tokens of service accounts: no other
    /// issuer may have its name.
    ///
    /// # Errors
    /// Everything that is wrong with it, in upstream's words.
    pub fn parse(text: &str, own_issuer: &str) -> Result<Configuration, String> {
        let tree = api::codec::parse_tree(text.as_bytes(), true).map_err(|s| s.message)?;
        let document: Document = serde_json::from_value(tree).map_err(|e| format!("strict decoding error: {e}"))?;
        if document.kind != "AuthenticationConfiguration" || !VERSIONS.contains(&document.api_version.as_str()) {
            let (kind, version) = (document.kind, document.api_version);
            return Err(format!(r#"no kind "{kind}" is registered for version "{version}""#));
        }
        let mut errors = ErrorList::new();
        if document.jwt.len() > ISSUERS_MAX {
            errors.push(FieldError::too_many("jwt", document.jwt.len(), ISSUERS_MAX));
        }
        let mut seen = HashSet::new();
        let mut issuers = Vec::new();
        for (i, declared) in document.jwt.into_iter().enumerate() {
            let path = format!("jwt[{i}]");
            for (field, url) in declared.urls() {
                if !url.is_empty() && !seen.insert((field, url.to_owned())) {
                    errors.push(FieldError::duplicate(format!("{path}.issuer.{field}"), url));
                }
            }
            match Issuer::new(declared, own_issuer, &path) {
                Ok(issuer) => issuers.push(Arc::new(issuer)),
                Err(e) => errors.extend(e),
            }
        }
        let anonymous = match document.anonymous {
            None => Anonymous::Anywhere,
            Some(a) if !a.enabled => {
                if !a.conditions.is_empty() {
                    let paths: Vec<String> = a.conditions.iter().map(|c| c.path.clone()).collect();
                    let why = "enabled should be set to true when conditions are defined";
                    errors.push(FieldError::invalid("anonymous.conditions", paths, why));
                }
                Anonymous::Nowhere
            }
            Some(a) if a.conditions.is_empty() => Anonymous::Anywhere,
            Some(a) => Anonymous::At(a.conditions.into_iter().map(|c| c.path).collect()),
        };
        if errors.is_empty() {
            return Ok(Configuration { issuers, anonymous });
        }
        Err(aggregate(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<Configuration, String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        Configuration::parse(&format!("{head}{more}"), "https://own")
    }

    #[test]
    fn anonymous_requests_may_be_limited_to_paths() {
        assert_eq!(parse("").unwrap().anonymous, Anonymous::Anywhere);
        let at = parse("anonymous: {enabled: true, conditions: [{path: /livez}]}").unwrap().anonymous;
        assert!(at.allows("/livez") && !at.allows("/livez/ping") && !at.allows("/version"));
        assert_eq!(parse("anonymous: {enabled: false}").unwrap().anonymous, Anonymous::Nowhere);
        let said = parse("anonymous: {enabled: false, conditions: [{path: /livez}]}").unwrap_err();
        assert!(said.contains("enabled should be set to true when conditions are defined"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_said_at_once() {
        let said = |more: &str| parse(more).unwrap_err();
        let jwt = "jwt:\n- issuer: {url: http://a, audiences: [one, two]}\n  claimMappings: {username: {claim: sub}}\n";
        let all = said(jwt);
        for part in [
            r#"jwt[0].issuer.url: Invalid value: "http://a": URL scheme must be https"#,
            "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        let own = "jwt:\n- issuer: {url: https://own, audiences: [x]}\n  claimMappings: {username: {expression: claims.sub}}\n";
        assert!(said(own).contains("URL must not overlap with disallowed issuers: [https://own]"));
        let email = own.replace("own", "a").replace("claims.sub", "claims.email");
        assert!(said(&email).contains("claims.email_verified must be used"));
        assert!(parse(&email.replace("claims.email}", "\"claims.email_verified ? claims.email : ''\"}")).is_ok());
        assert!(said(&own.replace("own", "a").replace("claims.sub", "nobody.sub")).contains("undeclared reference"));
        assert!(said("jwts: []").contains("unknown field `jwts`"));
        let twice = own.replace("own", "a");
        let twice = format!("{twice}{}", twice.trim_start_matches("jwt:\n"));
        assert!(said(&twice).contains(r#"jwt[1].issuer.url: Duplicate value: "https://a""#));
    }
}
