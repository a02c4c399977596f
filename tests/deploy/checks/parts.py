"""The parts of deploy/, which files each is made of, and its check."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from checks import clusters, compose, images, kubernetes, metrics, scripts, serve_configs, units
from checks.ray_resources import cluster_of

Check = Callable[[Path], list[str]]
"""Of a folder deploy/, the project's own or a copy."""


def _file(check: Check, file: str) -> Check:
    return lambda deploy: check(deploy / file)


def _serve(file: str, *, on_volume: bool) -> Check:
    return lambda deploy: serve_configs.file_problems(deploy / file, on_volume=on_volume)


def _overlay(folder: str) -> Check:
    return lambda deploy: kubernetes.kustomization_problems(deploy / folder)


def _room(deploy: Path) -> list[str]:
    """Whether each overlay's replicas fit into the workers that it asks for."""
    found = []
    for accelerator in ("cpu", "gpu"):
        resources, problems = kubernetes.built(deploy / f"kuberay/overlays/{accelerator}/serve")
        for service in (one for one in resources if one["kind"] == "RayService"):
            cpus = gpus = 0.0
            for group in cluster_of(service)["workerGroupSpecs"]:
                limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
                cpus += group["minReplicas"] * float(limits["cpu"])
                gpus += group["minReplicas"] * float(limits.get("nvidia.com/gpu", 0))
            config = yaml.safe_load(service["spec"]["serveConfigV2"])
            found += serve_configs.room_problems(config, cpus, gpus, f"overlays/{accelerator}/serve")
        found += problems
    return found


def _settings(deploy: Path) -> list[str]:
    values = yaml.safe_load((deploy / "local/services.yaml").read_text(encoding="utf-8"))
    return serve_configs.settings_problems(values, "services.yaml", on_volume=False)


PARTS: dict[str, tuple[tuple[str, ...], Check]] = {
    "image": (("docker/Dockerfile",), _file(images.dockerfile_problems, "docker/Dockerfile")),
    "install": (("docker/install.sh",), _file(scripts.script_problems, "docker/install.sh")),
    "bootstrap": (("local/bootstrap.sh",), _file(scripts.script_problems, "local/bootstrap.sh")),
    "freeze": (("local/freeze.sh",), _file(scripts.script_problems, "local/freeze.sh")),
    "audit": (("local/audit.sh",), _file(scripts.script_problems, "local/audit.sh")),
    "pins": (("local/constraints.txt",), _file(scripts.pin_problems, "local/constraints.txt")),
    "shared": (("kuberay/base/*",), _overlay("kuberay/base")),
    "serve on CPUs": (("kuberay/serve/*", "kuberay/overlays/cpu/serve/*"), _overlay("kuberay/overlays/cpu/serve")),
    "serve on GPUs": (("kuberay/overlays/gpu/serve/*",), _overlay("kuberay/overlays/gpu/serve")),
    "embed on CPUs": (("kuberay/embed/*", "kuberay/overlays/cpu/embed/*"), _overlay("kuberay/overlays/cpu/embed")),
    "embed on GPUs": (("kuberay/overlays/gpu/embed/*",), _overlay("kuberay/overlays/gpu/embed")),
    "room": ((), _room),
    "secrets": (("kuberay/secrets.example.yaml",), kubernetes.secret_problems),
    "AWS": (("cluster/aws.yaml",), _file(clusters.cluster_problems, "cluster/aws.yaml")),
    "on-premise": (("cluster/onprem.yaml",), _file(clusters.cluster_problems, "cluster/onprem.yaml")),
    "monitoring": (("monitoring/*.yaml",), _overlay("monitoring")),
    "dashboard": (("monitoring/*.json",), _file(metrics.dashboard_problems, "monitoring/grafana-services.json")),
    "unit": (("local/forebear.service",), _file(units.unit_problems, "local/forebear.service")),
    "compose": (("local/compose.yaml",), _file(compose.compose_problems, "local/compose.yaml")),
    "compose, GPU": (("local/compose.gpu.yaml",), _file(compose.compose_problems, "local/compose.gpu.yaml")),
    "settings": (("local/services.yaml",), _settings),
    "Serve, one machine": (
        ("serve/local.yaml",), _serve("serve/local.yaml", on_volume=False)
    ),
    "Serve, many": (
        ("serve/cluster.yaml",), _serve("serve/cluster.yaml", on_volume=True)
    ),
}  # fmt: skip
FOLDERS = ("docker", "kuberay", "cluster", "local", "monitoring", "serve")
"""Whose every file is part of something; deploy/demo holds the demo's model, deploy/docs what makes pages."""


def parts_of(file: str) -> list[str]:
    """The parts that a file, relative to deploy/, belongs to."""
    return [name for name, (patterns, _) in PARTS.items() if any(fnmatch(file, pattern) for pattern in patterns)]


def style_problems(deploy: Path, folders: tuple[str, ...] = FOLDERS) -> list[str]:
    """What yamllint has to say."""
    config = YamlLintConfig(file=str(deploy / ".yamllint"))
    found = []
    for file in sorted(file for folder in folders for file in (deploy / folder).rglob("*.yaml")):
        problems = linter.run(file.read_text(encoding="utf-8"), config, str(file))
        found += [f"{file.relative_to(deploy)}:{one.line}: {one.desc}" for one in problems]
    return found
