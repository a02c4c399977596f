"""A real `ray start --head` with a token, and the application deployed to it: clients, new versions under load."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from forebear.config import parse
from forebear.diffusion.training import TrainConfig, train
from forebear.gradients import ProjectionConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run
from forebear_serve.application import SETTINGS
from forebear_serve.client import Client, RefusedError
from forebear_serve.database import Database, Tokens
from forebear_serve.proxy import CALLBACK, IMPORT_PATH

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TEXT_MODEL = {
    "conditioning": "text",
    "image_size": 8,
    "channels": 1,
    "text": {"width": 16, "layers": 1, "heads": 2, "max_tokens": 5},
    "unet": {
        "block_out_channels": [4, 8],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "attention_head_dim": 2,
    },
}
LOAD = 4
"""Clients at once."""
LONGEST = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def captioned_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny model that takes prompts."""
    run = Run(tmp_path_factory.mktemp("captioned") / "run")
    training = {"epochs": 1, "batch_size": 8, "warmup_steps": 2, "checkpoint_epochs": [1]}
    data = {"source": "digits", "limit": 24}
    assert train(run, parse(TrainConfig, {"data": data, "model": TEXT_MODEL, "training": training}, "tests"))
    embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64)))
    build_indexes(run, ["retrac-ridge", "retrac-matched"], IndexConfig())
    return run


@dataclass
class Cluster:
    """A head with the application on it, and how to ask it."""

    address: str
    client: str
    dashboard: str
    secret: str
    described: dict[str, Any]
    """The configuration that was deployed."""
    environment: dict[str, str]

    def deploy(self, described: dict[str, Any], folder: Path) -> None:
        """What `serve deploy` does; returns when it has been taken, not when it runs."""
        file = folder / "deployed.yaml"
        file.write_text(yaml.safe_dump(described))
        done = self.run("-m", "ray.serve.scripts", "deploy", "-a", self.dashboard, str(file))
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Python, with the cluster's token."""
        environment = {name: value for name, value in {**self.environment, **changed}.items() if value}
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=200
        )

    def ready(self) -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.address}/v1/health", timeout=30).status_code == 200
        return False

    def status(self) -> dict[str, Any]:
        """By deployment: what Serve says of its state, and its replicas' ids."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        told = httpx2.get(f"{self.dashboard}/api/serve/applications/", headers=headers, timeout=30).json()
        return told["applications"]["forebear"]["deployments"]


@pytest.fixture(scope="module")
def cluster(
    captioned_run: Run, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]
) -> Iterator[Cluster]:
    port, client, dashboard, agent, http = (free_port() for _ in range(5))
    temporary = Path("/tmp") / f"fs-{os.getpid()}"
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # with grpcio 1.85 the client's server may die otherwise (docs/jobs.md)
        CALLBACK: IMPORT_PATH,
    }
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}", "--num-cpus=8"),
        *("--include-dashboard=true", "--disable-usage-stats"),
    ]
    folder = tmp_path_factory.mktemp("cluster")
    log = (folder / "log.txt").open("wb")
    head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    described = yaml.safe_load((ROOT / "deploy" / "serve" / "local.yaml").read_text())
    described["http_options"]["port"] = http
    described["applications"][0]["args"] |= {
        "run": str(captioned_run.folder),
        "limits": {"generations_per_minute": 6000},
    }
    secret = Tokens(Database.open(f"sqlite:///{captioned_run.folder / 'reviews.sqlite'}")).create("all", ["admin"])[1]
    found = Cluster(
        f"http://127.0.0.1:{http}", f"ray://127.0.0.1:{client}", f"http://127.0.0.1:{dashboard}", secret, described,
        environment,
    )  # fmt: skip
    try:
        wait_until(lambda: head.poll() is not None or (listens(dashboard) and listens(client)), "the head", LONGEST)
        assert head.poll() is None, (folder / "log.txt").read_text()[-2000:]
        found.deploy(described, folder)
        wait_until(found.ready, "the application", LONGEST)
        yield found
    finally:
        head.terminate()  # --block ends what it started
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, 9)
        shutil.rmtree(temporary, ignore_errors=True)
        log.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sessions() -> dict[str, str]:
    """By heading, the programs of docs/clients.md."""
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.+)\n(?:(?!^## ).*\n)*?```python\n((?:.*\n)*?)```", page, re.MULTILINE))


def test_the_documented_sessions_run(cluster: Cluster, tmp_path: Path) -> None:
    told = {}
    for name, program in sessions().items():
        file = tmp_path / "session.py"
        file.write_text(f"import os; os.chdir({str(tmp_path)!r})\n{program}")
        address = cluster.client if name == "Over Ray" else ""
        done = cluster.run(
            str(file), FOREBEAR_ADDRESS=cluster.address, FOREBEAR_TOKEN=cluster.secret, RAY_ADDRESS=address
        )
        assert done.returncode == 0, done.stderr[-2000:]
        told[name] = done.stdout
    assert set(told) == {"Over HTTP", "With asyncio", "Over Ray"}
    assert "Progressed Picture Traced Timings" in told["Over HTTP"]
    assert "422 steps is 100000; this server makes at most 200" in told["Over HTTP"]
    assert (tmp_path / "picture.png").is_file()
    assert "Progressed Picture Timings" in told["With asyncio"]
    assert re.search(r"^digit \w+ <- digit \w+$", told["Over Ray"], re.MULTILINE)
    assert "ray ['retrac-ridge']" in told["Over Ray"]
    # Both ways lead to the same picture and the same ancestors.
    assert [line for line in told["Over Ray"].splitlines() if line.startswith("0 ")] == [
        line for line in told["Over HTTP"].splitlines() if line.startswith("0 ")
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RAY_AUTH_TOKEN": "f" * 64}, "refuses the token"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "there is no token for the Ray cluster"),
        ({"RAY_AUTH_MODE": ""}, "RAY_AUTH_MODE is not token"),
    ],
)
def test_without_the_clusters_token_ray_is_not_waited_for(
    cluster: Cluster, changed: dict[str, str], words: str
) -> None:
    """Ray itself says nothing but a time-out, after 30 s."""
    program = (
        "import sys\nfrom forebear.errors import ForebearError\nfrom forebear_serve.client import RayClient\n"
        f"try:\n    RayClient({cluster.client!r})\nexcept ForebearError as refused:\n    sys.exit(str(refused))\n"
    )
    refused = cluster.run("-c", program, **changed)
    assert refused.returncode == 1
    assert words in refused.stderr


class Load:
    """Clients that ask without a pause, each request a picture of its own with its ancestors."""

    def __init__(self, cluster: Cluster) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self._ended = threading.Event()
        self._askers = [threading.Thread(target=self._ask, args=(cluster, number)) for number in range(LOAD)]

    def __enter__(self) -> "Load":
        for asker in self._askers:
            asker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for asker in self._askers:
            asker.join(LONGEST)

    def _ask(self, cluster: Cluster, number: int) -> None:
        with Client(cluster.address, cluster.secret, retries=0) as client:
            seed = (number + 1) * 10**8 + time.time_ns() % 10**7
            while not self._ended.is_set():
                seed, started = seed + 1, time.monotonic()
                try:
                    client.generate("red heart", seed=seed, steps=5, attribute=True)
                    self.outcomes["answered"] += 1
                except RefusedError as refused:
                    self.outcomes[f"{refused.status}: {refused}"] += 1
                except Exception as failed:
                    self.outcomes[repr(failed)] += 1
                self.longest = max(self.longest, time.monotonic() - started)


def replica_ids(status: dict[str, Any]) -> set[str]:
    return {replica["replica_id"] for one in status.values() for replica in one["replicas"]}


@pytest.mark.parametrize("kind", ["scale", "settings", "code"])
def test_a_new_version_loses_no_request(
    cluster: Cluster,
    kind: str,
    tmp_path: Path,
    record_testsuite_property: Callable[[str, object], None],
    wait_until: Callable[..., None],
) -> None:
    """A number of replicas is changed in place; settings and code, by a new replica in each old one's place."""
    (application,) = cluster.described["applications"]
    before = replica_ids(cluster.status())
    if kind == "scale":
        application["deployments"] = [{"name": "gateway", "num_replicas": 2}]
    elif kind == "settings":
        application["args"]["limits"]["top_k"] = 99
    else:  # what a new image or wheel is to Serve
        application["runtime_env"] = {"env_vars": {"FOREBEAR_VERSION_TRIAL": "2"}}

    def taken() -> bool:
        status = cluster.status()
        now = replica_ids(status)
        changed = now > before if kind == "scale" else now and not now & before  # none at all while Serve begins
        return changed and all(one["status"] == "HEALTHY" for one in status.values())

    with Load(cluster) as load:
        time.sleep(2)
        cluster.deploy(cluster.described, tmp_path)
        wait_until(taken, "the new version", LONGEST)
        time.sleep(2)
    record_testsuite_property(f"deploy of {kind}", f"{dict(load.outcomes)}, longest {load.longest:.1f} s")
    assert set(load.outcomes) == {"answered"}
    assert load.outcomes["answered"] > LOAD
    if kind == "settings":
        with Client(cluster.address, cluster.secret) as client:
            sample = client.samples(limit=1).samples[0]
            with pytest.raises(RefusedError, match="at most 99"):
                client.attribute(sample, top_k=100)


def test_serve_build_lists_every_deployment(captioned_run: Run, tmp_path: Path) -> None:
    settings, built = tmp_path / "settings.yaml", tmp_path / "built.yaml"
    settings.write_text(f"run: {captioned_run.folder}\ngenerators: {{fp32: {{}}, cow: {{}}}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "ray.serve.scripts", "build", "-o", str(built), "forebear_serve.application:app"],
        env={**os.environ, SETTINGS: str(settings)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (application,) = yaml.safe_load(built.read_text())["applications"]
    names = {"gateway", "attributor", "catalogue", "reviews", "audits", "jobs", "generator-fp32", "generator-cow"}
    assert {one["name"] for one in application["deployments"]} == names
