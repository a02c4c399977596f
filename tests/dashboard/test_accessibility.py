"""axe-core over every page, light and dark: nothing that it calls serious or critical."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

STREAMLITS_OWN: dict[str, str] = {}
"""Rules whose findings lie in what Streamlit draws and no page can change, with the reason."""
PAGES = (
    "?start=an+image",
    "trace",
    "compare",
    "images",
    "audit",
    "audit?look=outliers",
    "audit?look=near+duplicates",
    "audit?look=families",
    "audit?look=groups",
    "review?state=any",
    "health",
)
RUN = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations
  .filter(one => ['serious', 'critical'].includes(one.impact))
  .map(one => [one.id, one.nodes.map(node => node.html.slice(0, 160) + ' | ' + (node.failureSummary || ''))])"""


def findings(page: Any, axe: str, name: str) -> list[str]:
    page.evaluate(axe)
    return [
        f"{name}: {rule}: {node}" for rule, nodes in page.evaluate(RUN) if rule not in STREAMLITS_OWN for node in nodes
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_on_any_page(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], scheme: str
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.base", reason="axe-playwright-python of the dev extra is not installed"
    ).AXE_SCRIPT
    found = list[str]()
    entry = browser.new_context(color_scheme=scheme).new_page()
    entry.set_default_timeout(120_000)
    entry.goto(dashboard.address)
    entry.get_by_role("button", name="Sign in").wait_for()
    found += findings(entry, axe, "sign in")

    page = sign_in(browser, dashboard.address, "?steps=4&shown=3", color_scheme=scheme)
    page.get_by_role("button", name="Generate and trace").click()
    page.get_by_text("Proponents").first.wait_for()
    drawn(page)
    found += findings(page, axe, "generate, with a picture")
    page.get_by_text("Ask about a part, or noise levels").click()
    page.get_by_text("Nearest training images").click()
    page.get_by_role("tab", name="Groups").click()
    drawn(page)
    found += findings(page, axe, "generate, opened")
    page.locator("label").filter(has_text="Review ▲1").first.wait_for(state="attached")
    page.get_by_role("tab", name="Ancestors").click()
    page.get_by_role("button", name="Inspect").first.click()
    page.get_by_role("dialog").wait_for()
    drawn(page)
    found += findings(page, axe, "an image inspected")
    for name in PAGES:
        page.goto(f"{dashboard.address}/{name}")
        page.get_by_role("heading", level=1).wait_for()
        drawn(page)
        found += findings(page, axe, name)
    assert not found, "\n".join(found)
