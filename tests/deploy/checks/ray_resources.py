"""RayService and RayJob: against the fields used here, and KubeRay's CRDs where RAY_CRD_DIR names a folder of them.

The schema here is of the fields that deploy/kuberay uses, as KubeRay 1.7 has them; another field is an error until it
is added. Pod templates are checked as Kubernetes' own.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from checks.schemas import ANY, NUMBER, SWITCH, TEXT, TEXTS, broken, kubernetes, many, thing

START = TEXTS
GROUP = thing("rayStartParams template", rayStartParams=START, template=ANY)
WORKERS = thing(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=TEXT, replicas=NUMBER, minReplicas=NUMBER, maxReplicas=NUMBER, rayStartParams=START, template=ANY,
)  # fmt: skip
CLUSTER = thing(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=thing("mode secretName", mode={"const": "token"}, secretName=TEXT),
    headGroupSpec=GROUP,
    workerGroupSpecs=many(WORKERS),
)
SPECS = {
    "RayService": thing(
        "serveConfigV2 rayClusterConfig",
        serveConfigV2=TEXT,
        rayClusterConfig=CLUSTER,
        excludeHeadPodFromServeSvc=SWITCH,
        rayClusterDeletionDelaySeconds={"type": "integer", "minimum": 0},
    ),
    "RayJob": thing(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        rayClusterSpec=CLUSTER,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=NUMBER,
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=NUMBER,
    ),
}
METADATA = thing("name namespace", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    """The Ray cluster that a RayService or RayJob describes."""
    return resource["spec"].get("rayClusterConfig") or resource["spec"].get("rayClusterSpec") or {}


def templates_of(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pod templates by their group: `head`, and the names of the workers'."""
    cluster = cluster_of(resource)
    found = {"head": cluster.get("headGroupSpec", {}).get("template", {})}
    return found | {one.get("groupName", "?"): one.get("template", {}) for one in cluster.get("workerGroupSpecs", [])}


@cache
def _ours(kind: str) -> Draft202012Validator:
    return Draft202012Validator(
        thing(
            "apiVersion kind metadata spec",
            apiVersion={"const": "ray.io/v1"},
            kind=TEXT,
            metadata=METADATA,
            spec=SPECS[kind],
        )
    )


@cache
def _theirs(folder: str, kind: str) -> Draft202012Validator | None:
    """The schema of a CRD file of KubeRay's in a folder, with unknown fields refused; None where there is none."""
    for file in sorted(Path(folder).glob("*.yaml")):
        for crd in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if crd and crd.get("kind") == "CustomResourceDefinition" and crd["spec"]["names"]["kind"] == kind:
                version = next(one for one in crd["spec"]["versions"] if one["name"] == "v1")
                return Draft202012Validator(_closed(version["schema"]["openAPIV3Schema"]))
    return None


def _closed(schema: Any) -> Any:
    """The schema, with every object of named properties closed against others."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: _closed(value) for key, value in schema.items()}
    # `metadata` has no properties there, and an embedded resource may have others.
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def schema_problems(resource: dict[str, Any], where: str) -> list[str]:
    """What a RayService or RayJob breaks."""
    kind = resource["kind"]
    found = broken(_ours(kind), resource, where)
    if crds := os.environ.get("RAY_CRD_DIR"):
        theirs = _theirs(crds, kind)
        found += broken(theirs, resource, f"{where} (CRD)") if theirs else [f"{crds} holds no CRD of {kind}"]
    for group, template in templates_of(resource).items():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": group}, "template": template}
        found += broken(kubernetes("PodTemplate", "v1"), pod, f"{where} {group}")
    return found
