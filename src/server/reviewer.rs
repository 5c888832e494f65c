//! Services elsewhere that answer reviews (TokenReview, SubjectAccessReview), or are told of audit
//! events. Where one is, whom to trust and what to show it stands in a kubeconfig; everything is
//! posted to its server's very path.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Status;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use client::tls::{self, Current};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use serde_json::Value;

use crate::outbound::{Outbound, Vouched, host_and_port};
use crate::reloaded;

/// How often a service that has trouble is asked, and how long after the first time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Reviewer {
    url: Uri,
    connections: Outbound,
    authorization: Option<HeaderValue>,
}

/// What a kubeconfig says of something: in itself, or in a file that it names relative to itself.
struct Entry<'a> {
    of: &'a Value,
    folder: &'a Path,
}

impl Entry<'_> {
    fn text(&self, field: &str) -> Option<&str> {
        self.of[field].as_str().filter(|t| !t.is_empty())
    }

    fn pem(&self, field: &str) -> Result<Option<String>, String> {
        if let Some(data) = self.text(&format!("{field}-data")) {
            let bytes = BASE64_STANDARD.decode(data).map_err(|e| format!("its {field}-data is no base64: {e}"))?;
            return String::from_utf8(bytes).map(Some).map_err(|_| format!("its {field}-data is no PEM"));
        }
        self.text(field).map(|name| self.file(name)).transpose()
    }

    fn file(&self, name: &str) -> Result<String, String> {
        let path: PathBuf = self.folder.join(name);
        std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
    }
}

fn named<'a>(config: &'a Value, list: &str, name: &Value, what: &str) -> Result<&'a Value, String> {
    let found = config[list].as_array().into_iter().flatten().find(|e| e["name"] == *name);
    found.map(|e| &e[what]).ok_or_else(|| format!("it names the {what} {name}, which is not in it"))
}

impl Reviewer {
    /// Reads the current context of a kubeconfig.
    ///
    /// # Errors
    /// A file that cannot be read, or is not fit for this.
    pub(crate) fn from_kubeconfig(path: &Path) -> Result<Reviewer, Status> {
        let text = reloaded::read(path)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let unfit =
            |e: String| Status::internal_plain(format!("the kubeconfig {} cannot be used: {e}", path.display()));
        Reviewer::parse(&text, folder).map_err(unfit)
    }

    fn parse(text: &str, folder: &Path) -> Result<Reviewer, String> {
        let config = api::codec::parse_tree(text.as_bytes(), true).map_err(|s| s.message)?;
        let context = named(&config, "contexts", &config["current-context"], "context")?;
        let cluster = Entry { of: named(&config, "clusters", &context["cluster"], "cluster")?, folder };
        let user = match context["user"].as_str() {
            None | Some("") => &Value::Null,
            Some(_) => named(&config, "users", &context["user"], "user")?,
        };
        let user = Entry { of: user, folder };
        let server = cluster.text("server").ok_or("its cluster has no server")?;
        let url: Uri = server.parse().map_err(|e| format!("{server:?}: {e}"))?;
        let authority = cluster.pem("certificate-authority")?;
        let vouched = match &authority {
            _ if cluster.of["insecure-skip-tls-verify"] == true => Vouched::ByNobody,
            Some(pem) => Vouched::By(pem),
            None => Vouched::BySystem,
        };
        let identity = match (user.pem("client-certificate")?, user.pem("client-key")?) {
            (Some(chain), Some(key)) => Some(Current::new(tls::certified(&chain, &key).map_err(|e| e.to_string())?)),
            _ => None,
        };
        let authorization = match (user.text("token"), user.text("tokenFile"), user.text("username")) {
            (Some(token), _, _) => Some(format!("Bearer {token}")),
            (None, Some(file), _) => Some(format!("Bearer {}", user.file(file)?.trim())),
            (None, None, Some(name)) => {
                let both = format!("{name}:{}", user.text("password").unwrap_or_default());
                Some(format!("Basic {}", BASE64_STANDARD.encode(both)))
            }
            _ => None,
        };
        let header = |v: String| HeaderValue::from_str(&v).map_err(|e| format!("its user's token: {e}"));
        let authorization = authorization.map(header).transpose()?;
        Ok(Reviewer { url, connections: Outbound::new(&vouched, identity), authorization })
    }

    /// Posts a review and reads the answer, all within `timeout`. A service that has trouble is
    /// asked again.
    ///
    /// # Errors
    /// In upstream's words.
    pub(crate) async fn post(&self, review: &Value, timeout: Duration) -> Result<Value, String> {
        let body = Bytes::from(review.to_string());
        let asked = async {
            let mut pause = PAUSE;
            for _ in 1..TRIES {
                match self.once(body.clone()).await {
                    Err((e, true)) => tracing::debug!(error = e, url = %self.url, "a review was not answered"),
                    answered => return answered,
                }
                tokio::time::sleep(pause).await;
                pause = pause.mul_f64(1.5);
            }
            self.once(body).await
        };
        let answered = tokio::time::timeout(timeout, asked).await;
        let answered = answered.unwrap_or_else(|_| Err(("context deadline exceeded".to_owned(), false)));
        answered.map_err(|(e, _)| format!("Post {:?}: {e}", self.url.to_string()))
    }

    /// Posts something once, the answer to which says nothing.
    ///
    /// # Errors
    /// In upstream's words.
    pub(crate) async fn tell(&self, body: Bytes, timeout: Duration) -> Result<(), String> {
        let told = tokio::time::timeout(timeout, self.exchange(body)).await;
        let told = told.unwrap_or_else(|_| Err(("context deadline exceeded".to_owned(), false)));
        told.map(drop).map_err(|(e, _)| format!("Post {:?}: {e}", self.url.to_string()))
    }

    /// One try. An error says whether another one may do better.
    async fn once(&self, body: Bytes) -> Result<Value, (String, bool)> {
        let answer = self.exchange(body).await?;
        serde_json::from_slice(&answer).map_err(|e| (format!("its answer is no review: {e}"), false))
    }

    async fn exchange(&self, body: Bytes) -> Result<Bytes, (String, bool)> {
        let mut request = Request::post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, format!("sampan/{}", api::VERSION));
        if let Some(a) = &self.authorization {
            request = request.header(AUTHORIZATION, a);
        }
        let (head, ()) = request.body(()).map_err(|e| (e.to_string(), false))?.into_parts();
        let sent = self.connections.send(&head, body, async { Ok(host_and_port(&self.url)) });
        let (status, answer) = sent.await.map_err(|e| (e, false))?;
        if !status.is_success() {
            let again = matches!(status.as_u16(), 429 | 500 | 504);
            let text = String::from_utf8_lossy(&answer);
            let what = format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim());
            return Err((what, again));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kubeconfig_says_where_and_how() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t"), "abc\n").unwrap();
        let config = |cluster: Value, user: Value| {
            json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "a", "user": "u"}}],
                "clusters": [{"name": "a", "cluster": cluster}], "users": [{"name": "u", "user": user}]})
            .to_string()
        };
        let parse = |cluster: Value, user: Value| Reviewer::parse(&config(cluster, user), folder.path());
        let at = json!({"server": "https://a:8443/path"});
        let reviewer = parse(at.clone(), json!({"tokenFile": "t"})).unwrap();
        assert_eq!(reviewer.url.path(), "/path");
        assert_eq!(reviewer.authorization.unwrap(), "Bearer abc");
        assert!(parse(at.clone(), json!({})).unwrap().authorization.is_none());
        assert!(parse(json!({}), json!({})).is_err_and(|e| e == "its cluster has no server"));
        assert!(parse(at, json!({"tokenFile": "absent"})).is_err_and(|e| e.contains("absent")));
    }
}
