"""A tiny run, trained, embedded and indexed by the real thing, and the whole API over it in this process."""

import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from forebear.config import parse
from forebear.diffusion.training import TrainConfig, train
from forebear.gradients import ProjectionConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run
from forebear_serve.client import Client
from forebear_serve.database import Database, Tokens
from forebear_serve.engine.auditing import Audits
from forebear_serve.engine.catalogue import Catalogue
from forebear_serve.engine.jobs import Jobs
from forebear_serve.engine.maker import Maker
from forebear_serve.engine.reviewing import ReviewDesk
from forebear_serve.engine.tracer import Tracer
from forebear_serve.gateway.access import Access
from forebear_serve.gateway.api import make_api
from forebear_serve.gateway.core import Core
from forebear_serve.parts import LocalPart, Parts
from forebear_serve.settings import AttributorSettings, Limits, ServeSettings

TRAINED = {
    "data": {"source": "digits", "limit": 24},
    "training": {"epochs": 2, "batch_size": 8, "warmup_steps": 2, "checkpoint_epochs": [1, 2]},
}
LIMITS = Limits(
    upload_bytes=100_000,
    body_bytes=200_000,
    pixels=1_000_000,
    steps=20,
    prompt_characters=100,
    top_k=50,
    requests_per_minute=1_000_000,
    generations_per_minute=1_000_000,
)


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict) -> Run:
    run = Run(tmp_path_factory.mktemp("serve") / "digits")
    assert train(run, parse(TrainConfig, {**TRAINED, "model": tiny_model}, "tests"))
    embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=256)))
    build_indexes(run, ["retrac", "retrac-ridge", "retrac-matched", "pixel"], IndexConfig())
    return run


@pytest.fixture
def copied_run(served_run: Run, tmp_path: Path) -> Run:
    """A copy that a test may change, without the audits and jobs of other tests."""
    shutil.copytree(served_run.folder, tmp_path / "digits", ignore=shutil.ignore_patterns("audits", "jobs"))
    return Run(tmp_path / "digits")


@pytest.fixture(scope="session")
def settings(served_run: Run) -> ServeSettings:
    attributor = AttributorSettings(exact_timesteps=4, early_checkpoints=0.5)
    return ServeSettings(run=served_run.folder, limits=LIMITS, attributor=attributor)


def core_of(settings: ServeSettings) -> Core:
    """All engines in this process."""
    limits = settings.limits
    makers = {name: LocalPart(Maker(name, one, settings.run, limits)) for name, one in settings.generators.items()}
    tracer = LocalPart(Tracer(settings.run, settings.attributor, limits))
    catalogue, desk = LocalPart(Catalogue(settings.run, limits)), LocalPart(ReviewDesk(settings.database_url))
    audits = LocalPart(Audits(settings.run, settings.attributor.estimator, limits))
    jobs = LocalPart(Jobs(settings.run, lambda *_: ["/bin/true"]))
    parts = Parts(makers, tracer, catalogue, desk, audits, jobs)
    access = Access(Database.open(settings.database_url), limits.requests_per_minute, limits.generations_per_minute)
    return Core(settings, parts, access)


@pytest.fixture(scope="session")
def make_core() -> Callable[[ServeSettings], Core]:
    """For tests with settings of their own."""
    return core_of


@pytest.fixture(scope="session")
def api(settings: ServeSettings) -> FastAPI:
    return make_api(core_of(settings))


@pytest.fixture(scope="session")
def secrets(settings: ServeSettings) -> dict[str, str]:
    """A token's secret for each scope, by its name."""
    tokens = Tokens(Database.open(settings.database_url))
    return {scope: tokens.create(f"a {scope}", [scope])[1] for scope in ("read", "generate", "review", "admin")}


@pytest.fixture(scope="session")
def client_with(api: FastAPI) -> Callable[[str], TestClient]:
    """A client with a token's secret; none for an empty one."""
    return lambda secret: TestClient(api, headers={"Authorization": f"Bearer {secret}"} if secret else {})


@pytest.fixture(scope="session")
def client(client_with: Callable[[str], TestClient], secrets: dict[str, str]) -> TestClient:
    """With a token that may do everything."""
    return client_with(secrets["admin"])


@dataclass
class Server:
    """`forebear serve`, running."""

    process: subprocess.Popen[str]
    address: str
    secret: str
    lines: "queue.Queue[str]"
    run: Run

    def client(self) -> Client:
        return Client(self.address, self.secret)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(command: list[str], run: Run) -> Server:
    """`forebear serve`, ready; its output goes on into `lines`."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "serve", "--run", str(run.folder), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "RAY_ADDRESS": ""},
    )
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True).start()
    seen, secret = "", ""
    while "serving" not in seen:
        line = lines.get(timeout=300)
        assert process.poll() is None, seen + line
        secret = secret or (found[1] if (found := re.match(r"token, shown this once: (\S+)", line)) else "")
        seen += line
    return Server(process, f"http://127.0.0.1:{port}", secret, lines, run)


@pytest.fixture(scope="session")
def forebear_command() -> list[str]:
    """`forebear`, as a process of its own."""
    return [sys.executable, "-c", "import sys; from forebear.cli.main import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def start_server(
    served_run: Run, forebear_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Server]]:
    """Starts `forebear serve` over a copy of the run; ended with the module's tests."""
    running: list[Server] = []

    def start() -> Server:
        folder = tmp_path_factory.mktemp("server") / "digits"
        shutil.copytree(served_run.folder, folder, ignore=shutil.ignore_patterns("reviews.sqlite*"))
        running.append(started(forebear_command, Run(folder)))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(120)


@pytest.fixture(scope="session")
def replicas() -> Callable[[Server, str], list[int]]:
    """The processes of a server's Ray whose title holds a name."""

    def found(server: Server, name: str) -> list[int]:
        told = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in told.splitlines()]
        parents = {int(pid): int(parent) for pid, parent, _ in rows}

        def below(pid: int) -> bool:
            while pid in parents and pid != server.process.pid:
                pid = parents[pid]
            return pid == server.process.pid

        return [int(pid) for pid, _, args in rows if name in args and args.startswith("ray::") and below(int(pid))]

    return found
