"""The scale benchmark: its figures from a made-up job, and a quick run of all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent


def test_a_rate_counts_only_while_all_workers_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from scale_bench.job import Timed, middle

    # Two workers open until second 9, then each does 4 pictures in 2 seconds.
    two = Timed(
        2, seconds=17.0, curve=((11.0, 4), (11.0, 8), (13.0, 12), (13.0, 16), (15.0, 20), (15.0, 24)), store_bytes=1
    )
    assert two.pictures == 24
    assert two.rate == 16 / 4.0
    assert two.start_up == 17.0 - 24 / 4.0
    here = Timed(0, seconds=12.0, curve=((4.0, 4), (6.0, 8), (12.0, 20)), store_bytes=1)
    assert here.rate == 16 / 8.0
    assert middle([here, two, here]) == here


@pytest.mark.slow
def test_quick_run_measures_everything(tmp_path: Path) -> None:
    command = [
        sys.executable,
        BENCH / "bench_scale.py",
        "--quick",
        "--dataset",
        "digits",
        "--cache",
        tmp_path / "cache",
    ]
    subprocess.run([*command, "--output", tmp_path / "docs/found"], check=True)
    results = json.loads((tmp_path / "docs/found.json").read_text(encoding="utf-8"))
    runs = results["workers"]
    assert [run["workers"] for run in runs] == [0, 1, 2]
    assert all(run["curve"][-1][1] == results["job"]["pictures"] and run["rate"] > 0 for run in runs)
    assert len({run["store_bytes"] for run in runs}) == 1  # the same files, whoever wrote them
    assert all(results["storage"][name] > 0 for name in ("write", "verify", "read"))
    assert [run["samples"] for run in results["simulation"]["runs"]] == [10_000, 100_000]
    assert all(run["counts"]["done"] == -(-run["samples"] // 256) for run in results["simulation"]["runs"])
    page = (tmp_path / "docs/found.md").read_text(encoding="utf-8")
    assert "| two actors over one, rate |" in page
    assert "| 100,000,000 |" in page
