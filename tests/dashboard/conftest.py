"""The tiny run of tests/serve behind a real HTTP address on loopback, and the dashboard's pages over it."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

os.environ["STREAMLIT_RUNNER_MAGIC_ENABLED"] = "false"  # as the dashboard's own settings have it
pytest.importorskip("streamlit", reason="the dashboard extra is not installed")
from streamlit.testing.v1 import AppTest

from forebear_serve.database import Database, Scope, Tokens
from forebear_serve.settings import ServeSettings

TESTS = Path(__file__).parents[1]
APP = TESTS.parent / "dashboard/forebear_dashboard/app.py"

# The fixtures of tests/serve: pytest shares a conftest with the folders below it alone.
_spec = importlib.util.spec_from_file_location("served", TESTS / "serve/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_served = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_served)
served_run, settings, api, secrets = _served.served_run, _served.settings, _served.api, _served.secrets
make_core, start_server, forebear_command = _served.make_core, _served.start_server, _served.forebear_command


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


@pytest.fixture(scope="session")
def token_for(settings: ServeSettings) -> Callable[[str], str]:
    """The secret of a token with several scopes: `token_for("read review")`."""
    tokens, made = Tokens(Database.open(settings.database_url)), dict[str, str]()

    def secret(scopes: str) -> str:
        if scopes not in made:
            made[scopes] = tokens.create(f"one who may {scopes}", [Scope(one) for one in scopes.split()])[1]
        return made[scopes]

    return secret


@pytest.fixture
def open_page(environment: pytest.MonkeyPatch, secrets: dict[str, str], token_for: Callable[[str], str]) -> Open:
    """`open_page("images", scope="admin", text="3")`: the page as it is drawn for a token and an address."""

    def opened(name: str, scope: str = "admin", **parameters: str) -> AppTest:
        environment.setenv("FOREBEAR_TOKEN", secrets.get(scope) or token_for(scope))
        page = AppTest.from_file(str(APP), default_timeout=60)
        for parameter, value in parameters.items():
            page.query_params[parameter] = value
        page.switch_page(f"views/{name}.py")
        return page.run()

    return opened


@pytest.fixture
def words() -> Callable[[AppTest], str]:
    """Everything that a page says."""

    def told(page: AppTest) -> str:
        assert not page.exception, page.exception[0]
        kinds = ("title", "subheader", "markdown", "caption", "info", "success", "warning", "error")
        found = [str(one.value) for kind in kinds for one in getattr(page, kind)]
        return "\n".join([*found, *(one.proto.body for one in page.get("html"))])

    return told


@pytest.fixture
def press() -> Callable[[AppTest, str], AppTest]:
    """Press the button of a label, and draw the page anew."""

    def pressed(page: AppTest, label: str) -> AppTest:
        return next(one for one in page.button if one.label == label).click().run()

    return pressed


# -- A real browser ----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DRAWN = "document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'"
SECONDS = 120
"""That a browser waits: a busy machine is slow, and is no failure."""
PICTURES = TESTS.parent / "build/dashboard"
"""Where the browser's tests leave pictures of the pages and what they measured; git does not see it."""


@dataclass(frozen=True)
class Dashboard:
    """`forebear dashboard`, running."""

    address: str
    pid: int
    log: Path


@pytest.fixture(scope="session")
def run_dashboard() -> Callable[..., Any]:
    """`with run_dashboard(services, folder) as dashboard:`; at its end the log must hold no trace."""

    @contextmanager
    def running(services: str, folder: Path) -> Iterator[Dashboard]:
        port, log = free_port(), folder / "dashboard.log"
        command = [str(Path(sys.executable).with_name("forebear")), "dashboard", "--no-browser"]
        command += ["--address", services, "--port", str(port)]
        environment = {name: value for name, value in os.environ.items() if name != "FOREBEAR_TOKEN"}
        with log.open("w") as told:
            started = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
        place = f"http://127.0.0.1:{port}"
        try:
            _wait_for(f"{place}/_stcore/health", started)
            yield Dashboard(place, started.pid, log)
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(timeout=SECONDS)
        assert "Traceback" not in log.read_text(), log.read_text()

    return running


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(SECONDS * 5):
        assert process.poll() is None, "the dashboard ended"
        with suppress(urllib.error.URLError), urllib.request.urlopen(url) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    pytest.fail("the dashboard did not start")


@pytest.fixture(scope="module")
def dashboard(
    address: str, run_dashboard: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dashboard]:
    """Over the API of these tests."""
    with run_dashboard(address, tmp_path_factory.mktemp("dashboard")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium; not for the session, since asyncio is taken while it is open."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright of the dev extra is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def drawn() -> Callable[[Any], None]:
    """Wait until a page's script has run."""

    def wait(page: Any) -> None:
        page.wait_for_timeout(400)
        page.wait_for_function(DRAWN)

    return wait


HERE = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
SEARCHED = ("/_stcore/health", "/_stcore/host-config")
"""Below a page's own address, Streamlit's script looks for its server, and a browser calls the 404 an error."""


@pytest.fixture(scope="session")
def watched() -> Callable[[Any], list[str]]:
    """`wrong = watched(page)`: whatever the page asks of others, and every error in its console, from now on."""

    def watch(page: Any) -> list[str]:
        wrong = list[str]()

        def told(message: Any) -> None:
            if message.type == "error" and not message.location.get("url", "").endswith(SEARCHED):
                wrong.append(f"console: {message.text} {message.location}")

        page.on("request", lambda one: wrong.append(f"asked: {one.url}") if not one.url.startswith(HERE) else None)
        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(f"raised: {error}"))
        return wrong

    return watch


@pytest.fixture(scope="session")
def sign_in(secrets: dict[str, str], drawn: Callable[[Any], None]) -> Callable[..., Any]:
    """`sign_in(browser, address, query, **settings)`: a page of a session of its own, drawn."""

    def signed_in(browser: Any, address: str, query: str = "", **settings: Any) -> Any:
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings}).new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.goto(f"{address}/{query}")
        page.get_by_label("Access token").fill(secrets["admin"])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Generate and trace").wait_for()
        drawn(page)
        return page

    return signed_in


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The folder for what people should look at."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES
