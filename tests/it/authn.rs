//! Who callers are, as administrators set it: issuers of tokens in a file that is followed.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use crate::lab::{Cluster, eventually};
use crate::webhook::{Webhook, https};

/// A token that a key has signed with ES256.
fn token(key: &KeyPair, claims: &Value) -> String {
    let part = |v: &Value| BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "k"})), part(claims));
    let der = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(raw(&der)))
}

/// The two numbers of an ECDSA signature, out of their DER.
fn raw(der: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let length = der[at + 1] as usize;
        let bytes = &der[at + 2..at + 2 + length];
        let bytes = &bytes[bytes.len().saturating_sub(32)..];
        ([vec![0; 32 - bytes.len()], bytes.to_vec()].concat(), at + 2 + length)
    };
    let (r, next) = number(2);
    let (s, _) = number(next);
    [r, s].concat()
}

/// An issuer with one key.
async fn issuer(key: &KeyPair) -> Webhook {
    let port = std::sync::Arc::new(std::sync::OnceLock::new());
    let point = key.der_bytes().to_vec();
    let coordinate = |range: std::ops::Range<usize>| BASE64_URL_SAFE_NO_PAD.encode(&point[range]);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig",
        "x": coordinate(1..33), "y": coordinate(33..65)});
    let own = port.clone();
    let server = https(&["127.0.0.1"], move |path, _| {
        let url = format!("https://127.0.0.1:{}", own.get().unwrap());
        match path {
            "/keys" => json!({"keys": [jwk]}),
            _ => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
        }
    })
    .await;
    port.set(server.port).unwrap();
    server
}

fn configuration(issuer: &Webhook, prefix: &str) -> String {
    use base64::prelude::BASE64_STANDARD;
    let ca = String::from_utf8(BASE64_STANDARD.decode(&issuer.authority).unwrap()).unwrap();
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        "jwt": [{
            "issuer": {"url": format!("https://127.0.0.1:{}", issuer.port), "audiences": ["sampan"],
                "certificateAuthority": ca},
            "claimValidationRules": [{"expression": "claims.level > 2", "message": "the level is too low"}],
            "claimMappings": {
                "username": {"expression": format!("'{prefix}' + claims.sub")},
                "groups": {"expression": "claims.roles"},
                "extra": [{"key": "acme.com/level", "valueExpression": "string(claims.level)"}]},
            "userValidationRules": [{"expression": "user.username != 'x:root'", "message": "root is nobody here"}],
        }],
    })
    .to_string()
}

#[test]
fn an_issuers_tokens_name_users_and_its_configuration_is_followed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let issuer = runtime.block_on(issuer(&key));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authentication.yaml");
    std::fs::write(&file, configuration(&issuer, "x:")).unwrap();
    let c = Cluster::with(&["--disable-agent", &format!("--authentication-config={}", file.display())]);
    let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 600;
    let claims = |sub: &str, level: u64| {
        json!({"iss": format!("https://127.0.0.1:{}", issuer.port), "aud": "sampan", "sub": sub, "exp": end,
            "roles": ["dev"], "level": level})
    };
    // Without the administrator's certificate.
    let bearer = dir.path().join("kubeconfig");
    let ca =
        c.kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"]);
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": c.url(), "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&bearer, kubeconfig.to_string()).unwrap();
    let bearer = format!("--kubeconfig={}", bearer.display());
    let whoami = |sub: &str, level: u64| {
        let token = token(&key, &claims(sub, level));
        let out = c.kubectl_with(&[&bearer, "--token", &token, "auth", "whoami", "-o", "json"], "");
        let user: Option<Value> = serde_json::from_slice(&out.stdout).ok();
        user.map(|u| u["status"]["userInfo"].clone()).ok_or(String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let user = whoami("ann", 3).unwrap();
    assert_eq!(user["username"], "x:ann");
    assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(user["extra"]["acme.com/level"], json!(["3"]));
    for (sub, level) in [("ann", 1), ("root", 3)] {
        let said = whoami(sub, level).unwrap_err();
        assert!(said.contains("You must be logged in to the server"), "{said}");
    }
    // The file says what is wrong with a token to those who may review it.
    let review = |token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let made = c.apply_with(&["create", "-f", "-", "-o", "json"], &review.to_string());
        serde_json::from_str::<Value>(&made).unwrap()["status"].clone()
    };
    let low = review(&token(&key, &claims("ann", 1)));
    assert!(low["error"].as_str().unwrap().contains("the level is too low"), "{low}");
    assert_eq!(review(&token(&key, &claims("ann", 3)))["user"]["username"], "x:ann");

    // Nobody in particular may ask whether it lives, and nothing else.
    // (kubectl asks for a password where it is given nothing; passwords are nothing here.)
    let nobody = [&bearer, "--username=x", "--password=y", "get", "--raw"];
    let get = |path: &'static str| nobody.iter().copied().chain([path]).collect::<Vec<_>>();
    assert_eq!(c.kubectl(&get("/livez")), "ok");
    let said = c.refused(&get("/version"), "");
    assert!(said.contains("Unauthorized") || said.contains("must be logged in"), "{said}");

    // A changed file is in force; one that makes no sense is not.
    std::fs::write(&file, "kind: Nonsense").unwrap();
    std::fs::write(&file, configuration(&issuer, "y:")).unwrap();
    eventually("the changed file is in force", || whoami("ann", 3).is_ok_and(|u| u["username"] == "y:ann"));
    std::fs::write(&file, "kind: Nonsense").unwrap();
    eventually("nonsense is refused", || c.log().contains("a changed configuration is not usable"));
    assert_eq!(whoami("ann", 3).unwrap()["username"], "y:ann");
}

#[test]
fn aggregated_servers_learn_whom_to_trust() {
    let c = Cluster::start();
    let map = ["-n", "kube-system", "cm", "extension-apiserver-authentication"];
    eventually("the config map is there", || !c.field(&map, ".data.client-ca-file").is_empty());
    assert_eq!(c.field(&map, ".data.requestheader-allowed-names"), r#"["system:auth-proxy"]"#);
    let own = std::fs::read_to_string(c.directory().join("data/server/tls/request-header-ca.crt")).unwrap();
    assert_eq!(c.field(&map, ".data.requestheader-client-ca-file").trim(), own.trim());
    let mut drop = vec!["patch", "--type=merge", "-p", r#"{"data":{"client-ca-file":"none","other":"x"}}"#];
    drop.extend(map);
    c.kubectl(&drop);
    eventually("it is put right", || c.field(&map, ".data.client-ca-file").contains("BEGIN CERTIFICATE"));
    assert_eq!(c.field(&map, ".data.other"), "x");
    let reader = ["-n", "kube-system", "role", "extension-apiserver-authentication-reader"];
    assert!(c.field(&reader, ".rules[0].resourceNames").contains("extension-apiserver-authentication"));
}

#[test]
fn who_may_acts_as_somebody_else_in_every_part() {
    let c = Cluster::start();
    let who = c.kubectl(&[
        "--as=system:serviceaccount:a:b",
        "--as-uid=7",
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username} {.status.userInfo.uid} {.status.userInfo.groups}",
    ]);
    let groups = r#"["system:serviceaccounts","system:serviceaccounts:a","system:authenticated"]"#;
    assert_eq!(who, format!("system:serviceaccount:a:b 7 {groups}"));
    c.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: imp}\nrules:\n\
         - {verbs: [impersonate], apiGroups: [\"\"], resources: [users], resourceNames: [bob]}\n",
    );
    c.kubectl(&["create", "clusterrolebinding", "imp", "--clusterrole=imp", "--user=ann"]);
    let may = c.kubectl_with(&["--as=ann", "auth", "can-i", "impersonate", "users/bob"], "");
    assert_eq!(String::from_utf8_lossy(&may.stdout).trim(), "yes", "{may:?}");
    let may = c.kubectl_with(&["--as=ann", "auth", "can-i", "impersonate", "users/root"], "");
    assert_eq!(String::from_utf8_lossy(&may.stdout).trim(), "no", "{may:?}");
    let rules = c.kubectl(&["--as=ann", "auth", "can-i", "--list"]);
    assert!(rules.contains("users") && rules.contains("[bob]"), "{rules}");
}
