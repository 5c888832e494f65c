"""What programs written with the official Python client do. Takes a kubeconfig, and the name of a
running pod where there is one; ends with an exception when something is not as upstream."""

import datetime
import os
import sys
import threading
import uuid

import kubernetes
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

kubeconfig = sys.argv[1]
pod = sys.argv[2] if len(sys.argv) > 2 else None
config.load_kube_config(kubeconfig)
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
NAMESPACE = "python"


def check(what, is_, expected):
    assert is_ == expected, f"{what}: {is_!r}, not {expected!r}"


def config_map(name, value):
    metadata = client.V1ObjectMeta(name=name, labels={"test": "python"})
    return client.V1ConfigMap(metadata=metadata, data={"a": value})


def refused(status, reason, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except client.exceptions.ApiException as e:
        check("status", e.status, status)
        assert f'"reason":"{reason}"' in e.body.replace('": "', '":"'), e.body
        return
    raise AssertionError(f"{call} was not refused")


def typed():
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    made = core.create_namespaced_config_map(NAMESPACE, config_map("one", "1"))
    assert isinstance(made.metadata.creation_timestamp, datetime.datetime)
    made.data["b"] = "2"
    check("data", core.replace_namespaced_config_map("one", NAMESPACE, made).data, {"a": "1", "b": "2"})
    refused(409, "Conflict", core.replace_namespaced_config_map, "one", NAMESPACE, made)
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, config_map("one", "1"))
    refused(404, "NotFound", core.read_namespaced_config_map, "nothing", NAMESPACE)
    refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, config_map("No_Name", "1"))
    core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"b": None}})
    core.patch_namespaced_config_map("one", NAMESPACE, [{"op": "add", "path": "/data/c", "value": "3"}])
    check("data", core.read_namespaced_config_map("one", NAMESPACE).data, {"a": "1", "c": "3"})
    for i in range(3):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{i}", "1"))
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="test=python", limit=1, _continue=token)
        names += [m.metadata.name for m in page.items]
        token = page.metadata._continue or ""
    check("pages", names, ["one", "page-0", "page-1", "page-2"])
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }
    check("strategy", apps.create_namespaced_deployment(NAMESPACE, deployment).spec.strategy.type, "RollingUpdate")
    apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
    check("scale", apps.read_namespaced_deployment_scale("web", NAMESPACE).spec.replicas, 1)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="test=python")
    check("version", client.VersionApi().get_code().major, "1")


def watched():
    seen, stream = [], watch.Watch()
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def changes():
        core.create_namespaced_config_map(NAMESPACE, config_map("seen", "1"))
        core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"a": "2"}})
        core.delete_namespaced_config_map("seen", NAMESPACE)

    thread = threading.Timer(0.2, changes)
    thread.start()
    arguments = {"resource_version": version, "label_selector": "test=python", "timeout_seconds": 30}
    for event in stream.stream(core.list_namespaced_config_map, NAMESPACE, **arguments):
        seen.append((event["type"], event["object"].data["a"]))
        if event["type"] == "DELETED":
            stream.stop()
    thread.join()
    check("events", seen, [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")])


DOCUMENTS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: oars.boats.example.com}
spec:
  group: boats.example.com
  scope: Namespaced
  names: {plural: oars, singular: oar, kind: Oar}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.count, statusReplicasPath: .status.count}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {count: {type: integer, default: 2, maximum: 8}}}
          status: {type: object, properties: {count: {type: integer}}}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: python}
stringData: {a: b}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: builder, namespace: python}}
- {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: python}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
"""


def from_files(directory):
    path = f"{directory}/documents.yaml"
    with open(path, "w") as file:
        file.write(DOCUMENTS)
    utils.create_from_yaml(client.ApiClient(), path)
    check("secret", core.read_namespaced_secret("s", NAMESPACE).data, {"a": "Yg=="})
    try:
        utils.create_from_yaml(client.ApiClient(), path)
    except utils.FailToCreateError as e:
        check("all exist", {x.status for x in e.api_exceptions}, {409})
    token = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    assert core.create_namespaced_service_account_token("builder", NAMESPACE, token).status.token


def dynamically():
    d = dynamic.DynamicClient(client.ApiClient())
    definitions = d.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    for event in d.watch(definitions, name="oars.boats.example.com", timeout=30):
        status = event["raw_object"].get("status", {})
        if any(c["type"] == "Established" and c["status"] == "True" for c in status.get("conditions", [])):
            break
    d.resources.invalidate_cache()
    oars = d.resources.get(api_version="boats.example.com/v1", kind="Oar")
    body = {"apiVersion": "boats.example.com/v1", "kind": "Oar", "metadata": {"name": "left"}, "spec": {}}
    check("default", oars.create(body=body, namespace=NAMESPACE).spec["count"], 2)
    check("status", oars.status.patch(name="left", namespace=NAMESPACE, body={"status": {"count": 2}},
                                      content_type="application/merge-patch+json").status["count"], 2)
    body["spec"]["count"] = 5
    check("applied", oars.server_side_apply(body=body, name="left", namespace=NAMESPACE,
                                            field_manager="python", force_conflicts=True).spec["count"], 5)
    scale = custom.get_namespaced_custom_object_scale("boats.example.com", "v1", NAMESPACE, "oars", "left")
    check("scale", scale["spec"]["replicas"], 5)
    body["spec"]["count"] = 9
    try:
        oars.replace(body=dict(oars.get(name="left", namespace=NAMESPACE).to_dict(), spec=body["spec"]), namespace=NAMESPACE)
        raise AssertionError("a value above its maximum was taken")
    except dynamic.exceptions.UnprocessibleEntityError:
        pass
    check("kinds of one name", {r.group_version for r in d.resources.search(kind="Event")}, {"v1", "events.k8s.io/v1"})
    oars.delete(name="left", namespace=NAMESPACE)


def elected():
    name, led = f"one-{uuid.uuid4()}", threading.Event()
    lock = LeaseLock("leader", NAMESPACE, name)

    def leading():
        led.set()

    settings = electionconfig.Config(lock, lease_duration=4, renew_deadline=3, retry_period=1,
                                     onstarted_leading=leading, onstopped_leading=lambda: None)
    threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()
    assert led.wait(20), "nobody leads"
    lease = client.CoordinationV1Api().read_namespaced_lease("leader", NAMESPACE)
    check("holder", lease.spec.holder_identity, name)


def executed():
    from kubernetes.stream import stream
    say = {"command": ["sh", "-c", "echo out; echo err >&2; exit 3"], "stderr": True, "stdin": False, "stdout": True, "tty": False}
    answer = stream(core.connect_get_namespaced_pod_exec, pod, "default", _preload_content=False, **say)
    answer.run_forever(timeout=20)
    check("exec", (answer.read_stdout(), answer.read_stderr(), answer.returncode), ("out\n", "err\n", 3))
    shell = {"command": ["sh"], "stderr": True, "stdin": True, "stdout": True, "tty": False}
    answer = stream(core.connect_get_namespaced_pod_exec, pod, "default", _preload_content=False, **shell)
    answer.write_stdin("echo $((6*7))\n")
    check("stdin", answer.readline_stdout(timeout=20), "42")
    answer.write_stdin("exit\n")
    answer.run_forever(timeout=20)
    check("log", core.read_namespaced_pod_log(pod, "default"), "")


if pod:
    executed()
else:
    typed()
    watched()
    from_files(kubeconfig.rsplit("/", 1)[0])
    dynamically()
    elected()
print("python client", kubernetes.__version__, "is content", flush=True)
os._exit(0)  # the leader's thread has no end of its own
