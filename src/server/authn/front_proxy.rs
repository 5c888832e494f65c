//! The front proxy: who proves to be it names the user in headers
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy>).
//! Names and headers are those that k3s sets by default.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::json;

use super::impersonation::{extra_of, texts};
use super::x509::{Shown, VouchedBy};
use crate::pki::{FRONT_PROXY, Pki};
use crate::request::User;

const USER: &str = "X-Remote-User";
const UID: &str = "X-Remote-Uid";
const GROUP: &str = "X-Remote-Group";
const EXTRA_PREFIX: &str = "X-Remote-Extra-";

/// The user that the front proxy names; `None` for everybody else, and when it names nobody. The
/// headers are taken off.
///
/// # Errors
/// When a certificate of the front proxy's authority is another's, or out of its time.
pub fn user_of(shown: &Shown, headers: &mut HeaderMap) -> Result<Option<User>, String> {
    if shown.by() != VouchedBy::RequestHeader {
        return Ok(None);
    }
    shown.in_force()?;
    if shown.common_name() != FRONT_PROXY {
        return Err(format!("x509: subject with cn={} is not in the allowed list", shown.common_name()));
    }
    let first = |name: &str| texts(headers, name).into_iter().find(|t| !t.is_empty()).unwrap_or_default();
    let name = first(USER);
    if name.is_empty() {
        return Ok(None);
    }
    let extra = extra_of(headers, EXTRA_PREFIX);
    let user = User { name, uid: first(UID), groups: texts(headers, GROUP), extra };
    let ours = |n: &str| {
        [USER, UID, GROUP].iter().any(|h| h.eq_ignore_ascii_case(n))
            || n.starts_with(&EXTRA_PREFIX.to_ascii_lowercase())
    };
    let shown: Vec<_> = headers.keys().filter(|n| ours(n.as_str())).cloned().collect();
    for name in shown {
        headers.remove(name);
    }
    Ok(Some(user))
}

/// What `kube-system/extension-apiserver-authentication` tells aggregated servers, so that they
/// know the same clients as this one.
pub fn told_to_extensions(pki: &Pki) -> BTreeMap<String, String> {
    let list = |one: &str| json!([one]).to_string();
    [
        ("client-ca-file", pki.client_ca.certificate_pem.clone()),
        ("requestheader-allowed-names", list(FRONT_PROXY)),
        ("requestheader-client-ca-file", pki.request_header_ca.certificate_pem.clone()),
        ("requestheader-extra-headers-prefix", list(EXTRA_PREFIX)),
        ("requestheader-group-headers", list(GROUP)),
        ("requestheader-uid-headers", list(UID)),
        ("requestheader-username-headers", list(USER)),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

#[cfg(test)]
mod tests {
    use client::tls;

    use super::*;
    use crate::pki::Usage;

    #[test]
    fn the_front_proxy_names_users_and_nobody_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &["localhost".to_owned()]).unwrap();
        let shown = |authority: &crate::pki::Authority, name: &str| {
            let leaf = authority.issue(name, None, Usage::Client, &[]).unwrap();
            Shown::read(&pki, &tls::certificates(&leaf.certificate_pem).unwrap()).unwrap()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fproject", "p"),
            ("accept", "*/*"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let by_client = user_of(&shown(&pki.client_ca, FRONT_PROXY), &mut headers);
        assert_eq!(by_client, Ok(None), "the name alone is not enough");
        let other = user_of(&shown(&pki.request_header_ca, "other"), &mut headers);
        assert_eq!(other.unwrap_err(), "x509: subject with cn=other is not in the allowed list");
        let proxy = shown(&pki.request_header_ca, FRONT_PROXY);
        let user = user_of(&proxy, &mut headers).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.join(" ").as_str()), ("ann", "a b"));
        assert_eq!(user.extra["acme.com/project"], ["p"]);
        assert_eq!(headers.len(), 1, "what was shown is taken off");
        assert_eq!(user_of(&proxy, &mut headers), Ok(None));
    }
}
