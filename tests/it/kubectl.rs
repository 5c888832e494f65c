//! Every kubectl command that people use, against the real executable with real pods, in a network
//! namespace of its own: a table of commands and of what they must print.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use crate::clients::{MINORS, client, python, well};
use crate::hosts::{Host, Lab, lacking};
use crate::lab::{eventually, has, skipped};

const WORKLOAD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: "hello from a pod"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: page, configMap: {name: page}}]
      containers:
      - name: web
        image: docker.io/library/sampan-test:1
        command: [httpd, -f, -p, "80", -h, /page]
        ports: [{containerPort: 80}]
        volumeMounts: [{name: page, mountPath: /page}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: fetch}
spec:
  backoffLimit: 20
  template:
    spec:
      restartPolicy: OnFailure
      containers:
      - name: c
        image: docker.io/library/sampan-test:1
        command: [wget, -qO-, "http://web.default.svc.cluster.local"]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec:
  selector: {matchLabels: {app: ds}}
  template:
    metadata: {labels: {app: ds}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "docker.io/library/sampan-test:1", command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: scratch, emptyDir: {}}]
  containers:
  - name: a
    image: docker.io/library/sampan-test:1
    command: [sh, -c, "echo started; sleep 2; echo done; exit 3"]
  - name: b
    image: docker.io/library/sampan-test:1
    resources: {requests: {cpu: 100m}, limits: {memory: 64Mi}}
    command: [sh, -c, "while sleep 1; do echo tick; done"]
"#;

const SLOW: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: slow}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "docker.io/library/sampan-test:1", command: [sh, -c, "echo one; sleep 3; echo two"]}]
"#;

/// Commands and what must be in what they print. `{pod}` is a pod of the deployment.
const LOOKS: &[(&str, &[&str])] = &[
    (
        "get all -A",
        &["pod/web-", "service/web", "deployment.apps/web   2/2     2            2", "replicaset.apps/web-"],
    ),
    ("get job", &["fetch   Complete   1/1"]),
    ("get cs", &["scheduler", "controller-manager   Healthy   ok", "etcd-0               Healthy   ok"]),
    ("get pods -o wide -l app=web", &["NOMINATED NODE", "10.42.0.", " h1 "]),
    ("get pods --show-labels -l app=ds", &["controller-revision-hash=", "pod-template-generation=1"]),
    ("get deploy,svc -o name", &["deployment.apps/web\nservice/kubernetes\nservice/web\n"]),
    (
        "get pod {pod} -o yaml",
        &["generation: 1\n", "observedGeneration: 1\n", "qosClass: BestEffort", "podIP: 10.42.0."],
    ),
    ("get pod {pod} -o json", &[r#""phase": "Running""#]),
    ("get node h1", &["h1     Ready    <none>", "v1.35."]),
    (
        "describe pod {pod}",
        &[
            "Status:           Running\n",
            "Controlled By:  ReplicaSet/web-",
            "Container ID:  containerd://",
            "Port:          80/TCP\n",
            "State:          Running\n",
            "Ready:          True\n    Restart Count:  0\n",
            "/page from page (rw)\n",
            "Ready                       True \n  ContainersReady             True \n  PodScheduled",
            "QoS Class:                   BestEffort\n",
            "Successfully assigned default/{pod} to h1",
            "Container created\n",
            "Container started\n",
        ],
    ),
    (
        "describe deploy web",
        &[
            "2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
            "Available      True    MinimumReplicasAvailable\n  Progressing    True    NewReplicaSetAvailable\n",
            "(2/2 replicas created)",
            "Scaled up replica set web-",
        ],
    ),
    ("describe rs", &["Controlled By:  Deployment/web", "2 Running / 0 Waiting / 0 Succeeded / 0 Failed"]),
    (
        "describe svc web",
        &[
            "Type:                     NodePort",
            "NodePort:                 <unset>  3",
            "Endpoints:                10.42.0.",
        ],
    ),
    (
        "describe node h1",
        &[
            "KubeletReady                 kubelet is posting ready status",
            "Unschedulable:      false",
            "HolderIdentity:  h1",
            "default                     two ",
            "100m (",
            "Node h1 status is now: NodeHasSufficientMemory",
        ],
    ),
    ("describe job fetch", &["0 Active (0 Ready) / 1 Succeeded / 0 Failed", "Completed ", "Job completed"]),
    ("describe ds ds", &["Number of Nodes Scheduled with Available Pods: 1", "Pods Status:  1 Running"]),
    ("describe ns default", &["Status:       Active"]),
    ("describe cm page", &["hello from a pod"]),
    ("describe sa default", &["Image pull secrets:  <none>"]),
    ("describe secret s", &["a:  1 bytes"]),
    ("logs job/fetch", &["hello from a pod"]),
    ("logs two -c b --tail=1", &["tick\n"]),
    ("logs two -c b --since=3s --timestamps", &["Z tick\n"]),
    ("logs two --all-containers --prefix", &["[pod/two/a] started\n", "[pod/two/b] tick\n"]),
    ("logs -l app=two -c b --tail=1", &["tick"]),
    ("logs two -c a --previous", &["started\ndone\n"]),
    ("events --for pod/{pod}", &["Container started"]),
    ("get events --field-selector involvedObject.name=fetch", &["job/fetch"]),
    ("api-resources", &["deployments", "poddisruptionbudgets", "horizontalpodautoscalers"]),
    ("api-versions", &["apps/v1\n", "rbac.authorization.k8s.io/v1\n"]),
    ("auth can-i create pods", &["yes"]),
    ("auth can-i --list", &["*.*  ", "[*]"]),
    ("auth whoami", &["system:masters"]),
    ("cluster-info", &["Kubernetes control plane"]),
    ("get --raw /readyz?verbose", &["readyz check passed"]),
    ("get --raw /api/v1/nodes/h1/proxy/healthz", &["ok"]),
    ("get --raw /api/v1/namespaces/default/services/web:80/proxy/", &["hello from a pod"]),
    ("wait --for=condition=Available deploy/web --timeout=5s", &["deployment.apps/web condition met"]),
    ("wait --for=jsonpath={.status.phase}=Running pod/two --timeout=5s", &["pod/two condition met"]),
    ("explain pod.spec.containers", &["FIELD: containers <[]Container>"]),
    ("rollout status ds/ds", &["daemon set \"ds\" successfully rolled out"]),
];

/// Commands that change something, in their order, and what must be in what they print.
const CHANGES: &[(&str, &[&str])] = &[
    ("set image deploy/web web=sampan-test:1", &["deployment.apps/web image updated"]),
    ("rollout status deploy/web --timeout=30s", &["deployment \"web\" successfully rolled out"]),
    ("annotate deploy web kubernetes.io/change-cause=second", &["deployment.apps/web annotated"]),
    ("rollout history deploy/web", &["1         <none>\n2         second\n"]),
    ("rollout history deploy/web --revision=2", &["revision #2", "Image:\tsampan-test:1"]),
    ("rollout undo deploy/web --to-revision=1", &["rolled back"]),
    ("rollout status deploy/web --timeout=30s", &["successfully rolled out"]),
    ("rollout pause deploy/web", &["paused"]),
    ("set env deploy/web A=b", &["env updated"]),
    ("get deploy web", &["web    2/2     0            2"]),
    ("rollout resume deploy/web", &["resumed"]),
    ("rollout status deploy/web --timeout=30s", &["successfully rolled out"]),
    ("rollout restart deploy/web", &["restarted"]),
    ("rollout status deploy/web --timeout=30s", &["successfully rolled out"]),
    ("expose deploy web --name web2 --type NodePort --port 80", &["service/web2 exposed"]),
    ("get svc web2", &["NodePort", "80:3"]),
    ("create deployment d --image=sampan-test:1 --replicas=2 -- sleep 1000", &["deployment.apps/d created"]),
    ("wait --for=jsonpath={.status.readyReplicas}=2 deploy/d --timeout=20s", &["condition met"]),
    ("scale deploy d --replicas=1", &["deployment.apps/d scaled"]),
    ("label deploy d x=y", &["labeled"]),
    ("label deploy d x=z --overwrite", &["labeled"]),
    ("edit deploy d", &["deployment.apps/d edited"]),
    ("get deploy d --show-labels", &["app=d,x=edited"]),
    ("patch deploy d -p {\"spec\":{\"paused\":true}}", &["patched"]),
    ("patch deploy d --type=merge -p {\"spec\":{\"paused\":null}}", &["patched"]),
    ("patch deploy d --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":2}]", &["patched"]),
    ("patch deploy d --subresource=scale --type=merge -p {\"spec\":{\"replicas\":1}}", &["patched"]),
    ("autoscale deploy d --min=1 --max=3 --cpu-percent=50", &["autoscaled"]),
    ("get hpa d", &["Deployment/d   cpu: <unknown>/50%   1         3         0"]),
    ("delete hpa d", &["deleted"]),
    ("delete pod -l app=d --grace-period=1", &["deleted"]),
    ("delete deploy d --cascade=orphan", &["deleted"]),
    ("get rs -l app=d", &["d-"]),
    ("delete pod -l app=d --force", &["force deleted"]),
    ("delete rs -l app=d --cascade=background", &["deleted"]),
    ("taint node h1 k=v:PreferNoSchedule", &["node/h1 tainted"]),
    ("taint node h1 k:PreferNoSchedule-", &["node/h1 untainted"]),
    ("cordon h1", &["node/h1 cordoned"]),
    ("get node", &["Ready,SchedulingDisabled"]),
    ("uncordon h1", &["node/h1 uncordoned"]),
    ("create job from --image=sampan-test:1 -- echo hi", &["job.batch/from created"]),
    ("wait --for=condition=complete job/from --timeout=20s", &["condition met"]),
    ("delete job from --cascade=foreground --timeout=20s", &["deleted"]),
    (
        "drain h1 --ignore-daemonsets --delete-emptydir-data --force --timeout=30s",
        &["ignoring DaemonSet-managed Pods: default/ds-", "pod/two evicted", "node/h1 drained"],
    ),
    ("get pods -l app=web", &["0/1     Pending"]),
    ("uncordon h1", &["node/h1 uncordoned"]),
    ("rollout status deploy/web --timeout=30s", &["successfully rolled out"]),
];

/// Commands that must fail, and how.
const REFUSALS: &[(&str, &str)] = &[
    ("logs nope", "pods \"nope\" not found"),
    ("logs {pod} --previous", "previous terminated container \"web\" in pod \"{pod}\" not found"),
    ("exec {pod} -- nope", "executable file not found"),
    ("top nodes", "Metrics API not available"),
    ("wait --for=condition=Nope pod/two --timeout=1s", "timed out waiting for the condition on pods/two"),
    ("drain h1 --timeout=5s", "cannot delete DaemonSet-managed Pods"),
    ("scale deploy web --replicas=1 --current-replicas=7", "Expected replicas to be 7, was 2"),
    ("rollout undo deploy/web --to-revision=99", "unable to find specified revision 99 in history"),
    ("get secrets --as system:serviceaccount:default:default", "cannot list resource \"secrets\""),
];

struct Cluster {
    host: Host,
    /// A pod of the deployment.
    pod: String,
    /// Which kubectl.
    program: String,
}

impl Cluster {
    /// kubectl with the words of a command.
    fn kubectl(&self, command: &str) -> Command {
        let mut c = self.host.kubectl_of(&self.program);
        c.args(command.split(' ').map(|w| w.replace("{pod}", &self.pod)));
        c.env("KUBE_EDITOR", "sed -i s/x:\\ z/x:\\ edited/");
        c
    }

    fn with_input(&self, command: &str, input: &str) -> Output {
        let mut c = self.kubectl(command);
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn prints(&self, table: &[(&str, &[&str])]) {
        for (command, fragments) in table {
            let out = self.kubectl(command).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "kubectl {command}:\n{text}");
            for f in *fragments {
                let f = f.replace("{pod}", &self.pod);
                assert!(text.contains(&f), "kubectl {command}: {f:?} is missing in:\n{text}");
            }
        }
    }

    fn refuses(&self, table: &[(&str, &str)]) {
        for (command, why) in table {
            let out = self.kubectl(command).output().unwrap();
            let text = String::from_utf8_lossy(&out.stderr);
            let why = why.replace("{pod}", &self.pod);
            assert!(!out.status.success() && text.contains(&why), "kubectl {command}: {why:?} is missing in:\n{text}");
        }
    }

    fn start(&self, command: &str) -> Child {
        self.kubectl(command).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A command on a terminal of 33 lines and 101 columns: its exit code and what it showed.
    fn on_terminal(&self, command: &str, input: &str) -> (i32, String) {
        let line = format!("stty rows 33 cols 101; exec kubectl {command}");
        let mut c = self.host.command("script");
        c.args(["-qec", &line, "/dev/null"]);
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut shown = Vec::new();
        let mut out = child.stdout.take().unwrap();
        // What is typed before there is a prompt would go to kubectl's own terminal.
        while !shown.ends_with(b"/ # ") {
            let mut byte = [0];
            assert_eq!(out.read(&mut byte).unwrap(), 1, "{command}: {}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        out.read_to_end(&mut shown).unwrap();
        (child.wait().unwrap().code().unwrap(), String::from_utf8_lossy(&shown).into_owned())
    }
}

fn terminals_and_pipes(c: &Cluster) {
    let (code, shown) = c.on_terminal("exec -it two -c b -- sh", "stty size; exit 5\n");
    assert!(code == 5 && shown.contains("33 101"), "exec -it: {code}\n{shown}");
    let run = "run shell -it --rm --image=sampan-test:1 --restart=Never -- sh";
    let (code, shown) = c.on_terminal(run, "echo one; stty size; exit 4\n");
    assert!(code == 4 && shown.contains("33 101") && shown.contains("pod \"shell\" deleted"), "run: {code}\n{shown}");
    assert_eq!(c.with_input("exec -i two -c b -- cat", "in and out").stdout, b"in and out");
    let out = c.kubectl("exec two -c b -- sh -c").arg("exit 7").output().unwrap();
    assert_eq!(out.status.code(), Some(7));
}

fn files(c: &Cluster) {
    let directory = c.host.kubeconfig().parent().unwrap().to_owned();
    let (local, back) = (directory.join("local"), directory.join("back"));
    let data: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&local, &data).unwrap();
    for command in [format!("cp {} two:/tmp/f -c b", local.display()), format!("cp two:/tmp/f {} -c b", back.display())]
    {
        c.prints(&[(&command, &[])]);
    }
    assert!(std::fs::read(back).unwrap() == data, "a file comes back as it went");
}

fn forwarded_ports(c: &Cluster) {
    for target in ["pod/{pod}", "svc/web"] {
        let mut child = c.start(&format!("port-forward {target} :80"));
        let mut line = String::new();
        // Kept: kubectl ends when nobody reads what it says of connections.
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let address = line.split(" -> ").next().unwrap().trim_start_matches("Forwarding from ");
        assert_eq!(c.host.reads(&format!("http://{address}/")).as_deref(), Some("hello from a pod"), "{target}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn streams_of_the_python_client(c: &Cluster) {
    let Some(python) = python("client.py") else { return };
    let mut command = c.host.command("env");
    command.args(python.get_envs().map(|(k, v)| format!("{}={}", k.display(), v.unwrap_or_default().display())));
    well(command.arg(python.get_program()).args(python.get_args()).arg(c.host.kubeconfig()).arg(&c.pod));
}

fn followed_logs_and_watches(c: &Cluster) {
    c.with_input("apply -f -", SLOW);
    c.prints(&[("wait --for=jsonpath={.status.ready}=1 job/slow --timeout=20s", &[])]);
    let mut child = c.start("logs -f job/slow");
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success() && text == "one\ntwo\n", "logs -f ends with its container: {text}");

    let mut child = c.start("get pods -w -l app=ds --no-headers");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap();
    c.prints(&[("delete pod -l app=ds --wait=false", &["deleted"])]);
    assert!(lines.any(|l| l.contains("Terminating")) && lines.any(|l| l.contains("ContainerCreating")));
    assert!(lines.any(|l| l.contains("Running") && l.split(' ').next() != first.split(' ').next()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn every_command_does_what_it_does_upstream() {
    if let Some(why) = lacking().or_else(|| (!has("script")).then(|| "script is not installed".to_owned())) {
        return skipped(&why);
    }
    let mut lab = Lab::new();
    let mut host = lab.host();
    host.serve(&[]);
    host.says("image imported");
    host.apply(WORKLOAD);
    host.kubectl(&["create", "secret", "generic", "s", "--from-literal=a=b"]);
    host.kubectl(&["rollout", "status", "deploy/web", "--timeout=30s"]);
    host.kubectl(&["wait", "--for=condition=complete", "job/fetch", "--timeout=30s"]);
    let again = ".status.containerStatuses[?(@.name==\"a\")].restartCount";
    eventually("a container was restarted", || host.words("pod two", again) != ["0"]);
    let pod = host.words("pods -l app=web", ".items[0].metadata.name").remove(0);
    let mut c = Cluster { host, pod, program: String::new() };
    // Newer minors talk other protocols for streams.
    let newer = MINORS.iter().filter_map(|m| Some(client(&format!("kubectl-1.{m}"))?.display().to_string()));
    for program in newer.chain(["kubectl".to_owned()]) {
        c.program = program;
        c.prints(LOOKS);
        c.refuses(REFUSALS);
        c.prints(&[("uncordon h1", &["uncordoned"])]);
        terminals_and_pipes(&c);
        files(&c);
        forwarded_ports(&c);
    }
    streams_of_the_python_client(&c);
    followed_logs_and_watches(&c);
    c.prints(CHANGES);
    let changed = c.with_input("diff -f -", &WORKLOAD.replace("replicas: 2", "replicas: 3"));
    assert!(String::from_utf8_lossy(&changed.stdout).contains("+  replicas: 3") && changed.status.code() == Some(1));
    let replaced = c.with_input("replace --force --grace-period=1 -f -", WORKLOAD);
    assert!(String::from_utf8_lossy(&replaced.stdout).contains("deployment.apps/web replaced"));
}
