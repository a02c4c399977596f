"""Compose files: the Compose specification, and our own rules for what they start."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import compose_spec
import yaml

from checks.commands import flag_problems
from checks.facts import DASHBOARD_PORT, IMAGES, REQUEST_SECONDS, ROOT, SERVE_PORT, USER, is_variable

OURS = "/srv/forebear"
SECONDS = {"s": 1, "m": 60}
HARDENED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "init": True}


def compose_problems(file: Path) -> list[str]:
    """Of a compose file, laid over compose.yaml beside it when it is another."""
    base = yaml.safe_load((file.parent / "compose.yaml").read_text(encoding="utf-8"))
    own = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        compose_spec.PyCompose.from_json(json.dumps(own)).validate()
    except ValueError as wrong:
        return [f"{file.name}: {wrong}"]
    found = []
    for name, service in own["services"].items():
        where = f"{file.name} {name}"
        if name not in base["services"]:
            found.append(f"{where}: compose.yaml has no such service")
        if service.get("image") not in IMAGES:
            found.append(f"{where}: image {service.get('image')} is none of {sorted(IMAGES)}")
        found += _build_problems(service.get("build", {}), file, where)
        if file.name == "compose.yaml":
            found += _service_problems(service, file, where) + _name_problems(service, set(own["services"]), where)
    return found


def _service_problems(service: dict[str, Any], file: Path, where: str) -> list[str]:
    found = [f"{where}: {key} is not {wanted}" for key, wanted in HARDENED.items() if service.get(key) != wanted]
    variables = service.get("environment", {})
    found += [f"{where}: nothing reads the variable {name}" for name in variables if not is_variable(name)]
    return found + _volume_problems(service, file, where) + _command_problems(service, where)


def _name_problems(service: dict[str, Any], names: set[str], where: str) -> list[str]:
    """Services that it waits for and asks are there; folders in memory are the image's user's."""
    asked = set(re.findall(r"http://(\w+):", " ".join(map(str, service.get("command", [])))))
    found = [f"{where}: there is no service {name}" for name in (asked | set(service.get("depends_on", {}))) - names]
    owners = set(re.findall(r"\b[ug]id=(\d+)", " ".join(service.get("tmpfs", []))))
    return found if owners == {str(USER)} else [*found, f"{where}: tmpfs is of {sorted(owners)}, not of {USER}"]


def _command_problems(service: dict[str, Any], where: str) -> list[str]:
    """The command's options, the ports that it and its health check use, and the time to drain."""
    words = [str(word) for word in service.get("command", [])]
    given, found = dict(pairwise(words)), flag_problems(["forebear", *words], where)
    port = given.get("--port")
    if port not in {str(SERVE_PORT), str(DASHBOARD_PORT)} or service.get("ports") != [f"127.0.0.1:{port}:{port}"]:
        found.append(f"{where}: listens on {port}, and gives out {service.get('ports')}, not one port on loopback")
    if not given.get("--address", f":{SERVE_PORT}").endswith(f":{SERVE_PORT}"):
        found.append(f"{where}: {given['--address']} is not port {SERVE_PORT}")
    check = " ".join(service.get("healthcheck", {}).get("test", []))
    if check and f"127.0.0.1:{port}/_stcore/health" not in check:
        found.append(f"{where}: healthcheck does not ask port {port} for Streamlit's /_stcore/health")
    if words[:1] == ["serve"] and seconds(service.get("stop_grace_period", "10s")) <= REQUEST_SECONDS:
        found.append(f"{where}: stop_grace_period is not above limits.seconds, {REQUEST_SECONDS}")
    return found


def _volume_problems(service: dict[str, Any], file: Path, where: str) -> list[str]:
    volumes = dict(reversed(volume.split(":")[:2]) for volume in service.get("volumes", []))
    found = []
    for target, source in volumes.items():
        if source.startswith("./") and not (file.parent / source).is_file():
            found.append(f"{where}: there is no {source} to mount")
        if not source.startswith("./") and (source, target) != (OURS, OURS):
            found.append(f"{where}: {source} at {target} is not {OURS}, which settings name")
    settings = dict(pairwise(map(str, service.get("command", [])))).get("--config")
    return found if settings is None or settings in volumes else [*found, f"{where}: nothing is mounted at {settings}"]


def _build_problems(build: dict[str, Any], file: Path, where: str) -> list[str]:
    arguments = set(
        re.findall(r"^ARG ([A-Z_]+)", (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8"), re.M)
    )
    found = [
        f"{where}: the Dockerfile has no argument {name}" for name in build.get("args", {}) if name not in arguments
    ]
    if "dockerfile" in build and not (ROOT / build["dockerfile"]).is_file():
        found.append(f"{where}: there is no {build['dockerfile']}")
    return found


def seconds(text: str) -> float:
    """Of a duration such as 180s or 3m."""
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([sm])", str(text)))
