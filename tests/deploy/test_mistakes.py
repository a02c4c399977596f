"""Mistakes planted in every file of deploy/: a wrong key, port, image and variable, wherever the file has one."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checks import facts
from checks.parts import FOLDERS, PARTS, parts_of

Mistake = tuple[str, str, str, str]
"""File, kind, what is there, and what is put in its place."""


CPU, GPU = (f"forebear:{facts.__version__}-{accelerator}" for accelerator in ("cpu", "gpu"))


def of_image_and_machine() -> Iterator[Mistake]:
    yield "docker/Dockerfile", "key", "USER 10001", "USR 10001"
    yield "docker/Dockerfile", "port", "EXPOSE 8000", "EXPOSE 8001"
    yield "docker/Dockerfile", "image", "python:3.11.14-slim", "python:3.12.14-slim"
    yield "docker/Dockerfile", "variable", "HF_HUB_OFFLINE=1", "HF_HUB_OFLINE=1"
    yield "docker/Dockerfile", "user", "--uid 10001", "--uid 1001"
    yield "docker/install.sh", "key", "case $step in", "case $step"
    yield "docker/install.sh", "variable", "FOREBEAR_TORCH_INDEX", "FOREBEAR_TORCH_INDX"
    yield "docker/install.sh", "index", "whl/cpu", "whl/cu129"
    yield "local/bootstrap.sh", "key", "set -euo pipefail", "set -uo pipefail"
    yield "local/bootstrap.sh", "variable", "${FOREBEAR_VENV:-", "${FOREBEAR_VENVS:-"
    yield "local/bootstrap.sh", "path", "$here/constraints.txt", "$here/constraint.txt"
    yield "local/freeze.sh", "key", "} >", ">"
    yield "local/freeze.sh", "variable", "FOREBEAR_CONSTRAINTS=none", "FOREBEAR_CONSTRAINT=none"
    yield "local/freeze.sh", "path", "$here/bootstrap.sh", "$here/bootstrp.sh"
    yield "local/audit.sh", "key", "|| {", "|| ("
    yield "local/audit.sh", "variable", "${FOREBEAR_ADVISORIES:-", "${FOREBEAR_ADVISORY:-"
    yield "local/audit.sh", "path", "$here/constraints.txt", "$here/pins.txt"
    yield "local/constraints.txt", "key", "\npillow==", "\npilow=="
    yield "local/constraints.txt", "version", f"ray=={facts.RAY_VERSION}", f"ray=={facts.RAY_VERSION}1"
    yield "local/services.yaml", "key", "requests_per_minute", "request_per_minute"
    yield "local/services.yaml", "path", "/srv/forebear/runs/production", "/srv/forbear/runs/production"
    yield "local/forebear.service", "key", "KillMode=", "KilMode="
    yield "local/forebear.service", "port", "--port 8000", "--port 8080"
    yield "local/forebear.service", "variable", "OMP_NUM_THREADS", "OMP_NUM_THREAD"
    yield "local/forebear.service", "path", "/etc/forebear/services.yaml", "/etc/forbear/services.yaml"
    yield "local/compose.yaml", "key", "stop_grace_period", "stop_grace_time"
    yield "local/compose.yaml", "port", '"127.0.0.1:8000:8000"', '"127.0.0.1:8000:8001"'
    yield "local/compose.yaml", "image", f"image: {CPU}", f"image: {CPU}-slim"
    yield "local/compose.yaml", "option", "--config,", "--configuration,"
    yield "local/compose.yaml", "name", "http://services:", "http://service:"
    yield "local/compose.yaml", "user", "uid=10001", "uid=1001"
    yield "local/compose.gpu.yaml", "key", "reservations:", "reservation:"
    yield "local/compose.gpu.yaml", "image", f"image: {GPU}", "image: forebear:gpu"
    yield "local/compose.gpu.yaml", "variable", "ACCELERATOR: gpu", "ACELERATOR: gpu"


def of_kuberay() -> Iterator[Mistake]:
    yield "kuberay/base/kustomization.yaml", "key", "resources:", "resource:"
    yield "kuberay/base/namespace.yaml", "key", "automountServiceAccountToken", "automountServiceAccountTokens"
    yield "kuberay/base/storage.yaml", "key", "accessModes", "accessMode"
    yield "kuberay/base/storage.yaml", "key", "storage: 500Gi", "storages: 500Gi"
    yield "kuberay/base/storage.yaml", "variable", "AWS_REGION", "AWS_REGON"
    yield "kuberay/base/network-policies.yaml", "key", "policyTypes", "policyType"
    yield "kuberay/base/network-policies.yaml", "port", "port: 8265", "port: 8266"
    yield "kuberay/base/namespace.yaml", "label", "io/enforce: restricted", "io/enforced: restricted"
    yield "kuberay/base/network-policies.yaml", "label", "component: serve", "component: server"
    yield "kuberay/base/network-policies.yaml", "label", "ray.io/node-type: head", "ray.io/node-role: head"
    yield (
        "kuberay/base/network-policies.yaml",
        "label",
        "kubernetes.io/metadata.name: ingress",
        "kubernetes.io/name: ingress",
    )
    yield "kuberay/secrets.example.yaml", "key", "auth_token: CHANGE-ME", "token: CHANGE-ME"
    for kind, there, wrong in (
        ("key", "containerPort: 6379", "containerport: 6379"),
        ("key", "terminationGracePeriodSeconds", "terminationGraceSeconds"),
        ("key", "rayStartParams", "rayStartParameters"),
        ("key", "num-cpus:", "num-cpu:"),
        ("port", "containerPort: 6379", "containerPort: 6380"),
        ("image", "image: forebear", "image: forbear"),
        ("variable", "name: RAY_AUTH_MODE,", "name: RAY_AUTHMODE,"),
        ("variable", "name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "name: RAY_GRACEFUL_DRAIN_TIMEOUT_S"),
        ("secret", "key: auth_token", "key: token"),
        ("label", "        metadata:\n          labels: {app", "        metadata:\n          labels: {apps"),
    ):
        yield "kuberay/serve/rayservice.yaml", kind, there, wrong
        yield "kuberay/embed/rayjob.yaml", kind, there, wrong
    yield "kuberay/serve/rayservice.yaml", "probe", "path: /-/healthz", "path: /healthz"
    yield (
        "kuberay/serve/rayservice.yaml",
        "drain",
        "terminationGracePeriodSeconds: 180",
        "terminationGracePeriodSeconds: 150",
    )
    yield "kuberay/serve/kustomization.yaml", "key", "namespace:", "nameSpaces:"
    yield "kuberay/embed/kustomization.yaml", "key", "namespace:", "nameSpaces:"
    yield "kuberay/serve/disruption-budget.yaml", "key", "minAvailable: 1", "minimumAvailable: 1"
    for accelerator in ("cpu", "gpu"):
        for work in ("serve", "embed"):
            file = f"kuberay/overlays/{accelerator}/{work}/kustomization.yaml"
            yield file, "key", "newTag:", "newTags:"
            yield file, "image", f"newTag: {facts.__version__}-{accelerator}", "newTag: latest"
        file = f"kuberay/overlays/{accelerator}/serve/serve.yaml"
        yield file, "key", "request_timeout_s", "request_timeout"
        yield file, "setting", "queue: 64", "queues: 64"
        yield file, "port", "port: 8000", "port: 8001"
        yield file, "path", "/mnt/forebear/runs", "/mnt/forbear/runs"
        yield (
            f"kuberay/overlays/{accelerator}/embed/kustomization.yaml",
            "option",
            "--memory-per-worker",
            "--memory-for-worker",
        )


def of_clusters_and_monitoring() -> Iterator[Mistake]:
    yield "cluster/aws.yaml", "key", "idle_timeout_minutes", "idle_timeout_minute"
    yield "cluster/aws.yaml", "provider", "availability_zone:", "availability_zones:"
    yield "cluster/aws.yaml", "provider", "security_group:", "security_groups:"
    yield "cluster/aws.yaml", "machine", "InstanceType: g6", "Instancetype: g6"
    yield "cluster/aws.yaml", "machine", "HttpTokens", "HttpToken"
    yield "cluster/aws.yaml", "machine", "Encrypted: true", "Encrypted: false"
    yield "cluster/aws.yaml", "machine", "head_node_type: head", "head_node_type: haed"
    yield "cluster/aws.yaml", "rule", "IpRanges", "IpRange"
    yield "cluster/aws.yaml", "rule", "203.0.113.0/24", "0.0.0.0/0"
    yield "cluster/aws.yaml", "variable", "RAY_HEAD_IP", "RAY_HEAD"
    yield "cluster/aws.yaml", "port", "--port=6379", "--port=6380"
    yield "cluster/aws.yaml", "image", f"image: {GPU}", f"image: {GPU}u"
    yield "cluster/aws.yaml", "variable", "RAY_AUTH_MODE=token", "RAY_AUTH=token"
    yield "cluster/aws.yaml", "option", "--dashboard-host", "--dashboard-hosts"
    yield "cluster/onprem.yaml", "key", "rsync_exclude", "rsync_excludes"
    yield "cluster/onprem.yaml", "provider", "worker_ips", "workers_ips"
    yield "cluster/onprem.yaml", "port", "--metrics-export-port=8080", "--metrics-export-port=8081"
    yield "cluster/onprem.yaml", "variable", "FOREBEAR_VENV", "FOREBEAR_VENVS"
    yield "cluster/onprem.yaml", "variable", "RAY_AUTH_MODE=token", "RAY_AUTH_MODES=token"
    yield "monitoring/kustomization.yaml", "key", "configMapGenerator", "configMapsGenerator"
    yield "monitoring/pod-monitors.yaml", "key", "podMetricsEndpoints", "podMetricEndpoints"
    yield "monitoring/pod-monitors.yaml", "port", "port: serve", "port: server"
    yield "monitoring/pod-monitors.yaml", "label", "ray.io/node-type: worker", "ray.io/node-type: workers"
    yield "monitoring/pod-monitors.yaml", "path", "/v1/metrics", "/metrics"
    yield "monitoring/alerts.yaml", "key", "expr: sum by", "expression: sum by"
    yield "monitoring/alerts.yaml", "metric", "forebear_requests_total", "forebear_request_total"
    yield "monitoring/alerts.yaml", "metric", 'deployment="gateway"', 'deployment="gatewy"'
    yield "monitoring/alerts.yaml", "metric", "by (deployment) (ray_serve", "by (deployment) ((ray_serve"
    yield "monitoring/grafana-services.json", "key", '"expr"', '"expression"'
    yield "monitoring/grafana-services.json", "metric", "forebear_active_requests", "forebear_requests_active"
    yield "serve/local.yaml", "key", "proxy_location", "proxy_locations"
    yield "serve/local.yaml", "port", "port: 8000", "port: 8080"
    yield "serve/cluster.yaml", "key", "proxy_location", "proxy_locations"
    yield "serve/cluster.yaml", "setting", "estimator: retrac-ridge", "estimators: retrac-ridge"
    yield "serve/cluster.yaml", "port", "port: 8000", "port: 8080"


ALL = [*of_image_and_machine(), *of_kuberay(), *of_clusters_and_monitoring()]
KINDS = {
    "port": r"(?<!Lifetime)\b(containerPort|port|ports|FromPort|EXPOSE)\b:? *[\[{]?\"?[\w.:]*\d",
    "image": r"^\s*(-? *image|newTag|docker):|^FROM ",
    "variable": r"\bRAY_AUTH_MODE|\bFOREBEAR_VENV|^Environment=|AWS_REGION|^ENV |\$\{FOREBEAR_",
}
"""How a file shows that it has such a thing."""


@pytest.mark.parametrize(("file", "kind", "there", "wrong"), ALL, ids=[f"{file}-{wrong}" for file, _, _, wrong in ALL])
def test_mistake_is_caught(deploy: Path, file: str, kind: str, there: str, wrong: str) -> None:
    text = (deploy / file).read_text(encoding="utf-8")
    assert there in text
    (deploy / file).write_text(text.replace(there, wrong, 1), encoding="utf-8")
    found = [line for part in parts_of(file) for line in PARTS[part][1](deploy)]
    assert found, f"no check saw a wrong {kind}"


def test_every_file_has_its_mistakes() -> None:
    planted = {(file, kind) for file, kind, _, _ in ALL}
    for path in (path for name in FOLDERS for path in (facts.DEPLOY / name).rglob("*") if path.is_file()):
        file = str(path.relative_to(facts.DEPLOY))
        assert (file, "key") in planted, f"no wrong key is planted in {file}"
        for kind, pattern in KINDS.items():
            if re.search(pattern, path.read_text(encoding="utf-8"), re.M):
                assert (file, kind) in planted, f"no wrong {kind} is planted in {file}"


def test_example_secrets_are_in_no_kustomization() -> None:
    for file in facts.DEPLOY.rglob("kustomization.yaml"):
        held = yaml.safe_load(file.read_text(encoding="utf-8"))["resources"]
        assert not [one for one in held if "secret" in one]
