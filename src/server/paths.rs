//! Paths that are not resources: health, version, metrics, discovery, OpenAPI, keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::Status;
use client::encryption::PATH as ENCRYPTION_PATH;
use client::join::JOIN_PATH;
use http::Method;
use http::header::ACCEPT;
use serde_json::{Value, json};

use crate::http::respond::{self, Reply};
use crate::http::{Call, RequestBody, read_body};
use crate::{Server, discovery};

/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn wants_aggregated(call: &Call) -> bool {
    let accept = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|part| {
        let has = |p: &str| part.split(';').any(|s| s.trim() == p);
        has("as=APIGroupDiscoveryList") && has("v=v2") && has("g=apidiscovery.k8s.io")
    })
}

impl Server {
    /// Serves a path that names no resource.
    ///
    /// # Errors
    /// 404, 405.
    pub async fn serve_path(self: &Arc<Self>, call: Call, body: RequestBody) -> Result<Reply, Status> {
        let path = call.info.path.trim_end_matches('/').to_owned();
        if path == JOIN_PATH && call.parts.method == Method::POST {
            let answer = self.join(&call.user, &read_body(body).await?).await?;
            return Ok(respond::json(200, &serde_json::to_value(answer).map_err(Status::internal)?));
        }
        if let Some(rest) = path.strip_prefix(ENCRYPTION_PATH) {
            return self.serve_encryption(&call.parts.method, rest, body).await;
        }
        if !matches!(call.parts.method, Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        let resources = self.resources();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let json_or_404 = |v: Option<Value>| v.map(|v| respond::json(200, &v)).ok_or_else(Status::no_such_resource);
        match parts.as_slice() {
            ["api"] if wants_aggregated(&call) => Ok(self.aggregated(&call, true)),
            ["apis"] if wants_aggregated(&call) => Ok(self.aggregated(&call, false)),
            ["api"] => Ok(respond::json(200, &discovery::legacy_versions(self.address()))),
            ["apis"] => Ok(respond::json(200, &discovery::group_list(&self.groups()))),
            ["api", version] => json_or_404(discovery::resource_list(&resources, "", version)),
            ["apis", group] => json_or_404(discovery::group(&self.groups(), group)),
            ["apis", group, version] => json_or_404(discovery::resource_list(&resources, group, version)),
            ["cacerts"] => {
                Ok(respond::bytes(200, "application/x-pem-file", self.pki().server_ca.certificate_pem.clone()))
            }
            ["version"] => Ok(respond::json(200, &version())),
            ["healthz" | "livez" | "readyz", rest @ ..] => Ok(self.health(parts[0], rest, &call)),
            ["metrics"] => Ok(respond::bytes(200, METRICS, self.metrics_text())),
            ["metrics", "slis"] => Ok(respond::bytes(200, METRICS, self.slis_text())),
            ["openapi", rest @ ..] => self.openapi(call, rest).await,
            ["openid", "v1", "jwks"] => Ok(respond::bytes(200, "application/jwk-set+json", self.jwks().to_string())),
            [".well-known", "openid-configuration"] => Ok(respond::json(200, &self.openid_configuration())),
            [""] => Ok(respond::json(200, &json!({"paths": paths(&self.groups())}))),
            _ => Err(Status::no_such_resource()),
        }
    }

    fn aggregated(&self, call: &Call, core: bool) -> Reply {
        self.aggregated_discovery(call, core, AGGREGATED)
    }

    /// The health checks and their outcomes.
    pub(crate) fn health_checks(&self) -> [(&'static str, bool); 4] {
        [("ping", true), ("store", true), ("watch-cache", true), ("shutdown", !self.is_shutting_down())]
    }

    fn health(&self, endpoint: &str, rest: &[&str], call: &Call) -> Reply {
        let wanted = rest.first();
        let selected: Vec<(&str, bool)> = self
            .health_checks()
            .into_iter()
            .filter(|(n, _)| wanted.is_none_or(|w| w == n))
            // Liveness does not depend on a shutdown that is under way.
            .map(|(n, ok)| (n, ok || endpoint == "livez"))
            .collect();
        if selected.is_empty() {
            return respond::status(&Status::no_such_resource());
        }
        for (name, ok) in &selected {
            let status = if *ok { "success" } else { "error" };
            let labels = format!("name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"");
            self.metrics().checks.of(labels).fetch_add(1, Ordering::Relaxed);
        }
        let failed = selected.iter().any(|(_, ok)| !ok);
        let code = if failed { 500 } else { 200 };
        if !failed && !call.query.flag("verbose") {
            return respond::bytes(code, "text/plain; charset=utf-8", "ok");
        }
        let mut text = String::new();
        for (name, ok) in &selected {
            text += &format!("[{}]{name} {}\n", if *ok { "+" } else { "-" }, if *ok { "ok" } else { "failed" });
        }
        text += &format!("{endpoint} check {}\n", if failed { "failed" } else { "passed" });
        respond::bytes(code, "text/plain; charset=utf-8", text)
    }
}

/// The answer of `/version`.
pub(crate) fn version() -> Value {
    let minor = api::KUBERNETES_VERSION.split('.').nth(1).unwrap_or_default();
    json!({
        "major": "1",
        "minor": minor,
        "emulationMajor": "1",
        "emulationMinor": minor,
        "gitVersion": api::VERSION,
        "gitCommit": option_env!("SAMPAN_COMMIT").unwrap_or("unknown"),
        "gitTreeState": "clean",
        "buildDate": option_env!("SAMPAN_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

fn paths(groups: &[discovery::Group]) -> Vec<String> {
    let mut list: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    list.extend(discovery::paths(groups));
    list.sort();
    list.dedup();
    list
}
