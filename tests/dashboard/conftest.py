"""The tiny run of tests/serve behind a real HTTP address on loopback, and the dashboard's pages over it."""

import importlib.util
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

os.environ["STREAMLIT_RUNNER_MAGIC_ENABLED"] = "false"  # as the dashboard's own settings have it
pytest.importorskip("streamlit", reason="the dashboard extra is not installed")
from streamlit.testing.v1 import AppTest

TESTS = Path(__file__).parents[1]
APP = TESTS.parent / "dashboard/forebear_dashboard/app.py"

# The fixtures of tests/serve: pytest shares a conftest with the folders below it alone.
_spec = importlib.util.spec_from_file_location("served", TESTS / "serve/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_served = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_served)
served_run, settings, api, secrets = _served.served_run, _served.settings, _served.api, _served.secrets


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(scope="session")
def address(api: FastAPI) -> Iterator[str]:
    """Of the whole API, answering over HTTP."""
    server = uvicorn.Server(
        uvicorn.Config(api, host="127.0.0.1", port=free_port(), log_level="error", access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def environment(address: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The services' address, and no token yet."""
    monkeypatch.setenv("FOREBEAR_ADDRESS", address)
    monkeypatch.delenv("FOREBEAR_TOKEN", raising=False)
    return monkeypatch


@pytest.fixture
def app() -> AppTest:
    """The dashboard, not run yet."""
    return AppTest.from_file(str(APP), default_timeout=60)


@pytest.fixture
def unused_port() -> int:
    """Where nobody answers."""
    return free_port()


Open = Callable[..., AppTest]


@pytest.fixture
def open_page(environment: pytest.MonkeyPatch, secrets: dict[str, str]) -> Open:
    """`open_page("images", scope="admin", text="3")`: the page as it is drawn for a token and an address."""

    def opened(name: str, scope: str = "admin", **parameters: str) -> AppTest:
        environment.setenv("FOREBEAR_TOKEN", secrets[scope])
        page = AppTest.from_file(str(APP), default_timeout=60)
        for parameter, value in parameters.items():
            page.query_params[parameter] = value
        page.switch_page(f"views/{name}.py")
        return page.run()

    return opened
