//! Helm: a chart with a definition, hooks, a test and a look-up is installed, upgraded, rolled back
//! and taken away.

use std::path::Path;
use std::process::Command;

use crate::clients::{MINORS, client, said, well};
use crate::hosts::{Lab, lacking};
use crate::lab::{Cluster, eventually, skipped};

const CHART: &[(&str, &str)] = &[
    ("Chart.yaml", "apiVersion: v2\nname: boat\nversion: 0.1.0\n"),
    ("values.yaml", "colour: red\nreplicas: 0\n"),
    ("crds/sails.yaml", DEFINITION),
    ("templates/all.yaml", TEMPLATES),
];

const DEFINITION: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: sails.boats.example.com}
spec:
  group: boats.example.com
  scope: Namespaced
  names: {plural: sails, kind: Sail}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {colour: {type: string}}}}}}
";

const TEMPLATES: &str = r#"
{{- $account := lookup "v1" "ServiceAccount" .Release.Namespace "default" }}
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data:
  colour: {{ .Values.colour }}
  account: {{ dig "metadata" "name" "none" $account }}
  served: "{{ .Capabilities.APIVersions.Has "boats.example.com/v1/Sail" }} {{ .Capabilities.KubeVersion.Minor }}"
---
apiVersion: boats.example.com/v1
kind: Sail
metadata: {name: main}
spec: {colour: {{ .Values.colour }}}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: boat}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: boat}}
  template:
    metadata: {labels: {app: boat}}
    spec: {containers: [{name: c, image: "boat:{{ .Values.colour }}"}]}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: hook
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
data: {colour: {{ .Values.colour }}}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: test
  annotations: {helm.sh/hook: test, helm.sh/hook-delete-policy: hook-succeeded}
"#;

/// A chart whose hooks are jobs and whose test is a pod.
const AT_WORK: &[(&str, &str)] =
    &[("Chart.yaml", "apiVersion: v2\nname: crew\nversion: 0.1.0\n"), ("templates/all.yaml", WORK)];

const WORK: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: docker.io/library/sampan-test:1
        command: [sh, -c, "echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: before
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: before-hook-creation}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: docker.io/library/sampan-test:1, command: [sh, -c, "exit {{ .Values.ends | default 0 }}"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: test, annotations: {helm.sh/hook: test}}
spec:
  restartPolicy: Never
  containers: [{name: c, image: docker.io/library/sampan-test:1, command: [wget, -qO-, "http://web"]}]
"#;

fn write(chart: &[(&str, &str)], directory: &Path) {
    for (file, text) in chart {
        let path = directory.join("chart").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Gives a command of helm its words, and places of its own below `directory`.
fn helm(mut command: Command, directory: &Path, words: &str) -> Command {
    let chart = directory.join("chart").display().to_string();
    command.args(words.split(' ').map(|w| w.replace("{chart}", &chart))).arg("--namespace=sea");
    for place in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(place, directory.join("helm"));
    }
    command
}

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_taken_away() {
    for minor in MINORS {
        let Some(program) = client(&format!("helm-{minor}")) else { return };
        lives_of_a_release(&program);
    }
}

fn lives_of_a_release(program: &Path) {
    let c = Cluster::start();
    write(CHART, c.directory());
    let helm = |words: &str| {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", c.kubeconfig());
        helm(command, c.directory(), words)
    };
    let does = |words: &str| well(&mut helm(words));
    let field = |object: &[&str], path: &str| c.field(&[object, &["--namespace=sea"]].concat(), path);
    let colours = || [["cm", "one"], ["sail", "main"], ["cm", "hook"]].map(|o| field(&o, "..colour"));

    does("install one {chart} --create-namespace --wait --timeout 30s");
    assert_eq!(colours(), ["red", "red", "red"]);
    assert_eq!(field(&["cm", "one"], ".data.served"), "true 35");
    does("upgrade one {chart} --set colour=blue --wait --timeout 30s");
    assert_eq!(colours(), ["blue", "blue", "blue"]);
    assert_eq!(field(&["cm", "one"], ".data.account"), "default", "look-ups see the cluster");

    // No node: what wants a pod never gets ready, and what was there comes back.
    let broken = "upgrade one {chart} --set colour=green,replicas=1 --rollback-on-failure --timeout 2s";
    let (ended_well, text) = said(&mut helm(broken));
    assert!(!ended_well && text.contains("has been rolled back"), "{text}");
    assert_eq!(colours()[..2], ["blue", "blue"]);
    assert_eq!(field(&["deploy", "one"], ".spec.replicas"), "0");

    does("rollback one 1 --wait --timeout 30s");
    assert_eq!(colours()[..2], ["red", "red"]);
    let history = does("history one --max 9");
    for line in ["superseded\tboat-0.1.0", "failed    \tboat-0.1.0", "Rollback to 2", "Rollback to 1"] {
        assert!(history.contains(line), "{history}");
    }
    assert!(does("get manifest one").contains("kind: Sail") && does("get values one --all").contains("colour: red"));
    assert!(does("status one").contains("==> v1/Deployment\nNAME "), "tables");
    assert!(does("test one --timeout 30s").contains("Succeeded"));
    does("uninstall one --wait --timeout 30s");
    assert_eq!(c.kubectl(&["get", "deploy,svc,sails,secrets", "--namespace=sea", "-o", "name"]), "");
    assert_eq!(field(&["cm", "hook"], ".metadata.name"), "hook", "hooks are not part of a release");
}

#[test]
fn hooks_and_tests_run_as_pods() {
    let Some(program) = client(&format!("helm-{}", MINORS[0])) else { return };
    if let Some(why) = lacking() {
        return skipped(&why);
    }
    let mut lab = Lab::new();
    let mut host = lab.host();
    host.serve(&[]);
    host.says("image imported");
    let kubeconfig = host.kubeconfig();
    let directory = kubeconfig.parent().unwrap();
    write(AT_WORK, directory);
    let helm = |words: &str| helm(host.command(program.to_str().unwrap()), directory, words);
    eventually("the node is ready", || {
        host.words("nodes", ".items[0].status.conditions[?(@.type=='Ready')].status") == ["True"]
    });

    well(&mut helm("install crew {chart} --create-namespace --wait --timeout 60s"));
    let succeeded = || host.words("jobs before -n sea", ".status.succeeded");
    assert_eq!(succeeded(), ["1"], "the hook came before");
    assert_eq!(host.words("deploy web -n sea", ".status.readyReplicas"), ["1"], "and the release was waited for");
    let tested = well(&mut helm("test crew --logs --timeout 60s"));
    assert!(tested.contains("Succeeded") && tested.contains("hello"), "{tested}");

    let (ended_well, text) = said(&mut helm("upgrade crew {chart} --set ends=3 --wait --timeout 60s"));
    assert!(!ended_well && text.contains("pre-upgrade hooks failed"), "{text}");
    assert_eq!(host.words("jobs before -n sea", ".status.failed"), ["1"]);
    well(&mut helm("upgrade crew {chart} --wait --timeout 60s"));
    assert_eq!(succeeded(), ["1"]);
    well(&mut helm("uninstall crew --wait --timeout 60s"));
    let left = || host.kubectl(&["get", "deploy,svc,pods", "-n", "sea", "-l", "app=web", "-o", "name"]);
    eventually("nothing is left of the release", || left().is_empty());
}
