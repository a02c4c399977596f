"""What every pod here has to have: our image, Ray's ports, known variables, a token, time to drain, few rights."""

import re
from typing import Any

from checks.commands import command_problems, flag_problems
from checks.facts import DATA, DRAIN_SECONDS, IMAGES, PORTS, RAY_VERSION, USER, is_variable
from checks.ray_resources import cluster_of, templates_of

SECRETS = {
    "RAY_AUTH_TOKEN": ("forebear-ray-token", "auth_token"),
    "PGPASSWORD": ("forebear-database", "password"),
    "AWS_ACCESS_KEY_ID": ("forebear-object-storage", "access-key-id"),
    "AWS_SECRET_ACCESS_KEY": ("forebear-object-storage", "secret-access-key"),
}
"""Variables that come from a secret, and from nowhere else."""
HEAD_HEALTH, AGENT_HEALTH, SERVE_HEALTH = "/api/gcs_healthz", "/api/local_raylet_healthz", "/-/healthz"
"""Which Ray answers without its token."""
PROBES = {
    ("head", "dashboard"): {HEAD_HEALTH},
    ("worker", "agent"): {AGENT_HEALTH},
    ("worker", "serve"): {SERVE_HEALTH},
}
NAME, COMPONENT, ROLE = "app.kubernetes.io/name", "app.kubernetes.io/component", "ray.io/node-type"
LABELS = {NAME: {"forebear"}, COMPONENT: {"serve", "embed"}, ROLE: {"head", "worker"}}
"""Of pods, by which policies, budgets and monitors select them; the last one is KubeRay's."""
BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def selector_problems(labels: dict[str, str], where: str) -> list[str]:
    """A selector of labels that no pod has selects nothing, and nobody is told."""
    return [
        f"{where}: no pod has the label {name}: {value}"
        for name, value in labels.items()
        if value not in LABELS.get(name, set())
    ]


def pod_problems(resource: dict[str, Any], where: str) -> list[str]:
    """Of a RayService or RayJob."""
    cluster, found = cluster_of(resource), []
    if cluster.get("rayVersion") != RAY_VERSION:
        found.append(f"{where}: rayVersion is {cluster.get('rayVersion')}, and constraints.txt has ray {RAY_VERSION}")
    if cluster.get("authOptions", {}).get("secretName") != SECRETS["RAY_AUTH_TOKEN"][0]:
        found.append(f"{where}: authOptions.secretName is {cluster.get('authOptions', {}).get('secretName')}")
    groups = [cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])]
    for name, template, group in zip(templates_of(resource), templates_of(resource).values(), groups, strict=True):
        here, pod = f"{where} {name}", template.get("spec", {})
        work = {"RayService": "serve", "RayJob": "embed"}[resource["kind"]]
        if template.get("metadata", {}).get("labels") != {NAME: "forebear", COMPONENT: work}:
            found.append(f"{here}: labels are not those of {work}, by which policies select it")
        for spread in pod.get("topologySpreadConstraints", []):
            found += selector_problems(spread.get("labelSelector", {}).get("matchLabels", {}), here)
        found += _rights(pod, here)
        found += flag_problems(["ray", "start", *(f"--{flag}" for flag in group.get("rayStartParams", {}))], here)
        for container in pod.get("containers", []):
            found += _container(container, "head" if name == "head" else "worker", here)
            found += _memory(container, pod, group.get("rayStartParams", {}), here)
        found += _drain(resource["kind"], pod, here)
    if "entrypoint" in resource["spec"]:
        found += command_problems(resource["spec"]["entrypoint"], where)
    return found


def _container(container: dict[str, Any], role: str, where: str) -> list[str]:
    found = [
        f"{where}: port {port} is not what the code listens on: {PORTS}"
        for port in container.get("ports", [])
        if PORTS.get(port.get("name")) != port.get("containerPort")
    ]
    if container.get("image") not in IMAGES:
        found.append(f"{where}: image {container.get('image')} is none of {sorted(IMAGES)}")
    found += _variables(container.get("env", []), where)
    named = {port.get("name") for port in container.get("ports", [])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("port") not in named or asked.get("path") not in PROBES.get((role, asked.get("port")), set()):
            found.append(f"{where}: {probe} asks {asked}, which nothing answers there")
    places = {mount.get("mountPath") for mount in container.get("volumeMounts", [])}
    found += [
        f"{where}: nothing is mounted at {place}" for place in {DATA, "/dev/shm", "/tmp", "/home/forebear"} - places
    ]
    resources = container.get("resources", {})
    for kind in ("requests", "limits"):
        found += [f"{where}: no {kind} of {what}" for what in ("cpu", "memory") if what not in resources.get(kind, {})]
    if resources.get("requests", {}).get("memory") != resources.get("limits", {}).get("memory"):
        found.append(f"{where}: memory that is limited has to be requested: Ray plans with all of it")
    return found


def _variables(env: list[dict[str, Any]], where: str) -> list[str]:
    found = [
        f"{where}: nothing reads the variable {one.get('name')}" for one in env if not is_variable(str(one.get("name")))
    ]
    by_name = {one.get("name"): one for one in env}
    if by_name.get("RAY_AUTH_MODE", {}).get("value") != "token":
        found.append(f"{where}: RAY_AUTH_MODE is not token")
    for name, (secret, key) in SECRETS.items():
        if name not in by_name:
            if name == "RAY_AUTH_TOKEN":
                found.append(f"{where}: RAY_AUTH_TOKEN is missing")
            continue
        source = by_name[name].get("valueFrom", {}).get("secretKeyRef", {})
        if (source.get("name"), source.get("key")) != (secret, key):
            found.append(f"{where}: {name} is not taken from the key {key} of the secret {secret}")
    run = by_name.get("FOREBEAR_RUN", {}).get("value", DATA)
    return found + ([] if run.startswith(DATA) else [f"{where}: FOREBEAR_RUN is {run}, outside of {DATA}"])


def _rights(pod: dict[str, Any], where: str) -> list[str]:
    """Pods that the level `restricted` of Pod Security admits, with a root file system that nobody writes."""
    of_pod, found = pod.get("securityContext", {}), []
    if not of_pod.get("runAsNonRoot") or of_pod.get("runAsUser") != USER or of_pod.get("runAsGroup") != USER:
        found.append(f"{where}: the pod has to run as {USER}, which is not root")
    if of_pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append(f"{where}: seccompProfile is not RuntimeDefault")
    if pod.get("automountServiceAccountToken") is not False:
        found.append(f"{where}: the pod is given a token of the Kubernetes API")
    for container in pod.get("containers", []):
        own = container.get("securityContext", {})
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            found.append(f"{where}: the container keeps capabilities")
        if own.get("allowPrivilegeEscalation") is not False or own.get("readOnlyRootFilesystem") is not True:
            found.append(f"{where}: the container may gain rights, or write its root file system")
    return found


def _drain(kind: str, pod: dict[str, Any], where: str) -> list[str]:
    """Ray waits as long as a request may last, and Kubernetes longer than Ray."""
    env = {one.get("name"): one.get("value") for one in pod.get("containers", [{}])[0].get("env", [])}
    waits = float(env.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 0)
    found = []
    if kind == "RayService" and waits < DRAIN_SECONDS:
        found.append(f"{where}: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is {waits}; a replica may need {DRAIN_SECONDS}")
    if pod.get("terminationGracePeriodSeconds", 30) <= waits:
        found.append(f"{where}: terminationGracePeriodSeconds is not above the {waits} s that Ray waits")
    return found


def _memory(container: dict[str, Any], pod: dict[str, Any], start: dict[str, str], where: str) -> list[str]:
    """Ray's object store fits into /dev/shm, and that into the container's memory."""
    names = {mount.get("mountPath"): mount.get("name") for mount in container.get("volumeMounts", [])}
    volumes = {one.get("name"): one for one in pod.get("volumes", [])}
    shared = volumes.get(names.get("/dev/shm"), {}).get("emptyDir", {})
    if shared.get("medium") != "Memory":
        return [f"{where}: /dev/shm is not a volume in memory"]
    room, limit = (
        size(shared.get("sizeLimit", "0")),
        size(container.get("resources", {}).get("limits", {}).get("memory", "0")),
    )
    store = size(start.get("object-store-memory", "0"))
    return (
        []
        if 0 < store < room < limit
        else [f"{where}: object store {store}, /dev/shm {room}, memory {limit} do not nest"]
    )


def size(text: str) -> int:
    """Bytes of a Kubernetes quantity such as 12Gi."""
    found = re.fullmatch(r"(\d+)(Ki|Mi|Gi)?", str(text))
    return int(found[1]) * BYTES.get(found[2], 1) if found else 0
