"""Settings and fixtures that every test shares: no network, one thread, one local Ray."""

import os
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Set before any test imports these libraries; Ray's workers inherit them.
os.environ.update(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DISABLE_TELEMETRY": "1",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
)
# A cluster that the caller's shell points at is not the tests' own.
os.environ.pop("RAY_ADDRESS", None)

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# No test is timed, hypothesis's neither: a busy machine would fail them. CI draws the same examples every time.
settings.register_profile("forebear", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("forebear")

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray of two cores for the whole test session; starting it takes about five seconds."""
    import ray

    # Without an address, Ray joins whatever cluster was last started on this machine.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def is_running() -> Callable[[int | str], bool]:
    """Whether a process is there that has not ended."""

    def running(pid: int | str) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state != "Z"

    return running


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait for what must come to hold within so many seconds."""

    def wait(holds: Callable[[], bool], what: str = "it", seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"{what} did not come"
            time.sleep(0.1)

    return wait


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, Any]:
    """The `model` section of a training: the smallest class-conditional UNet that learns something of the digits."""
    return {
        "conditioning": "class",
        "image_size": 8,
        "channels": 1,
        "unet": {
            "block_out_channels": [4, 8],
            "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "layers_per_block": 1,
            "norm_num_groups": 2,
        },
    }


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The address of an S3 server on loopback."""
    pytest.importorskip("moto", reason="the S3 server of the dev extra is not installed")
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def server_files(endpoint: str) -> "FileSystem":
    """All of the S3 server's buckets, which it may make."""
    from pyarrow.fs import S3FileSystem

    return S3FileSystem(
        endpoint_override=endpoint, access_key="a", secret_key="b", region="us-east-1", allow_bucket_creation=True
    )


@pytest.fixture
def bucket(
    endpoint: str, server_files: "FileSystem", monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A bucket of the test's own, and an environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b-{abs(hash(request.node.nodeid)):x}"[:40]
    server_files.create_dir(name)
    return name


class HtmlPage(HTMLParser):
    """Collects tags and attributes; fails on a tag that is closed out of turn."""

    VOID = ("img", "meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def html_page() -> type[HtmlPage]:
    """Reads a page: `html_page(text).tags`."""
    return HtmlPage
