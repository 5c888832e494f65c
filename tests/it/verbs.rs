//! What kubectl prints when it is pointed at one object of every kind at once: verbs as a script.
//!
//! `tests/verbs.txt` holds commands (after `$ `) and what each printed. `all.json` are the objects
//! of `tests/golden`; `changed.json` are the same with one more label; `rbac.json` are those of
//! RBAC. `GOLDEN=write` writes the answers anew; `GOLDEN_KUBECONFIG` asks another cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::golden::{changed, list, objects, settled, words};
use crate::lab::{Cluster, eventually};

/// Shown where an answer is too long to keep: as many lines, and these bits of a digest.
const KEPT: usize = 700;

struct Bench {
    kubeconfig: PathBuf,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new(kubeconfig: PathBuf) -> Bench {
        let bench = Bench { kubeconfig, directory: tempfile::tempdir().unwrap() };
        let all: Vec<Value> = crate::golden::all().into_iter().filter_map(outside_of_itself).collect();
        let labelled = all.iter().cloned().map(|mut o| {
            o["metadata"]["labels"]["changed"] = "yes".into();
            o
        });
        let rbac = |o: &&Value| o["apiVersion"].as_str().is_some_and(|v| v.starts_with("rbac."));
        bench.file("changed.json", &list(labelled));
        bench.file("rbac.json", &list(all.iter().filter(rbac).cloned()));
        bench.file("all.json", &list(all.into_iter()));
        bench
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// What a line of shell prints, without what varies.
    fn prints(&self, line: &str) -> String {
        let out = Command::new("sh")
            .args(["-c", &format!("{{ {line}; }} 2>&1")])
            .current_dir(self.directory.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.directory.path().join("cache"))
            .env("KUBECTL_EXTERNAL_DIFF", "diff -U0 -N -r")
            .env("TZ", "UTC")
            .output()
            .unwrap();
        shortened(&words(&String::from_utf8_lossy(&out.stdout)))
    }
}

/// An object that can be made and deleted beside all others.
fn outside_of_itself(mut object: Value) -> Option<Value> {
    if object["metadata"]["name"].is_null() {
        return None;
    }
    if object["kind"] == "Namespace" {
        object["metadata"]["name"] = "golden-alone".into();
    }
    Some(object)
}

/// Without headings of diffs; long answers as a digest.
fn shortened(text: &str) -> String {
    let noise =
        |l: &&str| !["diff -", "--- /", "@@ "].iter().any(|p| l.starts_with(p)) && !l.contains("WARNING: version");
    let place = regex::Regex::new(r"^\+\+\+ /tmp/MERGED-\d+/(\S+).*").unwrap();
    let lines: Vec<String> =
        text.lines().filter(noise).map(|l| place.replace(l, "+++ $1").trim_end().to_owned()).collect();
    if lines.len() > KEPT {
        // FNV-1a: only told apart from others, never trusted.
        let digest = lines
            .iter()
            .flat_map(|l| l.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        return format!("({} lines, {digest:016x})\n", lines.len());
    }
    lines.iter().map(|l| format!("{l}\n")).collect()
}

/// The commands of the script, and the answers.
fn parse(script: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in script.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), String::new())),
            (None, Some((_, answer))) => *answer += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    steps
}

#[test]
fn verbs_print_what_they_do_upstream_for_every_kind() {
    let other = std::env::var_os("GOLDEN_KUBECONFIG").map(PathBuf::from);
    let cluster = other.is_none().then(Cluster::start);
    let bench = Bench::new(other.unwrap_or_else(|| cluster.as_ref().unwrap().kubeconfig()));
    for name in ["golden", "golden-other"] {
        bench.prints(&format!("kubectl create namespace {name}"));
        let account = format!("kubectl get serviceaccount default -o name --namespace {name}");
        eventually("a namespace has its account", || bench.prints(&account).starts_with("serviceaccount/"));
    }
    // kubectl gives up on the document after half a minute; a busy machine takes as long to make it.
    let document = "kubectl get --raw /openapi/v2 | head -c 9";
    eventually("the API describes itself", || bench.prints(document).starts_with('{'));
    dry_runs_show_what_is_then_made(&bench);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs.txt");
    let script = std::fs::read_to_string(&path).unwrap();
    let heading: String = script.lines().take_while(|l| !l.starts_with("$ ")).map(|l| format!("{l}\n")).collect();
    let (mut is, mut wrong) = (heading, String::new());
    for (command, answer) in parse(&script) {
        let now = bench.prints(&command);
        if now != answer {
            wrong += &format!("$ {command}\n{}", changed(&answer, &now));
        }
        is += &format!("$ {command}\n{now}");
    }
    if std::env::var("GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(path, is).unwrap();
    } else {
        assert!(wrong.is_empty(), "not as in tests/verbs.txt (GOLDEN=write writes it anew):\n{wrong}");
    }
}

/// A dry run on the server answers what the same request then answers, and leaves nothing behind.
fn dry_runs_show_what_is_then_made(bench: &Bench) {
    let answers = |more: &str| {
        let text = bench.prints_whole(&format!("kubectl create -f all.json -o json {more}"));
        let mut all = objects(&text);
        all.iter_mut().for_each(|o| {
            settled(o);
            o["metadata"]["managedFields"] = json!(null);
        });
        all
    };
    let dry = answers("--dry-run=server");
    assert!(bench.prints("kubectl get -f all.json -o name").contains("NotFound"));
    let made = answers("");
    assert_eq!(dry.len(), made.len());
    for (dry, made) in dry.iter().zip(&made) {
        assert_eq!(dry, made);
    }
}

impl Bench {
    /// What is printed besides warnings, as it is.
    fn prints_whole(&self, line: &str) -> String {
        let mut c = Command::new("sh");
        c.args(["-c", line]).current_dir(self.directory.path()).env("KUBECONFIG", &self.kubeconfig);
        let out = c.env("KUBECACHEDIR", self.directory.path().join("cache")).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}
