//! One object of every kind: what is stored of it, its row, its description, and what is said of bad
//! ones. `tests/golden/<plural>.yaml` holds the object, changes that make it bad, and the answers,
//! which were compared with upstream's.
//!
//! `GOLDEN=write` writes the answers anew; `GOLDEN_KUBECONFIG` asks another cluster, and
//! `GOLDEN_DIRECTORY` takes the files from another place: together they show what upstream says.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lab::{Cluster, eventually};

/// How long controllers may take until an object is as it stays.
const SETTLES: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Golden {
    /// What is applied.
    object: Value,
    /// Merge patches, each of which makes it bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bad: Vec<Value>,
    #[serde(flatten)]
    answers: Answers,
}

#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Answers {
    /// What is said of the bad ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refusals: Vec<String>,
    stored: Value,
    /// The fields that kubectl manages behind an apply of the client's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    managed: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    row: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
}

struct Kubectl {
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    fn run(&self, arguments: &[&str], input: &str) -> (String, String) {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(arguments)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    }

    /// What is said of all of them, in their order.
    fn answers(&self, all: &[(PathBuf, Golden)]) -> Vec<Answers> {
        let mut answers = vec![Answers::default(); all.len()];
        // What is never stored has no name and cannot be looked at.
        let (named, nameless): (Vec<usize>, Vec<usize>) =
            (0..all.len()).partition(|i| !all[*i].1.object["metadata"]["name"].is_null());
        for (verb, which) in [("apply", &named), ("create", &nameless)] {
            let list = list(which.iter().map(|i| all[*i].1.object.clone()));
            let (stored, error) = self.run(&[verb, "-f", "-", "-o", "json", "--show-managed-fields"], &list);
            for (i, mut object) in one_each(which, objects(&stored), &error) {
                answers[i].managed = managed(&mut object);
                settled(&mut object);
                answers[i].stored = object;
            }
        }
        let list = list(named.iter().map(|i| all[*i].1.object.clone()));
        let (tables, error) = self.run(&["get", "-f", "-", "-o", "wide"], &list);
        for (i, table) in one_each(&named, tables.trim_end().split("\n\n").map(str::to_owned).collect(), &error) {
            answers[i].row = row(&table);
        }
        let (descriptions, error) = self.run(&["describe", "-f", "-"], &list);
        let each = format!("\n{descriptions}").split("\nName:").skip(1).map(|d| format!("Name:{d}")).collect();
        for (i, text) in one_each(&named, each, &error) {
            answers[i].description = description(&text);
        }
        self.refusals(all, &mut answers);
        answers
    }

    /// Asked when the objects exist, so that a bad one that is taken for good is refused as well.
    fn refusals(&self, all: &[(PathBuf, Golden)], answers: &mut [Answers]) {
        let bad = |(i, (_, g)): (usize, &(PathBuf, Golden))| {
            let object = g.object.clone();
            g.bad.clone().into_iter().map(move |patch| {
                let mut object = object.clone();
                merge(&mut object, &patch);
                (i, object)
            })
        };
        let (which, objects): (Vec<usize>, Vec<Value>) = all.iter().enumerate().flat_map(bad).unzip();
        let (_, said) =
            self.run(&["create", "--dry-run=server", "--validate=false", "-f", "-"], &list(objects.into_iter()));
        // A message may have several lines.
        let mut each: Vec<String> = Vec::new();
        for line in said.replace(": error when creating \"STDIN\"", "").lines() {
            if line.starts_with("Error from server") || line.starts_with("The ") {
                each.push(line.to_owned());
            } else if !line.starts_with("Warning: ") {
                let last = each.last_mut().unwrap_or_else(|| panic!("{said}"));
                *last += "\n";
                *last += line;
            }
        }
        for (i, said) in one_each(&which, each, &said) {
            answers[i].refusals.push(said);
        }
    }
}

pub fn list(items: impl Iterator<Item = Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()}).to_string()
}

/// The objects that kubectl printed, as a list or one after the other.
pub fn objects(printed: &str) -> Vec<Value> {
    let all = serde_json::Deserializer::from_str(printed).into_iter::<Value>().map(Result::unwrap);
    all.flat_map(|v| match v {
        Value::Object(mut list) if list.get("kind").is_some_and(|k| k == "List") => {
            serde_json::from_value::<Vec<Value>>(list["items"].take()).unwrap()
        }
        one => vec![one],
    })
    .collect()
}

fn one_each<T>(which: &[usize], all: Vec<T>, error: &str) -> Vec<(usize, T)> {
    assert_eq!(which.len(), all.len(), "kubectl answered for another number of objects:\n{error}");
    which.iter().copied().zip(all).collect()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            target.as_object_mut().unwrap().remove(k);
        } else {
            merge(&mut target[k], v);
        }
    }
}

/// Takes the managed fields out of an object, and tells those of kubectl as paths.
fn managed(object: &mut Value) -> Vec<String> {
    fn paths(at: &str, fields: &Value, all: &mut Vec<String>) {
        for (name, below) in fields.as_object().unwrap() {
            let path = format!("{at}{}{name}", if at.is_empty() { "" } else { "/" });
            if below.as_object().unwrap().is_empty() {
                all.push(path);
            } else {
                paths(&path, below, all);
            }
        }
    }
    let entries = object["metadata"].as_object_mut().and_then(|m| m.remove("managedFields")).unwrap_or_default();
    let mut all = Vec::new();
    for entry in entries.as_array().into_iter().flatten().filter(|e| e["manager"] == "kubectl-client-side-apply") {
        paths("", &entry["fieldsV1"], &mut all);
    }
    all.sort();
    all
}

/// Takes away what no two clusters have in common.
pub fn settled(v: &mut Value) {
    match v {
        Value::Object(map) => {
            for k in ["uid", "creationTimestamp", "resourceVersion", "kubectl.kubernetes.io/last-applied-configuration"]
            {
                map.remove(k);
            }
            for k in ["clusterIP", "clusterIPs"] {
                if map.contains_key(k) {
                    map.insert(k.to_owned(), json!("IP"));
                }
            }
            map.values_mut().for_each(settled);
        }
        Value::Array(all) => all.iter_mut().for_each(settled),
        Value::String(s) => *s = words(s),
        _ => {}
    }
}

static VARYING: LazyLock<Vec<(regex::Regex, &str)>> = LazyLock::new(|| {
    let uid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    [
        (uid, "UID"),
        ("X509SHA256=[0-9a-f]{64}", "X509SHA256"),
        ("kube-api-access-[a-z0-9]{5}", "kube-api-access-X"),
        (r"\b10\.43\.\d+\.\d+\b", "IP"),
        (r"\w{3}, \d\d \w{3} 20\d\d \d\d:\d\d:\d\d [+-]\d{4}", "DATE"),
        (r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(Z| [+-]\d{4} UTC)", "DATE"),
        (r"gold-[bcdfghjklmnpqrstvwxz0-9]{7,10}\b", "gold-HASH"),
        (r"(?m)^(\s*Resource Version|\s*UID):.*\n", ""),
    ]
    .map(|(r, with)| (regex::Regex::new(r).unwrap(), with))
    .to_vec()
});

pub fn words(s: &str) -> String {
    VARYING.iter().fold(s.to_owned(), |s, (r, with)| r.replace_all(&s, *with).into_owned())
}

/// A table with its columns in one line each, without ages.
fn row(table: &str) -> String {
    let mut lines = table.lines();
    let Some(header) = lines.next() else { return String::new() };
    let bounds: Vec<usize> =
        std::iter::once(0).chain(regex::Regex::new("   *").unwrap().find_iter(header).map(|m| m.end())).collect();
    let mut out = String::new();
    for line in lines {
        for (i, start) in bounds.iter().enumerate() {
            let end = bounds.get(i + 1).copied().unwrap_or(usize::MAX);
            let cell = |l: &str| l.chars().skip(*start).take(end - *start).collect::<String>().trim().to_owned();
            let name = cell(header);
            let value =
                if matches!(name.as_str(), "AGE" | "LAST SEEN" | "FIRST SEEN") { "T".into() } else { cell(line) };
            out += &format!("{name}: {}\n", words(&value));
        }
    }
    out
}

/// Without events, which come when they come.
fn description(text: &str) -> String {
    let text = words(text);
    let lines = text.lines().take_while(|l| !l.starts_with("Events:")).map(str::trim_end);
    let spaces = regex::Regex::new("(\\S)   *").unwrap();
    lines.fold(String::new(), |all, l| all + &spaces.replace_all(l, "$1  ") + "\n")
}

/// The objects alone.
pub fn all() -> Vec<Value> {
    read().into_iter().map(|(_, g)| g.object).collect()
}

fn directory() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("GOLDEN_DIRECTORY").map_or_else(own, PathBuf::from)
}

fn read() -> Vec<(PathBuf, Golden)> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(directory()).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    let parse = |p: PathBuf| {
        let text = std::fs::read_to_string(&p).unwrap();
        let golden = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
        (p, golden)
    };
    all.into_iter().map(parse).collect()
}

#[test]
fn an_object_of_every_kind_reads_as_upstream() {
    let other = std::env::var_os("GOLDEN_KUBECONFIG").map(PathBuf::from);
    let cluster = other.is_none().then(Cluster::start);
    let kubeconfig = other.unwrap_or_else(|| cluster.as_ref().unwrap().kubeconfig());
    let cache = tempfile::tempdir().unwrap();
    let kubectl = Kubectl { kubeconfig, cache: cache.path().to_owned() };
    let all = read();
    let (_, namespace) = all.iter().find(|(p, _)| p.ends_with("namespaces.yaml")).unwrap();
    for name in ["golden", "golden-other"] {
        let mut object = namespace.object.clone();
        object["metadata"]["name"] = name.into();
        kubectl.run(&["apply", "-f", "-"], &object.to_string());
        let account = ["get", "serviceaccount", "default", "-o", "name", "--namespace", name];
        eventually("a namespace has its account", || !kubectl.run(&account, "").0.is_empty());
    }
    let writes = std::env::var("GOLDEN").is_ok_and(|v| v == "write");
    // A busy machine takes its time to make the document that kubectl wants first.
    eventually("the API describes itself", || kubectl.run(&["get", "--raw", "/openapi/v2"], "").0.starts_with('{'));
    if writes {
        kubectl.answers(&all);
        std::thread::sleep(Duration::from_secs(5));
    }
    let mut answers = kubectl.answers(&all);
    let start = Instant::now();
    let same = |answers: &[Answers]| all.iter().zip(answers).all(|((_, g), a)| g.answers == *a);
    while !writes && !same(&answers) && start.elapsed() < SETTLES {
        std::thread::sleep(Duration::from_millis(500));
        // What once was as it stays has settled: a node without a kubelet is given up later.
        for ((now, was), (_, golden)) in kubectl.answers(&all).into_iter().zip(&mut answers).zip(&all) {
            if *was != golden.answers {
                *was = now;
            }
        }
    }
    let mut wrong = BTreeMap::new();
    for ((path, golden), answers) in all.iter().zip(answers) {
        if writes {
            let golden = Golden { answers, ..golden.clone() };
            std::fs::write(path, serde_yaml::to_string(&golden).unwrap()).unwrap();
        } else if answers != golden.answers {
            let [was, is] = [&golden.answers, &answers].map(|a| serde_yaml::to_string(a).unwrap());
            wrong.insert(path.clone(), changed(&was, &is));
        }
    }
    let report: String = wrong.iter().map(|(p, d)| format!("{}\n{d}\n", p.display())).collect();
    assert!(wrong.is_empty(), "not as in the files (GOLDEN=write writes them anew):\n{report}");
}

/// The lines that only one of the two has.
pub fn changed(was: &str, is: &str) -> String {
    let only = |sign: &'static str, a: &str, b: &str| {
        let b: Vec<&str> = b.lines().collect();
        a.lines().filter(|l| !b.contains(l)).map(|l| format!("{sign}{l}\n")).collect::<String>()
    };
    only("-", was, is) + &only("+", is, was)
}
