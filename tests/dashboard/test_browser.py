"""The whole way in a real browser: sign in, generate, trace, send to review, judge, export. Debian's Chromium does."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKING = re.compile("Asking for the picture|Step .* of 20|tracing it")
"""What a page says while it waits for the services."""
DRAGGED = ((1.3, 2.2), (5.7, 4.8))
"""Corners in pixels of the picture: whatever a box touches is of it."""
COUNT_CLICKS = "addEventListener('click', one => { if (one.isTrusted && one.detail) clicked(); }, true);"
pytestmark = pytest.mark.slow


def test_from_the_start_page_to_an_exported_report_in_six_clicks(
    browser: Any,
    dashboard: Any,
    sign_in: Callable[..., Any],
    drawn: Callable[[Any], None],
    watched: Callable[[Any], list[str]],
    pictures: Path,
) -> None:
    page = sign_in(browser, dashboard.address, "?steps=4&shown=3")
    wrong, clicks = watched(page), list[bool]()
    page.expose_function("clicked", lambda: clicks.append(True))
    page.evaluate(COUNT_CLICKS)

    page.get_by_role("button", name="Generate and trace").click()  # 1
    page.get_by_text("Proponents").first.wait_for()
    drawn(page)
    assert "picture=" in page.url
    page.locator("img[alt^='Training image']").nth(5).wait_for()
    page.locator("label").filter(has_text="Review ▲1").first.click()  # 2
    page.get_by_role("button", name="Send ticked images to review").click()  # 3
    page.get_by_text("Sent 1 image to review").wait_for()
    page.screenshot(path=pictures / "generate.png")
    page.get_by_role("link", name="Review queue").first.click()  # 4
    page.get_by_text("Review 1 of 1").wait_for()
    drawn(page)
    page.get_by_role("button", name="Remove").click()  # 5
    page.get_by_text("Nothing waits for a verdict").wait_for()
    drawn(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Report (HTML)").click()  # 6
    told = saved.value.path().read_text(encoding="utf-8")
    assert "<strong>Remove</strong>" in told
    assert told.count("<img") == 2  # the training image, and the picture that it was found for
    page.wait_for_timeout(200)
    assert 5 <= len(clicks) <= 6, clicks

    with page.expect_download() as saved:
        page.get_by_role("button", name="Deny list").click()
    assert saved.value.path().read_text(encoding="utf-8").count("\n") == 1
    page.screenshot(path=pictures / "review.png")
    assert not wrong


def test_keys_judge_and_a_reload_stays_signed_in(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None]
) -> None:
    page = sign_in(browser, dashboard.address, "?steps=4&shown=3&seed=11")
    page.get_by_role("button", name="Generate and trace").click()
    page.get_by_text("Proponents").first.wait_for()
    page.reload()  # the session is found again, and the link traces the same picture
    page.get_by_text("Proponents").first.wait_for()
    drawn(page)
    page.locator("label").filter(has_text="Review ▲2").first.click()
    page.get_by_role("button", name="Send ticked images to review").click()
    page.get_by_text("to review").first.wait_for()
    page.goto(f"{dashboard.address}/review")
    page.get_by_text("Review 1 of 1").wait_for()
    drawn(page)
    page.get_by_role("button", name="Keep").wait_for()  # keys work as soon as their button is there
    page.keyboard.press("k")
    page.get_by_text("Nothing waits for a verdict").wait_for()


def test_token_that_is_refused(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], token_for: Callable[[str], str], drawn: Callable
) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{dashboard.address}/review")
    page.get_by_label("Access token").fill("fb_nonsense")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("This token is not accepted").wait_for()
    assert not page.get_by_role("link", name="Review queue").count()
    page.get_by_label("Access token").fill(token_for("read review"))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Review queue").wait_for()  # the page that was asked for
    drawn(page)
    assert not page.get_by_role("link", name="Generate and trace").count()  # which this token may not use


def test_box_dragged_on_the_picture_is_traced(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], pictures: Path
) -> None:
    page = sign_in(browser, dashboard.address, "?steps=4&shown=3&seed=3")
    page.get_by_role("button", name="Generate and trace").click()
    page.get_by_text("Proponents").first.wait_for()
    drawn(page)
    page.get_by_text("Ask about a part, or noise levels").click()
    canvas = page.get_by_test_id("stVegaLiteChart").locator("svg, canvas").first
    canvas.scroll_into_view_if_needed()
    drawn(page)
    assert page.get_by_role("button", name="Trace this part").is_disabled()
    place, side = canvas.bounding_box(), 8  # pixels of the picture, drawn 200 wide
    corners = [(place["x"] + place["width"] * x / side, place["y"] + place["height"] * y / side) for x, y in DRAGGED]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=10)
    page.mouse.up()
    drawn(page)
    page.get_by_role("button", name="Trace this part").click()  # not before the box has come over
    page.get_by_text("About the box from (1, 2) to (6, 5)").wait_for()
    drawn(page)
    page.screenshot(path=pictures / "brush.png", full_page=True)
    page.get_by_role("button", name="Whole picture").click()
    page.get_by_text("About the box from").wait_for(state="detached")


def test_generators_are_compared(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], watched: Callable
) -> None:
    page = sign_in(browser, dashboard.address)
    wrong = watched(page)
    page.goto(f"{dashboard.address}/compare?seed=5&steps=4")
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="Seed 6").wait_for()
    drawn(page)
    page.get_by_role("img", name="The picture of fp32").nth(1).wait_for()  # one for each seed
    page.get_by_role("link", name="Its ancestors").first.click()
    page.get_by_text("Proponents").first.wait_for()
    assert "picture=" in page.url
    assert not wrong


def test_ancestors_are_on_screen_soon_after_the_service_has_them(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], pictures: Path
) -> None:
    """Measures, and asserts no time: docs/dashboard.md has the figures."""
    page = sign_in(browser, dashboard.address, "?shown=12&steps=20")
    found = []
    for seed in range(101, 106):  # the first also loads what the page is drawn with
        page.goto(f"{dashboard.address}/?shown=12&steps=20&seed={seed}")
        page.get_by_role("button", name="Generate and trace").wait_for()
        drawn(page)
        started = time.perf_counter()
        page.get_by_role("button", name="Generate and trace").click()
        page.get_by_text(WORKING).first.wait_for()
        page.locator("img[alt^='Training image']").nth(11).wait_for()
        seconds = time.perf_counter() - started
        told = page.get_by_text(re.compile(r"Answered .* after asking")).inner_text()
        service = sum(
            float(value) / (1000 if unit == "ms" else 1)
            for stage, value, unit in re.findall(r"([a-z ]+) ([\d.]+) (ms|s)", told.partition("(")[2])
            if stage.strip() != "embed early"  # beside the picture
        )
        found.append({"on screen": seconds, "service": service, "page": seconds - service})
    _keep(pictures, "generate-to-ancestors", found)
    assert all(one["service"] > 0 for one in found)


def test_picture_is_made_around_an_image(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], pictures: Path
) -> None:
    page = sign_in(browser, dashboard.address, "?shown=3&steps=10&start=an+image")
    page.get_by_text("training image", exact=True).click()
    page.get_by_role("button", name="Take ").first.click()
    page.get_by_text("of the canvas is kept").wait_for()
    drawn(page)
    page.get_by_role("button", name="Generate and trace").click()
    page.get_by_text("Where the picture comes from").wait_for()
    drawn(page)
    page.get_by_role("tab", name="Kept area and rest").click()
    page.get_by_role("button", name="Trace both").click()
    page.get_by_role("heading", name="The rest").wait_for()
    drawn(page)
    page.screenshot(path=pictures / "around.png", full_page=True)


@pytest.mark.parametrize("width", [390, 768])
def test_pages_fit_narrow_screens(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], width: int
) -> None:
    page = sign_in(browser, dashboard.address, viewport={"width": width, "height": 844})
    for name in ("?start=an+image", "trace", "compare", "images", "audit", "review", "health"):
        page.goto(f"{dashboard.address}/{name}")
        page.get_by_role("heading", level=1).wait_for()
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


def _keep(pictures: Path, name: str, found: Any) -> None:
    told = {"load": os.getloadavg(), "found": found}
    (pictures / f"{name}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
