//! Flags of `sampan server` about who callers are. Names and meanings are upstream's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use server::{authn, authz};

/// See the module.
#[derive(Debug, clap::Args)]
#[group(id = "auth")]
pub struct Flags {
    /// An `AuthenticationConfiguration`: issuers of tokens and who may be anonymous. Followed when it changes.
    #[arg(long, env = "SAMPAN_AUTHENTICATION_CONFIG", value_parser = super::absolute)]
    authentication_config: Option<PathBuf>,
    /// An OpenID Connect issuer, whose tokens are good here; `https://…`.
    #[arg(long, env = "SAMPAN_OIDC_ISSUER_URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The client that the issuer's tokens must be for.
    #[arg(long, env = "SAMPAN_OIDC_CLIENT_ID", requires = "oidc_issuer_url")]
    oidc_client_id: Option<String>,
    /// The claim that names the user.
    #[arg(long, env = "SAMPAN_OIDC_USERNAME_CLAIM", default_value = "sub")]
    oidc_username_claim: String,
    /// What is put before a user's name; `-` for nothing [default: the issuer and #, but nothing before an email].
    #[arg(long, env = "SAMPAN_OIDC_USERNAME_PREFIX")]
    oidc_username_prefix: Option<String>,
    /// The claim that names the user's groups.
    #[arg(long, env = "SAMPAN_OIDC_GROUPS_CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What is put before a group's name.
    #[arg(long, env = "SAMPAN_OIDC_GROUPS_PREFIX", default_value = "")]
    oidc_groups_prefix: String,
    /// Claims that must have a value: `<claim>=<value>`.
    #[arg(long, env = "SAMPAN_OIDC_REQUIRED_CLAIM", value_delimiter = ',')]
    oidc_required_claim: Vec<String>,
    /// The authorities that vouch for the issuer's server [default: the system's].
    #[arg(long, env = "SAMPAN_OIDC_CA_FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// A kubeconfig: where tokens are reviewed that nobody here knows.
    #[arg(long, env = "SAMPAN_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE", value_parser = super::absolute)]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of those reviews: `v1` or `v1beta1`.
    #[arg(long, env = "SAMPAN_AUTHENTICATION_TOKEN_WEBHOOK_VERSION", default_value = "v1beta1", value_parser = VERSIONS)]
    authentication_token_webhook_version: String,
    /// How long their answers are remembered.
    #[arg(long, env = "SAMPAN_AUTHENTICATION_TOKEN_WEBHOOK_CACHE_TTL", default_value = "2m", value_parser = duration)]
    authentication_token_webhook_cache_ttl: Duration,
    /// An `AuthorizationConfiguration`: the authorizers in order. Followed when it changes.
    #[arg(long, env = "SAMPAN_AUTHORIZATION_CONFIG", value_parser = super::absolute,
        conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    authorization_config: Option<PathBuf>,
    /// The authorizers in order: Node, RBAC, Webhook [default: Node,RBAC, and Webhook where there is one].
    #[arg(long, env = "SAMPAN_AUTHORIZATION_MODE", value_delimiter = ',', value_parser = ["Node", "RBAC", "Webhook"])]
    authorization_mode: Vec<String>,
    /// A kubeconfig: where a webhook decides who may do what.
    #[arg(long, env = "SAMPAN_AUTHORIZATION_WEBHOOK_CONFIG_FILE", value_parser = super::absolute)]
    authorization_webhook_config_file: Option<PathBuf>,
    /// The version of its reviews: `v1` or `v1beta1`.
    #[arg(long, env = "SAMPAN_AUTHORIZATION_WEBHOOK_VERSION", default_value = "v1beta1", value_parser = VERSIONS)]
    authorization_webhook_version: String,
    /// How long it is remembered that somebody may do something.
    #[arg(long, env = "SAMPAN_AUTHORIZATION_WEBHOOK_CACHE_AUTHORIZED_TTL", default_value = "5m", value_parser = duration)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long it is remembered that somebody may not.
    #[arg(long, env = "SAMPAN_AUTHORIZATION_WEBHOOK_CACHE_UNAUTHORIZED_TTL", default_value = "30s", value_parser = duration)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
}

/// Versions of reviews.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// How long upstream waits for a webhook that flags name.
const TIMEOUT: &str = "30s";

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = api::time::go_duration(text).ok_or("must be a duration such as 30s or 5m")?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

impl Flags {
    /// What the flags say about authentication.
    ///
    /// # Errors
    /// Flags that contradict each other, or a file that cannot be read.
    pub fn authentication(&self) -> Result<authn::Settings> {
        if self.authentication_config.is_some() && self.oidc_issuer_url.is_some() {
            bail!("--authentication-config and --oidc-* cannot be given together; move the issuer into the file");
        }
        let text = self.oidc_issuer_url.as_ref().map(|url| self.issuer(url)).transpose()?;
        let webhook =
            self.authentication_token_webhook_config_file.clone().map(|config_file| authn::webhook::Settings {
                config_file,
                version: self.authentication_token_webhook_version.clone(),
                cache_ttl: self.authentication_token_webhook_cache_ttl,
            });
        Ok(authn::Settings { file: self.authentication_config.clone(), text: text.map(|t| t.to_string()), webhook })
    }

    /// What the flags say about authorization.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn authorization(&self) -> Result<authz::Settings> {
        let file = self.authorization_config.clone();
        let webhook = self.authorization_webhook_config_file.as_ref();
        if self.authorization_mode.is_empty() && webhook.is_none() {
            return Ok(authz::Settings { file, text: None });
        }
        let mut modes: Vec<&str> = self.authorization_mode.iter().map(String::as_str).collect();
        if modes.is_empty() {
            modes = vec!["Node", "RBAC", "Webhook"];
        }
        match (modes.contains(&"Webhook"), webhook) {
            (true, None) => bail!(
                "authorization-mode Webhook's authorization config file not passed: give --authorization-webhook-config-file"
            ),
            (false, Some(_)) => bail!("cannot specify --authorization-webhook-config-file without mode Webhook"),
            _ => {}
        }
        let seconds = |d: Duration| format!("{}s", d.as_secs_f64());
        let (authorized, unauthorized) =
            (self.authorization_webhook_cache_authorized_ttl, self.authorization_webhook_cache_unauthorized_ttl);
        let authorizers: Vec<Value> = modes
            .iter()
            .map(|mode| {
                let mut authorizer = json!({"type": mode, "name": mode.to_lowercase()});
                if *mode == "Webhook" {
                    authorizer["webhook"] = json!({
                        "timeout": TIMEOUT, "failurePolicy": "NoOpinion",
                        "subjectAccessReviewVersion": self.authorization_webhook_version,
                        "authorizedTTL": seconds(authorized), "cacheAuthorizedRequests": !authorized.is_zero(),
                        "unauthorizedTTL": seconds(unauthorized), "cacheUnauthorizedRequests": !unauthorized.is_zero(),
                        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": webhook},
                    });
                }
                authorizer
            })
            .collect();
        let document = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": authorizers});
        Ok(authz::Settings { file, text: Some(document.to_string()) })
    }

    /// The configuration that the flags stand for.
    fn issuer(&self, url: &str) -> Result<Value> {
        let prefix = match self.oidc_username_prefix.as_deref() {
            None if self.oidc_username_claim == "email" => String::new(),
            None => format!("{url}#"),
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
        };
        let authority = match &self.oidc_ca_file {
            None => String::new(),
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("--oidc-ca-file {}", path.display()))?
            }
        };
        let mut rules = Vec::new();
        for required in &self.oidc_required_claim {
            let (claim, value) = required
                .split_once('=')
                .with_context(|| format!("--oidc-required-claim {required:?} must be of the form <claim>=<value>"))?;
            rules.push(json!({"claim": claim, "requiredValue": value}));
        }
        let mut mappings = json!({"username": {"claim": self.oidc_username_claim, "prefix": prefix}});
        if let Some(claim) = &self.oidc_groups_claim {
            mappings["groups"] = json!({"claim": claim, "prefix": self.oidc_groups_prefix});
        }
        let issuer = json!({"url": url, "audiences": [self.oidc_client_id], "certificateAuthority": authority});
        let jwt = json!([{"issuer": issuer, "claimValidationRules": rules, "claimMappings": mappings}]);
        Ok(json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt}))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    fn settings(arguments: &[&str]) -> Result<authn::Settings> {
        Command::try_parse_from(["x"].iter().chain(arguments))?.flags.authentication()
    }

    #[test]
    fn flags_of_an_issuer_become_a_configuration() {
        assert!(settings(&[]).unwrap().text.is_none());
        let oidc = ["--oidc-issuer-url=https://a", "--oidc-client-id=b"];
        let text = settings(&oidc).unwrap().text.unwrap();
        let v: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(v["jwt"][0]["claimMappings"], json!({"username": {"claim": "sub", "prefix": "https://a#"}}));
        let more = [oidc[0], oidc[1], "--oidc-username-claim=email", "--oidc-required-claim=hd=x"];
        let v: Value = serde_json::from_str(&settings(&more).unwrap().text.unwrap()).unwrap();
        assert_eq!(v["jwt"][0]["claimMappings"]["username"]["prefix"], "");
        assert_eq!(v["jwt"][0]["claimValidationRules"], json!([{"claim": "hd", "requiredValue": "x"}]));
        assert!(settings(&oidc[..1]).is_err());
        assert!(settings(&[oidc[0], oidc[1], "--authentication-config=/x"]).is_err());
    }

    #[test]
    fn modes_of_authorization_become_a_configuration() {
        let said = |arguments: &[&str]| {
            let flags = Command::try_parse_from(["x"].iter().chain(arguments))?.flags;
            flags.authorization().map(|s| s.text.unwrap_or_default())
        };
        assert_eq!(said(&[]).unwrap(), "");
        let v: Value = serde_json::from_str(&said(&["--authorization-webhook-config-file=/x"]).unwrap()).unwrap();
        let types: Vec<&str> =
            v["authorizers"].as_array().unwrap().iter().map(|a| a["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["Node", "RBAC", "Webhook"]);
        assert_eq!(v["authorizers"][2]["webhook"]["authorizedTTL"], "300s");
        assert!(said(&["--authorization-mode=Webhook"]).is_err());
        assert!(said(&["--authorization-mode=RBAC", "--authorization-webhook-config-file=/x"]).is_err());
        assert!(said(&["--authorization-config=/a", "--authorization-mode=RBAC"]).is_err());
    }
}
