//! Tokens of machines that join: the secrets that a cluster was given at its start, and upstream's
//! bootstrap tokens (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>),
//! secrets in `kube-system` with an end.

use std::path::Path;
use std::sync::Arc;

use api::Object;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::join::{AGENT, JOINERS, JoinToken, SERVER, hex, is_bootstrap_token};
use client::private_file;
use jiff::Timestamp;

use crate::Server;
use crate::pki::{self, Pki};
use crate::request::User;

const NAMESPACE: &str = "kube-system";

/// The secrets that machines may join with for as long as the cluster lives.
#[derive(Clone)]
pub struct JoinSecrets {
    server: String,
    agent: String,
}

impl std::fmt::Debug for JoinSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecrets")
    }
}

impl JoinSecrets {
    /// Takes the given secrets, else those of earlier, else makes one. The files `token` and
    /// `agent-token` in `directory` (mode 0600) show them as join tokens. Agents have the servers'
    /// secret unless they are given one of their own.
    ///
    /// # Errors
    /// A file that cannot be read or written, or is no token.
    pub fn load_or_create(
        directory: &Path,
        pki: &Pki,
        server: Option<&str>,
        agent: Option<&str>,
    ) -> Result<JoinSecrets, pki::Error> {
        let kept = |file: &str, given: Option<&str>| -> Result<Option<String>, pki::Error> {
            let path = directory.join(file);
            let text = match given {
                Some(t) => Some(t.to_owned()),
                None => private_file::read(&path)?,
            };
            let bad = |e: client::join::BadToken| pki::Error::Bad { path, what: e.to_string() };
            text.map(|t| t.parse::<JoinToken>().map(|t| t.secret).map_err(bad)).transpose()
        };
        let fresh = || hex(&rand::random::<[u8; 16]>());
        let server = kept("token", server)?.unwrap_or_else(fresh);
        let agent = kept("agent-token", agent)?.unwrap_or_else(|| server.clone());
        for (file, id, secret) in [("token", SERVER, &server), ("agent-token", AGENT, &agent)] {
            let token = JoinToken { ca_hash: Some(pki.ca_hash()?), id: id.into(), secret: secret.clone() };
            private_file::write(&directory.join(file), &format!("{token}\n"))?;
        }
        Ok(JoinSecrets { server, agent })
    }

    fn fit(&self, id: &str, secret: &str) -> bool {
        same(secret, &self.server) || (id == AGENT && same(secret, &self.agent))
    }
}

/// Compares in a time that does not depend on where the texts differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// The user that a token of the form `<id>.<secret>` names.
///
/// # Errors
/// Why it is not good; the answer to the caller does not say it.
pub(super) async fn authenticate(server: &Arc<Server>, token: &str) -> Result<Option<User>, String> {
    let Some((id, secret)) = token.split_once('.') else { return Ok(None) };
    let lasting = matches!(id, SERVER | AGENT);
    if !lasting && !is_bootstrap_token(id, secret) {
        return Ok(None);
    }
    let groups = if lasting {
        if !server.config().join_secrets.fit(id, secret) {
            return Err("invalid bearer token".to_owned());
        }
        vec![JOINERS.to_owned()]
    } else {
        let resource = server.resource("", "v1", "secrets").map_err(|s| s.message)?;
        let name = format!("bootstrap-token-{id}");
        // One that is not there is none.
        let Ok(stored) = server.registry().get(&resource, NAMESPACE, &name).await else { return Ok(None) };
        match groups_of(&stored, id, secret, Timestamp::now()) {
            Ok(groups) => groups,
            Err(why) => {
                tracing::info!(token = id, why, "a bootstrap token was refused");
                return Ok(None);
            }
        }
    };
    let mut all = vec!["system:bootstrappers"];
    all.extend(groups.iter().map(String::as_str));
    Ok(Some(User::authenticated(&format!("system:bootstrap:{id}"), &all)))
}

/// The groups that a bootstrap token gives, or why it is not good.
fn groups_of(stored: &Object, id: &str, secret: &str, now: Timestamp) -> Result<Vec<String>, &'static str> {
    let value = stored.to_value();
    let field = |name: &str| {
        let bytes = BASE64_STANDARD.decode(value["data"][name].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if value["type"] != "bootstrap.kubernetes.io/token" || stored.meta().deletion_timestamp.is_some() {
        return Err("it is no bootstrap token, or is being deleted");
    }
    if field("token-id") != id || !same(&field("token-secret"), secret) {
        return Err("its secret is another one");
    }
    let end = field("expiration");
    // An end that cannot be read is in the past, as upstream.
    if !end.is_empty() && end.parse::<Timestamp>().map_or(true, |t| t <= now) {
        return Err("it has expired");
    }
    if field("usage-bootstrap-authentication") != "true" {
        return Err("it is not meant for authentication");
    }
    let groups: Vec<String> =
        field("auth-extra-groups").split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect();
    if groups.iter().any(|g| !g.starts_with("system:bootstrappers:")) {
        return Err("its extra groups must begin with system:bootstrappers:");
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(change: &[(&str, &str)]) -> Object {
        let mut fields = std::collections::BTreeMap::from([
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", JOINERS),
        ]);
        fields.extend(change.iter().copied());
        let data: serde_json::Map<String, serde_json::Value> =
            fields.into_iter().map(|(k, v)| (k.to_owned(), BASE64_STANDARD.encode(v).into())).collect();
        let name = "bootstrap-token-abcdef";
        Object::from_value(&json!({"metadata": {"name": name}, "type": "bootstrap.kubernetes.io/token", "data": data}))
            .unwrap()
    }

    #[test]
    fn bootstrap_tokens_are_good_until_their_end() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ask = |t: &Object, secret: &str| groups_of(t, "abcdef", secret, now);
        let secret = "0123456789abcdef";
        assert_eq!(ask(&token(&[]), secret).unwrap(), [JOINERS]);
        assert_eq!(ask(&token(&[("expiration", "2026-01-01T00:00:01Z")]), secret).unwrap(), [JOINERS]);
        assert_eq!(ask(&token(&[("expiration", "2026-01-01T00:00:00Z")]), secret), Err("it has expired"));
        assert_eq!(ask(&token(&[("expiration", "tomorrow")]), secret), Err("it has expired"));
        assert_eq!(ask(&token(&[]), "0123456789abcdeg"), Err("its secret is another one"));
        assert!(ask(&token(&[("usage-bootstrap-authentication", "false")]), secret).is_err());
        assert!(ask(&token(&[("auth-extra-groups", "system:masters")]), secret).is_err());
    }

    #[test]
    fn secrets_last_and_can_be_set() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(&dir.path().join("tls"), &["localhost".into()]).unwrap();
        let load = |server, agent| JoinSecrets::load_or_create(dir.path(), &pki, server, agent).unwrap();
        let first = load(None, None);
        assert!(first.fit(SERVER, &first.server) && first.fit(AGENT, &first.server));
        assert_eq!(load(None, None).server, first.server);
        let set = load(None, Some("for-agents"));
        assert!(set.fit(AGENT, "for-agents") && set.fit(SERVER, &first.server));
        assert!(!set.fit(SERVER, "for-agents") && !set.fit(AGENT, "for-agent"));
        let shown = std::fs::read_to_string(dir.path().join("agent-token")).unwrap();
        let shown: JoinToken = shown.parse().unwrap();
        assert_eq!((shown.id.as_str(), shown.secret.as_str()), (AGENT, "for-agents"));
        assert_eq!(shown.ca_hash, Some(pki.ca_hash().unwrap()));
    }
}
