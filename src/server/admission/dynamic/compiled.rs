//! Configurations in the form that admission works with, made once for each change of one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use api::{Object, Status};

use crate::Server;

/// The compiled forms of all objects of a kind.
pub(crate) struct Compiled<T> {
    plural: &'static str,
    build: fn(&Object) -> Result<T, Status>,
    /// By key, with the resourceVersion that each was made of.
    made: Mutex<HashMap<String, (String, Arc<T>)>>,
}

impl<T> Compiled<T> {
    /// For a kind of `admissionregistration.k8s.io/v1`.
    pub(crate) fn new(plural: &'static str, build: fn(&Object) -> Result<T, Status>) -> Compiled<T> {
        Compiled { plural, build, made: Mutex::default() }
    }

    /// All of them now, in the order of their names.
    pub(crate) fn all(&self, server: &Server) -> Result<Vec<Arc<T>>, Status> {
        let resource = server.resource("admissionregistration.k8s.io", "v1", self.plural)?;
        let objects = server.registry().cache(&resource)?.objects();
        let mut made = self.made.lock().unwrap_or_else(|e| e.into_inner());
        made.retain(|key, _| objects.contains_key(key.as_str()));
        let mut all = Vec::with_capacity(objects.len());
        for (key, object) in &objects {
            let version = object.meta().resource_version;
            match made.get(&**key) {
                Some((of, compiled)) if of == version => all.push(compiled.clone()),
                _ => {
                    let compiled = Arc::new((self.build)(object)?);
                    made.insert(key.to_string(), (version.to_owned(), compiled.clone()));
                    all.push(compiled);
                }
            }
        }
        Ok(all)
    }
}
