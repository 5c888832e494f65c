//! Tokens of an issuer that publishes its keys over TLS.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::super::configuration::Configuration;
use crate::testing::webhook::{Webhook, https};

/// A key that an issuer signs with.
pub(crate) struct Key {
    id: String,
    signing: EncodingKey,
}

impl Key {
    pub(crate) fn new(id: &str) -> Key {
        let pem = KeyPair::generate().unwrap().serialize_pem();
        Key { id: id.to_owned(), signing: EncodingKey::from_ec_pem(pem.as_bytes()).unwrap() }
    }

    fn published(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.signing, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        json!(jwk)
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }
}

/// An issuer; which keys it publishes can be changed.
pub(crate) struct Provider {
    pub(crate) server: Webhook,
    pub(crate) keys: Arc<Mutex<Vec<Value>>>,
}

impl Provider {
    pub(crate) async fn start(key: &Key) -> Provider {
        let keys = Arc::new(Mutex::new(vec![key.published()]));
        let (published, port) = (keys.clone(), Arc::new(Mutex::new(0)));
        let own = port.clone();
        let server = https(&["127.0.0.1"], move |path, _| {
            let url = format!("https://127.0.0.1:{}", own.lock().unwrap());
            match path {
                "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
                _ => json!({"keys": *published.lock().unwrap()}),
            }
        })
        .await;
        *port.lock().unwrap() = server.port;
        Provider { server, keys }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.server.port)
    }

    pub(crate) fn configuration(&self) -> String {
        let ca = String::from_utf8(BASE64_STANDARD.decode(&self.server.authority).unwrap()).unwrap();
        json!({"apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration", "jwt": [{
            "issuer": {"url": self.url(), "audiences": ["sampan"], "certificateAuthority": ca},
            "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"claim": "groups", "prefix": ""}},
        }]})
        .to_string()
    }

    pub(crate) fn claims(&self, change: Value) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({"iss": self.url(), "aud": "sampan", "sub": "ann", "exp": now + 600, "groups": ["a"]});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims
    }
}

#[tokio::test]
async fn a_token_is_good_when_a_published_key_signed_it_for_this_audience_and_time() {
    let first = Key::new("first");
    let provider = Provider::start(&first).await;
    let configuration = Configuration::parse(&provider.configuration(), "https://own").unwrap();
    let issuer = &configuration.issuers[0];
    let ask = |key: &Key, change: Value| {
        let token = key.sign(&provider.claims(change));
        async move { issuer.authenticate(&token).await }
    };
    let user = ask(&first, json!({})).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), &user.groups[..]), ("oidc:ann", &["a".to_owned()][..]));
    assert!(ask(&first, json!({"iss": "https://other"})).await.unwrap().is_none());
    let said = ask(&first, json!({"aud": ["x", "y"]})).await.unwrap_err();
    assert_eq!(said, r#"oidc: verify token: oidc: expected audience in ["sampan"] got ["x" "y"]"#);
    let said = ask(&first, json!({"exp": 1})).await.unwrap_err();
    assert!(said.contains("oidc: token is expired"), "{said}");
    assert!(ask(&first, json!({"nbf": 9_000_000_000_i64})).await.unwrap_err().contains("before the nbf"));

    // Somebody else's key, with the name of the issuer's, and then with another.
    let calls = || provider.server.calls.load(std::sync::atomic::Ordering::Relaxed);
    let before = calls();
    for name in ["first", "forged", "forged"] {
        let said = ask(&Key::new(name), json!({})).await.unwrap_err();
        assert!(said.contains("failed to verify id token signature"), "{said}");
    }
    assert!(calls() - before <= 1, "who makes up tokens does not make the server ask each time");

    // A new key is found without a restart.
    let second = Key::new("second");
    provider.keys.lock().unwrap().push(second.published());
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    tokio::time::resume();
    assert!(ask(&second, json!({})).await.unwrap().is_some());
    assert!(ask(&first, json!({})).await.unwrap().is_some());
}

#[tokio::test]
async fn an_issuer_that_is_another_is_not_believed() {
    let key = Key::new("k");
    let provider = Provider::start(&key).await;
    let text = provider.configuration().replace("127.0.0.1", "localhost");
    let configuration = Configuration::parse(&text, "https://own").unwrap();
    let claims = provider.claims(json!({"iss": provider.url().replace("127.0.0.1", "localhost")}));
    let said = configuration.issuers[0].authenticate(&key.sign(&claims)).await.unwrap_err();
    assert!(said.contains("certificate is not valid for localhost"), "{said}");
}
