"""The shortest way in a real browser: sign in, make a picture, see its ancestors, and nothing else is asked."""

from collections.abc import Callable
from typing import Any


def test_sign_in_generate_and_trace(
    browser: Any,
    dashboard: Any,
    secrets: dict[str, str],
    drawn: Callable[[Any], None],
    watched: Callable[[Any], list[str]],
) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    wrong = watched(page)
    page.goto(f"{dashboard.address}/?steps=4&shown=3&seed=31")
    page.get_by_label("Access token").fill(secrets["admin"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Generate and trace").click()
    page.get_by_text("Proponents").first.wait_for()
    pictures = page.locator("img[alt^='Training image']")
    pictures.nth(5).wait_for()
    drawn(page)
    assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth)")
    assert "picture=" in page.url
    assert not wrong
