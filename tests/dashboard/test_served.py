"""The pages over `forebear serve` itself, with all its processes: the other browser tests have the API in their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_picture_is_made_traced_and_judged(
    start_server: Callable[[], Any],
    run_dashboard: Callable[..., Any],
    browser: Any,
    drawn: Callable[[Any], None],
    watched: Callable[[Any], list[str]],
    tmp_path: Path,
) -> None:
    server = start_server()
    with run_dashboard(server.address, tmp_path) as dashboard:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        wrong = watched(page)
        page.goto(f"{dashboard.address}/?steps=4&shown=3")
        page.get_by_label("Access token").fill(server.secret)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Generate and trace").click()
        page.get_by_text("Proponents").first.wait_for()
        drawn(page)
        page.locator("label").filter(has_text="Review ▲1").first.click()
        page.get_by_role("button", name="Send ticked images to review").click()
        page.get_by_text("Sent 1 image to review").wait_for()
        page.get_by_role("link", name="Review queue").first.click()
        page.get_by_role("button", name="Remove").click()
        page.get_by_text("Nothing waits for a verdict").wait_for()
        page.get_by_role("link", name="Runs and health").first.click()
        page.get_by_text("All parts answer").wait_for()
        drawn(page)
        assert not wrong
    with server.client() as client:
        assert client.export_reviews("deny").decode().count("\n") == 1
