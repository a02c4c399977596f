"""What deploy/ has to agree with: versions, ports, paths, times and variables, read from the code that uses them."""

import mmap
import re
from functools import cache
from pathlib import Path

import ray
from ray._private import ray_constants

from forebear.version import __version__
from forebear_dashboard.verb import dashboard
from forebear_serve.deployments import HEALTH_TIMEOUT
from forebear_serve.serve_verb import serve
from forebear_serve.settings import Limits

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
RAY = Path(ray.__file__).parent

IMAGES = {f"forebear:{__version__}-{accelerator}" for accelerator in ("cpu", "gpu")}
RAY_VERSION = re.search(r"^ray==(.+)$", (DEPLOY / "local/constraints.txt").read_text(encoding="utf-8"), re.M)[1]  # type: ignore[index]
PYTHON = ".".join(
    re.search(r"Resolved with Python (\d+)\.(\d+)", (DEPLOY / "local/constraints.txt").read_text()).groups()
)  # type: ignore[union-attr]

USER = 10001
"""Of the image, by number: Kubernetes can tell from it that it is not root."""


def _default(verb: object, option: str) -> int:
    return next(one.default for one in verb.params if one.name == option)  # type: ignore[attr-defined]


SERVE_PORT, DASHBOARD_PORT = _default(serve, "port"), _default(dashboard, "port")
PORTS = {
    "serve": SERVE_PORT,
    "gcs": ray_constants.DEFAULT_PORT,
    "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT,
    "client": 10001,  # Ray has no constant for it; `ray start --help` names it
    "agent": ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT,
    "metrics": 8080,  # KubeRay's
}
"""Of containers, by their names."""

REQUEST_SECONDS = Limits().seconds
DRAIN_SECONDS = REQUEST_SECONDS + HEALTH_TIMEOUT
"""For which a replica may finish what it has begun: graceful_shutdown_timeout_s."""

DATA, RUNS = "/mnt/forebear", "/mnt/forebear/runs"
"""Where clusters have the shared volume, and runs on it."""

OTHER_VARIABLES = {
    "HOME", "PATH", "PYTHONUNBUFFERED", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "PGPASSWORD", "GRPC_ENABLE_FORK_SUPPORT",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
}  # fmt: skip
"""Those of Python, OpenMP, Hugging Face, libpq, gRPC and NVIDIA's runtime."""


@cache
def _own_variables() -> frozenset[str]:
    """FOREBEAR_* as the packages read them or scripts' headers tell them, AWS_* as docs/data.md tells them."""
    found = set[str]()
    for folder in ("platform", "services", "dashboard"):
        for file in (ROOT / folder).rglob("*.py"):
            found.update(re.findall(r"[\"'](FOREBEAR_[A-Z_]+)[\"']", file.read_text(encoding="utf-8")))
    for script in ("local/bootstrap.sh", "local/audit.sh"):
        found.update(re.findall(r"^#.*?\b(FOREBEAR_[A-Z_]+)", (DEPLOY / script).read_text(encoding="utf-8"), re.M))
    found.update(re.findall(r"`(AWS_[A-Z0-9_]+)", (ROOT / "docs/data.md").read_text(encoding="utf-8")))
    return frozenset(found)


@cache
def _ray_reads(name: str) -> bool:
    """Whether Ray's compiled part, its or Serve's constants or its usage report know a variable; RAY_x is x in C++."""
    constants = [
        RAY / "_private/ray_constants.py",
        RAY / "serve/_private/constants.py",
        *(RAY / "_common/usage").glob("*.py"),
    ]
    if any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in constants):
        return True
    with (RAY / "_raylet.so").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as compiled:
        return any(compiled.find(b"\0%s\0" % word.encode()) >= 0 for word in (name, name.removeprefix("RAY_")))


def is_variable(name: str) -> bool:
    """Whether something that runs reads this environment variable."""
    if name.startswith("RAY_"):
        return _ray_reads(name)
    return name in OTHER_VARIABLES or name in _own_variables()
