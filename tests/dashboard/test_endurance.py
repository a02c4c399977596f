"""A hundred rapid interactions of five people, and the first page of a run with four thousand training images."""

import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

pytestmark = pytest.mark.slow

PEOPLE, WARMING, INTERACTIONS = 5, 50, 100
MOST_GROWTH = 48 * 2**20
"""Bytes that the dashboard may hold more after the interactions than before: allocators keep some for later."""
SAMPLES = 4_000


def held(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def interactions(pages: list[Any]) -> Iterator[Callable[[], Any]]:
    """One after the other, each of another person: none waits for the one before to be answered."""
    ways = cycle(
        [
            lambda page: page.get_by_role("link", name="Training images").first.click(),
            lambda page: page.get_by_role("link", name="Dataset audit").first.click(),
            lambda page: page.get_by_role("link", name="Review queue").first.click(),
            lambda page: page.get_by_role("link", name="Generate and trace").first.click(),
            lambda page: page.get_by_role("button", name="Generate and trace").first.click(),
            lambda page: page.get_by_role("link", name="Runs and health").first.click(),
            lambda page: page.get_by_role("link", name="Generate and trace").first.click(),
        ]
    )
    for number, page in enumerate(cycle(pages)):
        if number % len(pages) == 0:
            way = next(ways)
        yield lambda page=page, way=way: way(page)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_five_people_in_a_hurry(
    browser: Any, dashboard: Any, sign_in: Callable[..., Any], drawn: Callable[[Any], None], pictures: Path
) -> None:
    pages = [sign_in(browser, dashboard.address, f"?steps=4&shown=3&seed={seed}") for seed in range(PEOPLE)]
    wrong = list[str]()
    for page in pages:
        page.on("pageerror", lambda error: wrong.append(str(error)))
    todo = interactions(pages)
    memory = list[int]()
    for count in (WARMING, INTERACTIONS):
        for one in islice(todo, count):
            one()
        for page in pages:
            drawn(page)
        memory.append(held(dashboard.pid))
    for page in pages:
        assert page.get_by_role("heading", level=1).count() == 1
        assert not page.get_by_text("Oh no").count()
    assert "Traceback" not in dashboard.log.read_text()
    assert not wrong
    (pictures / "soak.json").write_text(json.dumps({"load": os.getloadavg(), "bytes": memory}), encoding="utf-8")
    assert memory[1] - memory[0] < MOST_GROWTH, memory


@pytest.fixture(scope="module")
def large_address(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any], make_core: Callable[..., Any]
) -> Iterator[tuple[str, str]]:
    """A run with four thousand images behind an address of its own, and a token for it."""
    from forebear.config import parse
    from forebear.diffusion.training import TrainConfig, train
    from forebear.estimators import DEFAULT_ESTIMATOR
    from forebear.gradients import ProjectionConfig
    from forebear.index import IndexConfig
    from forebear.jobs import EmbedConfig, build_indexes, embed
    from forebear.run import Run
    from forebear_serve.database import Database, Scope, Tokens
    from forebear_serve.gateway.api import make_api
    from forebear_serve.settings import ServeSettings

    folder = tmp_path_factory.mktemp("large")
    levels = np.random.default_rng(0).integers(0, 256, (SAMPLES, 8, 8), np.uint8)
    for number, one in enumerate(levels):
        place = folder / "images" / f"class-{number % 10}" / f"{number:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(place)
    run = Run(folder / "run")
    told = {
        "data": {"source": str(folder / "images")},
        "training": {"epochs": 1, "batch_size": 100, "warmup_steps": 2},
        "model": tiny_model,
    }
    assert train(run, parse(TrainConfig, told, "tests"))
    embed(run, EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=256)))
    build_indexes(run, [DEFAULT_ESTIMATOR, "pixel"], IndexConfig())
    settings = ServeSettings(run=run.folder)
    api = make_api(make_core(settings))
    _, secret = Tokens(Database.open(settings.database_url)).create("tests", list(Scope))
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error", access_log=False))
    import threading

    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", secret
    server.should_exit = True
    thread.join()


def test_first_page_of_four_thousand_images(
    browser: Any,
    large_address: tuple[str, str],
    run_dashboard: Callable[..., Any],
    tmp_path: Path,
    pictures: Path,
) -> None:
    """Measures, and asserts no time: docs/dashboard.md has the figures."""
    address, secret = large_address
    found = dict[str, float]()
    with run_dashboard(address, tmp_path) as dashboard:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(240_000)
        page.goto(f"{dashboard.address}/images")
        page.get_by_label("Access token").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text(f"{SAMPLES:,} images").wait_for()
        wanted = {
            "images": page.get_by_text(f"{SAMPLES:,} images"),
            "": page.get_by_role("button", name="Generate and trace"),
            "review": page.get_by_text("Nothing waits for a verdict"),
            "health": page.get_by_text("All parts answer"),
            "audit": page.get_by_text("Gini coefficient"),
        }
        page.goto(f"{dashboard.address}/audit")
        wanted["audit"].wait_for()  # it is computed once, and kept
        for name, sign in wanted.items():
            started = time.perf_counter()
            page.goto(f"{dashboard.address}/{name}")
            sign.first.wait_for()
            found[name or "generate"] = time.perf_counter() - started
    told = {"load": os.getloadavg(), "seconds": found}
    (pictures / "first-paint.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    assert set(found) == {"images", "generate", "review", "health", "audit"}
