//! Who watches what, over HTTP: the work that a write makes for them
//! (upstream: `flowcontrol/watch_tracker.go`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

use api::selector::FieldSelector;

use crate::request::{Query, RequestInfo};

/// Watches of one value of such a field hear of few writes, and are not counted.
const INDEXED: &[(&str, &str)] = &[("pods", "spec.nodeName")];

/// Group, resource, namespace, name; empty for any.
type Scope = [String; 4];

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<Scope, usize>>>);

/// A watch, for as long as it lives.
#[derive(Debug)]
pub struct Watching(Option<(Watchers, Scope)>);

fn of(info: &RequestInfo, namespace: &str, name: &str) -> Scope {
    [&info.group, &info.resource, namespace, name].map(str::to_owned)
}

fn is_indexed(info: &RequestInfo, query: &Query) -> bool {
    let Some((_, field)) = INDEXED.iter().find(|(resource, _)| info.resource == *resource) else { return false };
    let selector = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default());
    selector.is_ok_and(|s| s.requirements().iter().any(|r| r.equal && r.path == *field && !r.value.is_empty()))
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, usize>> {
        // Plain numbers.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Counts a watch until what is given is dropped.
    pub(super) fn add(&self, info: &RequestInfo, query: &Query) -> Watching {
        if is_indexed(info, query) {
            return Watching(None);
        }
        let scope = of(info, &info.namespace, &info.name);
        *self.lock().entry(scope.clone()).or_default() += 1;
        Watching(Some((self.clone(), scope)))
    }

    /// How many may see what a request writes.
    pub(super) fn interested(&self, info: &RequestInfo) -> usize {
        let all = self.lock();
        let count = |namespace: &str, name: &str| all.get(&of(info, namespace, name)).copied().unwrap_or(0);
        let mut total = count("", "");
        if !info.namespace.is_empty() {
            total += count(&info.namespace, "");
        }
        if !info.name.is_empty() {
            total += count(&info.namespace, &info.name);
        }
        total
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let Some((watchers, scope)) = self.0.take() else { return };
        if let Entry::Occupied(mut e) = watchers.lock().entry(scope) {
            *e.get_mut() -= 1;
            if *e.get() == 0 {
                e.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn request(method: Method, path: &str) -> (RequestInfo, Query) {
        let query = Query::parse(path.split_once('?').map_or("", |(_, q)| q));
        (RequestInfo::new(&method, path.split('?').next().unwrap(), &query), query)
    }

    #[test]
    fn a_write_is_seen_by_the_watches_whose_scope_it_is_in() {
        let all = Watchers::default();
        let open: Vec<Watching> = [
            "/api/v1/pods?watch=1",
            "/api/v1/namespaces/a/pods?watch=1",
            "/api/v1/namespaces/b/pods?watch=1",
            "/api/v1/namespaces/a/pods?watch=1&fieldSelector=metadata.name%3Dx",
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn",
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D",
            "/api/v1/secrets?watch=1",
        ]
        .map(|path| {
            let (info, query) = request(Method::GET, path);
            all.add(&info, &query)
        })
        .into();
        let seen = |method, path| all.interested(&request(method, path).0);
        assert_eq!(seen(Method::PUT, "/api/v1/namespaces/a/pods/x"), 4);
        assert_eq!(seen(Method::POST, "/api/v1/namespaces/a/pods"), 3);
        assert_eq!(seen(Method::PUT, "/api/v1/namespaces/c/pods/x"), 2);
        drop(open);
        assert!(all.lock().is_empty());
    }
}
