"""The whole way in a real browser: sign in, generate, trace, send to review, judge, export. Debian's Chromium does."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HERE = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
DRAWN = "document.querySelector('[data-testid=stApp]').getAttribute('data-test-script-state') === 'notRunning'"
SECONDS = 60

pytestmark = pytest.mark.slow


@pytest.fixture
def pages(address: str, unused_port: int, tmp_path: Path) -> Iterator[str]:
    """The address of the dashboard, started by its command."""
    command = [str(Path(sys.executable).with_name("forebear")), "dashboard", "--no-browser"]
    command += ["--address", address, "--port", str(unused_port)]
    environment = {name: value for name, value in os.environ.items() if name != "FOREBEAR_TOKEN"}
    log = (tmp_path / "log.txt").open("w+")
    started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    place = f"http://127.0.0.1:{unused_port}"
    try:
        _wait_for(f"{place}/_stcore/health", started)
        yield place
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(timeout=SECONDS)
        log.seek(0)
        told = log.read()
        log.close()
    assert "Traceback" not in told, told


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    import time

    for _ in range(SECONDS * 5):
        assert process.poll() is None, "the dashboard ended"
        with suppress(urllib.error.URLError), urllib.request.urlopen(url) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    pytest.fail("the dashboard did not start")


@pytest.fixture
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright of the dev extra is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def drawn(page: Any) -> None:
    """Wait until the script has run."""
    page.wait_for_timeout(400)
    page.wait_for_function(DRAWN)


def test_from_signing_in_to_an_exported_report(
    browser: Any, pages: str, secrets: dict[str, str], tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(SECONDS * 1000)
    outside, wrong = list[str](), list[str]()
    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(HERE) else None)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))

    page.goto(f"{pages}/?steps=4&shown=3")
    page.get_by_label("Access token").fill(secrets["admin"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Generate and trace").wait_for()
    drawn(page)

    page.get_by_role("button", name="Generate and trace").click()  # 1
    page.get_by_text("Proponents").wait_for()
    drawn(page)
    assert "picture=" in page.url
    assert page.locator("img[alt^='Training image']").count() >= 6
    page.locator("label").filter(has_text="Review ▲1").first.click()  # 2
    page.get_by_role("button", name="Send ticked images to review").click()  # 3
    page.get_by_text("Sent 1 image to review").wait_for()
    page.screenshot(path=tmp_path / "trace.png")

    page.reload()  # the session is found again, and the link traces the same picture
    page.get_by_text("Proponents").wait_for()

    page.get_by_role("link", name="Review queue").click()  # 4
    page.get_by_text("Review 1 of 1").wait_for()
    drawn(page)
    page.keyboard.press("x")  # 5
    page.get_by_text("Nothing waits for a verdict").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Deny list").click()  # 6
    assert saved.value.path().read_text(encoding="utf-8").count("\n") == 1
    page.screenshot(path=tmp_path / "review.png")

    assert not outside
    assert not wrong
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("trace.png", "review.png"))


def test_pages_fit_a_telephone(browser: Any, pages: str, secrets: dict[str, str]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(SECONDS * 1000)
    page.goto(pages)
    page.get_by_label("Access token").fill(secrets["admin"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Generate and trace").wait_for()
    drawn(page)
    for name, heading in (("", "Generate and trace"), ("images", "Training images"), ("review", "Review queue")):
        page.goto(f"{pages}/{name}")
        page.get_by_role("heading", name=heading).wait_for()
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
