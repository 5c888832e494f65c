//! The paths of resources and the operations on them, in the form of v2, and that form made v3.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schemas::{list_name_of, name_of};
use crate::resource::{Resource, Subresource};
use crate::schema::Schemas;

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const CHANGE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const CHANGE_BY_PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

/// Type and description of a query parameter.
fn query(name: &str) -> Value {
    let (kind, description) = match name {
        "allowWatchBookmarks" => (
            "boolean",
            "allowWatchBookmarks requests watch events with type \"BOOKMARK\". Servers that do not implement bookmarks may ignore this flag and bookmarks are sent at the server's discretion.",
        ),
        "continue" => ("string", "The continue option should be set when retrieving more results from the server."),
        "dryRun" => (
            "string",
            "When present, indicates that modifications should not be persisted. An invalid or unrecognized dryRun directive will result in an error response and no further processing of the request. Valid values are: - All: all dry run stages will be processed",
        ),
        "fieldManager" => (
            "string",
            "fieldManager is a name associated with the actor or entity that is making these changes. The value must be less than or 128 characters long, and only contain printable characters, as defined by https://golang.org/pkg/unicode/#IsPrint.",
        ),
        "fieldSelector" => {
            ("string", "A selector to restrict the list of returned objects by their fields. Defaults to everything.")
        }
        "fieldValidation" => (
            "string",
            "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate fields. Valid values are: - Ignore: This will ignore any unknown fields that are silently dropped from the object, and will ignore all but the last duplicate field that the decoder encounters. - Warn: This will send a warning via the standard warning response header for each unknown field that is dropped from the object, and for each duplicate field that is encountered. - Strict: This will fail the request with a BadRequest error if any unknown fields would be dropped from the object, or if any duplicate fields are present.",
        ),
        "force" => (
            "boolean",
            "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people. Force flag must be unset for non-apply patch requests.",
        ),
        "gracePeriodSeconds" => (
            "integer",
            "The duration in seconds before the object should be deleted. Value must be non-negative integer. The value zero indicates delete immediately.",
        ),
        "labelSelector" => {
            ("string", "A selector to restrict the list of returned objects by their labels. Defaults to everything.")
        }
        "limit" => ("integer", "limit is a maximum number of responses to return for a list call."),
        "orphanDependents" => (
            "boolean",
            "Deprecated: please use the PropagationPolicy, this field will be deprecated in 1.7. Should the dependent objects be orphaned.",
        ),
        "pretty" => (
            "string",
            "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
        ),
        "propagationPolicy" => ("string", "Whether and how garbage collection will be performed."),
        "resourceVersion" => (
            "string",
            "resourceVersion sets a constraint on what resource versions a request may be served from. See https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions for details.",
        ),
        "resourceVersionMatch" => {
            ("string", "resourceVersionMatch determines how resourceVersion is applied to list calls.")
        }
        "sendInitialEvents" => (
            "boolean",
            "`sendInitialEvents=true` may be set together with `watch=true`. In that case, the watch stream will begin with synthetic events to produce the current state of objects in the collection.",
        ),
        "timeoutSeconds" => (
            "integer",
            "Timeout for the list/watch call. This limits the duration of the call, regardless of any activity or inactivity.",
        ),
        "watch" => (
            "boolean",
            "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications. Specify resourceVersion.",
        ),
        _ => ("string", ""),
    };
    json!({"name": name, "in": "query", "type": kind, "uniqueItems": true, "description": description})
}

fn in_path(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "type": "string", "required": true, "uniqueItems": true, "description": description})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{name}")})
}

/// `apps` is `Apps`, `rbac.authorization.k8s.io` is `RbacAuthorization`.
fn group_id(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    group.strip_suffix(".k8s.io").unwrap_or(group).split(['.', '-']).map(capital).collect()
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// One operation before it is JSON.
struct Operation<'a> {
    /// `get`, `put`, ... as in HTTP.
    method: &'a str,
    /// `list`, `post`, ... as in `x-kubernetes-action`.
    action: &'a str,
    id: String,
    description: String,
    query: &'a [&'a str],
    body: Option<&'a str>,
    /// Definition of the answer; none answers text.
    answer: Option<&'a str>,
    kind: (&'a str, &'a str, &'a str),
}

impl Operation<'_> {
    fn render(&self, tag: &str) -> Value {
        let mut parameters = Vec::new();
        if let Some(body) = self.body {
            let required = self.method != "delete";
            let mut p = json!({"name": "body", "in": "body", "schema": reference(body)});
            if required {
                p["required"] = Value::Bool(true);
            }
            parameters.push(p);
        }
        parameters.extend(self.query.iter().map(|q| query(q)));
        let schema = self.answer.map_or_else(|| json!({"type": "string"}), reference);
        let mut responses = Map::new();
        let codes: &[(&str, &str)] = match self.action {
            "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "put" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        for (code, text) in codes {
            responses.insert((*code).into(), json!({"description": text, "schema": schema}));
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        let (group, version, kind) = self.kind;
        let consumes = if self.action == "patch" { json!(PATCH_TYPES) } else { json!(["*/*"]) };
        let produces = match self.action {
            "list" | "get" | "post" | "put" | "patch" | "delete" | "deletecollection" => {
                json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])
            }
            _ => json!(["*/*"]),
        };
        let mut operation = json!({
            "operationId": self.id,
            "description": self.description,
            "tags": [tag],
            "schemes": ["https"],
            "consumes": consumes,
            "produces": produces,
            "responses": responses,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        // Upstream's parser does not give an empty list back.
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        operation
    }
}

/// The paths of all resources.
pub(super) fn paths(resources: &[Arc<Resource>]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for r in resources {
        Paths::new(r).add(&mut all);
    }
    all
}

struct Paths<'a> {
    r: &'a Resource,
    prefix: String,
    /// `AppsV1`
    group: String,
    /// `Namespaced` or nothing.
    scope: &'static str,
    tag: String,
    name: String,
    list_name: String,
}

impl<'a> Paths<'a> {
    fn new(r: &'a Resource) -> Paths<'a> {
        let root = if r.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/{}", r.group, r.version) };
        let prefix = if r.namespaced {
            format!("{root}/namespaces/{{namespace}}/{}", r.plural)
        } else {
            format!("{root}/{}", r.plural)
        };
        let id = group_id(&r.group);
        let mut tag: String = id.clone();
        tag[..1].make_ascii_lowercase();
        Paths {
            r,
            prefix,
            group: format!("{id}{}", capital(&r.version)),
            scope: if r.namespaced { "Namespaced" } else { "" },
            tag: format!("{tag}_{}", r.version),
            name: name_of(r),
            list_name: list_name_of(r),
        }
    }

    fn kind(&self) -> (&str, &str, &str) {
        (&self.r.group, &self.r.version, &self.r.kind)
    }

    fn operation<'b>(&'b self, verb: &str, method: &'b str, action: &'b str, what: &str) -> Operation<'b> {
        Operation {
            method,
            action,
            id: format!("{verb}{}{}{}", self.group, self.scope, self.r.kind),
            description: format!("{what} {}", self.r.kind),
            query: &[],
            body: None,
            answer: Some(&self.name),
            kind: self.kind(),
        }
    }

    fn item(&self, named: bool, operations: Vec<Operation<'_>>) -> Value {
        let mut item = Map::new();
        for o in operations {
            item.insert(o.method.to_owned(), o.render(&self.tag));
        }
        let mut parameters = Vec::new();
        if named {
            parameters.push(in_path("name", &format!("name of the {}", self.r.kind)));
        }
        if self.r.namespaced {
            parameters.push(in_path("namespace", "object name and auth scope, such as for teams and projects"));
        }
        parameters.push(query("pretty"));
        item.insert("parameters".into(), Value::Array(parameters));
        Value::Object(item)
    }

    fn add(&self, all: &mut BTreeMap<String, Value>) {
        let has = |verb: &str| self.r.verbs.contains(&verb);
        let mut collection = Vec::new();
        if has("list") {
            collection.push(self.list());
        }
        if has("create") {
            let mut o = self.operation("create", "post", "post", "create a");
            (o.body, o.query) = (Some(self.name.as_str()), CHANGE);
            collection.push(o);
        }
        if has("deletecollection") {
            let mut o = self.operation("delete", "delete", "deletecollection", "delete collection of");
            o.id = format!("delete{}Collection{}{}", self.group, self.scope, self.r.kind);
            (o.body, o.query, o.answer) = (Some(DELETE_OPTIONS), DELETE, Some(STATUS));
            collection.push(o);
        }
        all.insert(self.prefix.clone(), self.item(false, collection));
        if self.r.namespaced && has("list") {
            let mut o = self.list();
            o.id = format!("list{}{}ForAllNamespaces", self.group, self.r.kind);
            let mut item = Map::new();
            item.insert("get".into(), o.render(&self.tag));
            item.insert("parameters".into(), json!([query("pretty")]));
            all.insert(self.prefix.replace("/namespaces/{namespace}", ""), Value::Object(item));
        }
        let mut one = Vec::new();
        if has("get") {
            one.push(self.operation("read", "get", "get", "read the specified"));
        }
        if has("update") {
            let mut o = self.operation("replace", "put", "put", "replace the specified");
            (o.body, o.query) = (Some(self.name.as_str()), CHANGE);
            one.push(o);
        }
        if has("patch") {
            let mut o = self.operation("patch", "patch", "patch", "partially update the specified");
            (o.body, o.query) = (Some(PATCH), CHANGE_BY_PATCH);
            one.push(o);
        }
        if has("delete") {
            let mut o = self.operation("delete", "delete", "delete", "delete a");
            (o.body, o.query, o.answer) = (Some(DELETE_OPTIONS), DELETE, Some(STATUS));
            one.push(o);
        }
        if !one.is_empty() {
            all.insert(format!("{}/{{name}}", self.prefix), self.item(true, one));
        }
        for s in &self.r.subresources {
            all.insert(format!("{}/{{name}}/{}", self.prefix, s.name()), self.subresource(s));
        }
    }

    fn list(&self) -> Operation<'_> {
        let watched = self.r.verbs.contains(&"watch");
        let what = if watched { "list or watch objects of kind" } else { "list objects of kind" };
        let mut o = self.operation("list", "get", "list", what);
        (o.query, o.answer) = (LIST, Some(self.list_name.as_str()));
        o
    }

    fn subresource(&self, s: &Subresource) -> Value {
        let (verbs, kind, definition): (&[&str], _, Option<String>) = match s {
            Subresource::Status | Subresource::Aspect(_) => {
                (&["get", "patch", "update"], self.kind(), Some(self.name.clone()))
            }
            Subresource::Scale { .. } => {
                (&["get", "patch", "update"], ("autoscaling", "v1", "Scale"), Some(SCALE.to_owned()))
            }
            Subresource::Other { kind, group, version, verbs, .. } => {
                let known = Schemas::builtin().type_of(group, version, kind);
                let name = known.and_then(|t| t.definition_name().map(str::to_owned));
                (verbs, (*group, *version, *kind), name)
            }
        };
        let suffix: String = s.name().split('-').map(capital).collect();
        // A kind without a definition is a set of options for a stream.
        let connects = definition.is_none();
        let text = s.name() == "log";
        let definition = definition.unwrap_or_default();
        let operations = verbs
            .iter()
            .map(|verb| {
                let (id, method, action, what): (&str, &str, &str, &str) = match *verb {
                    "create" => ("create", "post", "post", "create"),
                    "get" => ("read", "get", "get", "read"),
                    "update" => ("replace", "put", "put", "replace"),
                    "patch" => ("patch", "patch", "patch", "partially update"),
                    _ => ("delete", "delete", "delete", "delete"),
                };
                let mut o = self.operation(id, method, action, &format!("{what} {} of the specified", s.name()));
                o.id.push_str(&suffix);
                o.kind = kind;
                if connects {
                    o.id = format!("connect{}{}{}{}{suffix}", self.group, capital(method), self.scope, self.r.kind);
                    o.description =
                        format!("connect {} requests to {} of {}", method.to_uppercase(), s.name(), self.r.kind);
                    (o.action, o.answer) = ("connect", None);
                    return o;
                }
                o.answer = if text { None } else { Some(&definition) };
                match action {
                    "post" | "put" => (o.body, o.query) = (Some(definition.as_str()), CHANGE),
                    "patch" => (o.body, o.query) = (Some(PATCH), CHANGE_BY_PATCH),
                    _ => {}
                }
                o
            })
            .collect();
        self.item(true, operations)
    }
}

/// A path item in the form of v3.
pub(super) fn to_v3(mut item: Value) -> Value {
    let Some(map) = item.as_object_mut() else { return item };
    for (key, value) in map.iter_mut() {
        if key == "parameters" {
            if let Value::Array(list) = value {
                list.iter_mut().for_each(parameter_v3);
            }
        } else {
            operation_v3(value);
        }
    }
    item
}

fn parameter_v3(p: &mut Value) {
    let Some(map) = p.as_object_mut() else { return };
    let kind = map.remove("type").unwrap_or_else(|| json!("string"));
    map.insert("schema".into(), json!({"type": kind, "uniqueItems": true}));
    map.remove("uniqueItems");
}

fn schema_v3(schema: &Value) -> Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(text) => json!({"$ref": text.replace("#/definitions/", "#/components/schemas/")}),
        None => schema.clone(),
    }
}

fn content(types: &Value, schema: &Value) -> Value {
    let types = types.as_array().into_iter().flatten().filter_map(Value::as_str);
    Value::Object(types.map(|t| (t.to_owned(), json!({"schema": schema_v3(schema)}))).collect())
}

fn operation_v3(operation: &mut Value) {
    let Some(map) = operation.as_object_mut() else { return };
    map.remove("schemes");
    let consumes = map.remove("consumes").unwrap_or_default();
    let produces = map.remove("produces").unwrap_or_default();
    if let Some(Value::Array(mut parameters)) = map.remove("parameters") {
        if let Some(at) = parameters.iter().position(|p| p["in"] == "body") {
            let body = parameters.remove(at);
            let mut request = json!({"content": content(&consumes, &body["schema"])});
            if body["required"] == true {
                request["required"] = Value::Bool(true);
            }
            map.insert("requestBody".into(), request);
        }
        parameters.iter_mut().for_each(parameter_v3);
        map.insert("parameters".into(), Value::Array(parameters));
    }
    if let Some(Value::Object(responses)) = map.get_mut("responses") {
        for response in responses.values_mut() {
            if let Some(schema) = response.as_object_mut().and_then(|r| r.remove("schema")) {
                response["content"] = content(&produces, &schema);
            }
        }
    }
}
