//! Health: `/healthz`, `/livez`, `/readyz`, with upstream's names of checks
//! (<https://kubernetes.io/docs/reference/using-api/health-checks/>).

use std::sync::atomic::Ordering;

use api::Status;

use crate::Server;
use crate::http::Call;
use crate::http::respond::{self, Reply};

const TEXT: &str = "text/plain; charset=utf-8";

/// What a check finds out.
#[derive(Clone, Copy)]
enum Check {
    /// That there is an answer at all.
    Answering,
    /// That the store can be read.
    Store,
    /// That the server is not about to end: readiness alone.
    Staying,
}

use Check::{Answering, Staying, Store};

/// The checks in upstream's order. The server listens when all of its hooks have run, so that an
/// answer says it of them too.
const CHECKS: [(&str, Check); 34] = [
    ("ping", Answering),
    ("log", Answering),
    ("etcd", Store),
    ("etcd-readiness", Store),
    ("informer-sync", Answering),
    ("poststarthook/start-apiserver-admission-initializer", Answering),
    // The name until v1.29.
    ("poststarthook/start-kube-apiserver-admission-initializer", Answering),
    ("poststarthook/generic-apiserver-start-informers", Answering),
    ("poststarthook/priority-and-fairness-config-consumer", Answering),
    ("poststarthook/priority-and-fairness-filter", Answering),
    ("poststarthook/storage-object-count-tracker-hook", Answering),
    ("poststarthook/start-apiextensions-informers", Answering),
    ("poststarthook/start-apiextensions-controllers", Answering),
    ("poststarthook/crd-informer-synced", Answering),
    ("poststarthook/start-system-namespaces-controller", Answering),
    ("poststarthook/start-cluster-authentication-info-controller", Answering),
    ("poststarthook/start-legacy-token-tracking-controller", Answering),
    ("poststarthook/start-service-ip-repair-controllers", Answering),
    ("poststarthook/rbac/bootstrap-roles", Answering),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Answering),
    ("poststarthook/priority-and-fairness-config-producer", Answering),
    ("poststarthook/bootstrap-controller", Answering),
    ("poststarthook/aggregator-reload-proxy-client-cert", Answering),
    ("poststarthook/start-kube-aggregator-informers", Answering),
    ("poststarthook/apiservice-status-local-available-controller", Answering),
    ("poststarthook/apiservice-status-remote-available-controller", Answering),
    // The name of both until v1.30.
    ("poststarthook/apiservice-status-available-controller", Answering),
    ("poststarthook/apiservice-registration-controller", Answering),
    ("poststarthook/apiservice-discovery-controller", Answering),
    ("poststarthook/kube-apiserver-autoregistration", Answering),
    ("autoregister-completion", Answering),
    ("poststarthook/apiservice-openapi-controller", Answering),
    ("poststarthook/apiservice-openapiv3-controller", Answering),
    ("shutdown", Staying),
];

/// The outcome of a check.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    /// What is wrong; `None` when it passes.
    failure: Option<String>,
}

impl Outcome {
    pub(crate) fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// Whether an endpoint has a check.
fn has(endpoint: &str, name: &str) -> bool {
    match name {
        "shutdown" | "informer-sync" | "etcd-readiness" => endpoint == "readyz",
        _ => true,
    }
}

impl Server {
    /// Runs the checks of an endpoint: `healthz`, `livez` or `readyz`.
    pub(crate) async fn health_checks(&self, endpoint: &str) -> Vec<Outcome> {
        let store = self.registry().storage().ping().await.err().map(|s| s.message);
        let outcome = |&(name, check): &(&'static str, Check)| {
            let failure = match check {
                Answering => None,
                Store => store.clone(),
                Staying => self.is_shutting_down().then(|| "process is shutting down".to_owned()),
            };
            Outcome { name, failure }
        };
        let outcomes: Vec<Outcome> = CHECKS.iter().filter(|(n, _)| has(endpoint, n)).map(outcome).collect();
        for o in &outcomes {
            let status = if o.passed() { "success" } else { "error" };
            let labels = format!("name=\"{}\",status=\"{status}\",type=\"{endpoint}\"", o.name);
            self.metrics().checks.of(labels).fetch_add(1, Ordering::Relaxed);
        }
        outcomes
    }

    /// Answers a health endpoint, or one check of it.
    pub(crate) async fn health(&self, endpoint: &str, rest: &[&str], call: &Call) -> Reply {
        let outcomes = self.health_checks(endpoint).await;
        let wanted = rest.join("/");
        if !wanted.is_empty() {
            return match outcomes.iter().find(|o| o.name == wanted) {
                None => respond::status(&Status::no_such_resource()),
                Some(Outcome { failure: None, .. }) => respond::bytes(200, TEXT, "ok"),
                Some(Outcome { failure: Some(why), .. }) => {
                    respond::bytes(500, TEXT, format!("internal server error: {why}\n"))
                }
            };
        }
        let excluded: Vec<&str> = call.query.all("exclude").filter(|e| !e.is_empty()).collect();
        let mut text = String::new();
        let mut failed = false;
        for o in &outcomes {
            text += &if excluded.contains(&o.name) {
                format!("[+]{} excluded: ok\n", o.name)
            } else if o.passed() {
                format!("[+]{} ok\n", o.name)
            } else {
                failed = true;
                format!("[-]{} failed: reason withheld\n", o.name)
            };
        }
        let unknown: Vec<String> =
            excluded.iter().filter(|e| !outcomes.iter().any(|o| o.name == **e)).map(|e| format!("{e:?}")).collect();
        if !unknown.is_empty() {
            text += &format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(","));
        }
        if failed {
            return respond::bytes(500, TEXT, format!("{text}{endpoint} check failed\n"));
        }
        // Its presence counts, with or without a value.
        if call.query.all("verbose").next().is_none() {
            return respond::bytes(200, TEXT, "ok");
        }
        respond::bytes(200, TEXT, format!("{text}{endpoint} check passed\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::testing::Testing;

    #[tokio::test]
    async fn a_verbose_answer_is_asked_for_with_or_without_a_value() {
        let t = Testing::start().await;
        for (path, end) in
            [("/livez", "ok"), ("/livez?verbose", "livez check passed\n"), ("/livez?verbose=1", "passed\n")]
        {
            let (code, text) = t.http("GET", path, "", &Value::Null).await;
            assert!(code == 200 && text.as_str().unwrap_or_default().ends_with(end), "{path}: {text}");
        }
    }
}
