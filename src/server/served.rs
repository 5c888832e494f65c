//! What is served: the built-in resources and those of custom resource definitions, as one table
//! that is replaced as a whole when a definition changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use api::openapi::CustomSchemas;
use api::{Resource, Status};
use arc_swap::ArcSwap;
use serde_json::Value;

/// The table at one time.
pub struct Served {
    /// All resources, the built-in ones first.
    pub resources: Arc<Vec<Arc<Resource>>>,
    /// The published schemas of custom resources.
    pub schemas: CustomSchemas,
    /// Tells it from all tables before and after it.
    pub number: u64,
    by_gvr: HashMap<(String, String, String), Arc<Resource>>,
}

impl Served {
    fn new(resources: Vec<Arc<Resource>>, schemas: CustomSchemas, number: u64) -> Served {
        let key = |r: &Resource| (r.group.clone(), r.version.clone(), r.plural.clone());
        let by_gvr = resources.iter().map(|r| (key(r), r.clone())).collect();
        Served { resources: Arc::new(resources), schemas, number, by_gvr }
    }

    /// One resource.
    ///
    /// # Errors
    /// 404.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Result<Arc<Resource>, Status> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.by_gvr.get(&key).cloned().ok_or_else(Status::no_such_resource)
    }
}

/// What one definition adds to the table.
pub struct Definition {
    /// One entry for each version.
    pub resources: Vec<Arc<Resource>>,
    /// The schemas to publish.
    pub schemas: CustomSchemas,
    /// Where its objects are stored.
    pub prefix: String,
    /// What all that follows from.
    pub source: Value,
}

/// The table and how it changes.
pub struct Table {
    builtin: Vec<Arc<Resource>>,
    definitions: Mutex<BTreeMap<String, Definition>>,
    current: ArcSwap<Served>,
}

impl Table {
    /// A table of the built-in resources.
    pub fn new(builtin: Vec<Arc<Resource>>) -> Table {
        let current = ArcSwap::from_pointee(Served::new(builtin.clone(), CustomSchemas::new(), 0));
        Table { builtin, definitions: Mutex::default(), current }
    }

    /// The table now.
    pub fn current(&self) -> Arc<Served> {
        self.current.load_full()
    }

    /// Whether a resource is one of the built-in ones.
    pub fn builtin(&self) -> &[Arc<Resource>] {
        &self.builtin
    }

    /// Whether the table has what the definition of a name adds, as it follows from `source`.
    pub fn has(&self, name: &str, source: &Value) -> bool {
        let all = self.definitions.lock().unwrap_or_else(|e| e.into_inner());
        all.get(name).is_some_and(|d| d.source == *source)
    }

    /// Sets what the definition of a name adds; `None` takes it out. Gives what it added before.
    pub fn set(&self, name: &str, definition: Option<Definition>) -> Option<Definition> {
        let mut all = self.definitions.lock().unwrap_or_else(|e| e.into_inner());
        let before = match definition {
            Some(d) => all.insert(name.to_owned(), d),
            None => all.remove(name),
        };
        let mut resources = self.builtin.clone();
        let mut schemas = CustomSchemas::new();
        for d in all.values() {
            resources.extend(d.resources.iter().cloned());
            schemas.extend(d.schemas.clone());
        }
        let number = self.current.load().number + 1;
        self.current.store(Arc::new(Served::new(resources, schemas, number)));
        before
    }
}
