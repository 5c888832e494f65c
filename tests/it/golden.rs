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
use std::sync::atomic::{AtomicUsize, Ordering};
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

    fn answers(&self, golden: &Golden) -> Answers {
        let input = golden.object.to_string();
        // What is never stored cannot be looked at.
        let virtual_kind = golden.object["metadata"]["name"].is_null();
        let verb = if virtual_kind { "create" } else { "apply" };
        let (stored, error) = self.run(&[verb, "-f", "-", "-o", "json"], &input);
        let mut answers = Answers { refusals: self.refusals(golden), ..Answers::default() };
        answers.stored = serde_json::from_str(&stored).unwrap_or(Value::String(error));
        settled(&mut answers.stored);
        if !virtual_kind {
            answers.row = row(&self.run(&["get", "-f", "-", "-o", "wide"], &input).0);
            answers.description = description(&self.run(&["describe", "-f", "-"], &input).0);
        }
        answers
    }

    /// In the order of the words: a client may send them in any order.
    fn refusals(&self, golden: &Golden) -> Vec<String> {
        if golden.bad.is_empty() {
            return Vec::new();
        }
        let items = golden.bad.iter().map(|patch| {
            let mut object = golden.object.clone();
            merge(&mut object, patch);
            object
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()});
        let (taken, refused) = self.run(&["create", "--dry-run=server", "-f", "-"], &list.to_string());
        let one = "Error from server";
        let mut all: Vec<String> = format!("{taken}\n{refused}")
            .replace(" when creating \"STDIN\"", "")
            .split(&format!("\n{one}"))
            .map(|s| s.trim().trim_start_matches(one).trim().to_owned())
            .filter(|s| !s.is_empty())
            .collect();
        all.sort();
        all
    }
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

/// Takes away what no two clusters have in common.
fn settled(v: &mut Value) {
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
        ("kube-api-access-[a-z0-9]{5}", "kube-api-access-X"),
        (r"\b10\.43\.\d+\.\d+\b", "IP"),
        (r"\w{3}, \d\d \w{3} 20\d\d \d\d:\d\d:\d\d [+-]\d{4}", "DATE"),
        (r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "DATE"),
        (r"gold-[bcdf0-9][bcdf0-9-z]{7,9}\b", "gold-HASH"),
        (r"(?m)^(\s*Resource Version|\s*UID):.*\n", ""),
    ]
    .map(|(r, with)| (regex::Regex::new(r).unwrap(), with))
    .to_vec()
});

fn words(s: &str) -> String {
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
            let value = if matches!(name.as_str(), "AGE" | "LAST SEEN" | "FIRST SEEN") { "T".into() } else { cell(line) };
            out += &format!("{name}: {}\n", words(&value));
        }
    }
    out
}

/// Without events, which come when they come.
fn description(text: &str) -> String {
    let text = words(text);
    let lines = text.lines().take_while(|l| !l.starts_with("Events:")).map(str::trim_end);
    // kubectl shows of an unordered map what comes first.
    lines.map(|l| if l.starts_with("CreationTimestamp") || l.starts_with("Start Time") { "T" } else { l }).fold(
        String::new(),
        |all, l| {
            let squeezed = l.split_inclusive("  ").map(|w| if w == "  " { "" } else { w }).collect::<String>();
            all + squeezed.trim_end() + "\n"
        },
    )
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

/// Runs `each` for all, a few at a time.
fn together<T: Sync>(all: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(one);
                }
            });
        }
    });
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
    // Objects refer to others; the first look is at what has settled.
    together(&all, |(_, g)| drop(kubectl.run(&["apply", "-f", "-"], &g.object.to_string())));
    let writes = std::env::var("GOLDEN").is_ok_and(|v| v == "write");
    if writes {
        std::thread::sleep(Duration::from_secs(3));
    }
    let start = Instant::now();
    let wrong = std::sync::Mutex::new(BTreeMap::new());
    together(&all, |(path, golden)| {
        let mut answers = kubectl.answers(golden);
        while !writes && answers != golden.answers && start.elapsed() < SETTLES {
            std::thread::sleep(Duration::from_millis(300));
            answers = kubectl.answers(golden);
        }
        if writes {
            let golden = Golden { answers, ..golden.clone() };
            std::fs::write(path, serde_yaml::to_string(&golden).unwrap()).unwrap();
        } else if answers != golden.answers {
            let [was, is] = [&golden.answers, &answers].map(|a| serde_yaml::to_string(a).unwrap());
            wrong.lock().unwrap().insert(path.clone(), changed(&was, &is));
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let report: String = wrong.iter().map(|(p, d)| format!("{}\n{d}\n", p.display())).collect();
    assert!(wrong.is_empty(), "not as in the files (GOLDEN=write writes them anew):\n{report}");
}

/// The lines that only one of the two has.
fn changed(was: &str, is: &str) -> String {
    let only = |sign: &'static str, a: &str, b: &str| {
        let b: Vec<&str> = b.lines().collect();
        a.lines().filter(|l| !b.contains(l)).map(|l| format!("{sign}{l}\n")).collect::<String>()
    };
    only("-", was, is) + &only("+", is, was)
}
