//! Flags of `sampan server` about who callers are. Names and meanings are upstream's.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use server::authn;

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
        Ok(authn::Settings { file: self.authentication_config.clone(), text: text.map(|t| t.to_string()) })
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
}
