"""Jobs on a Ray of this machine: who works before it is there, who works then, and what is left when it is over."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forebear.forking import can_fork
from forebear.jobs.local import may_fork
from forebear.jobs.pool import Pool

pytestmark = pytest.mark.skipif(not can_fork(), reason="workers are forked on Linux alone")
DRIVER = Path(__file__).with_name("crew_driver.py")
LONGEST = 90.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def tries(folder: Path, task: str) -> list[tuple[int, int]]:
    """(process, what it was forked from) of every try."""
    lines = (folder / f"{task}.tries").read_text().splitlines()
    return [(int(process), int(parent)) for process, parent in (line.split() for line in lines)]


def test_forked_workers_do_everything_once_before_ray_is_there_and_then(
    tmp_path: Path, is_running: Callable[..., bool], wait_until: Callable[..., None]
) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path)]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    names = sorted(path.name.removesuffix(".tries") for path in tmp_path.glob("*.tries"))
    plain = [name for name in names if name[-1].isdigit()]
    assert told["results"] == dict.fromkeys([*plain, "first-deadly", "ray-deadly"], 42)
    assert {"first-00000", "ray-00019", "again-00000"} <= set(plain)

    failed = [f"{phase}-{kind}" for phase in ("first", "ray") for kind in ("poison", "refused", "hanging")]
    assert sorted(told["reasons"]) == sorted(told["set_aside"]) == sorted(failed)
    for phase in ("first", "ray"):
        assert told["reasons"][f"{phase}-refused"] == "1 tries: it cannot be done"
        assert told["reasons"][f"{phase}-poison"].startswith("3 tries")
        assert "did not answer for" in told["reasons"][f"{phase}-hanging"]
        assert len(tries(tmp_path, f"{phase}-deadly")) == 2
        assert len(tries(tmp_path, f"{phase}-poison")) == len(tries(tmp_path, f"{phase}-hanging")) == 3

    everyone = [pair for name in names for pair in tries(tmp_path, name)]
    (server,) = {parent for _, parent in everyone}  # actors' workers are forked where the first one was
    early = {process for name in names if name.startswith("first-0") for process, _ in tries(tmp_path, name)}
    late = {process for name in names if name.startswith("ray-0") for process, _ in tries(tmp_path, name)}
    assert early
    assert late
    assert not early & late
    wait_until(
        lambda: not any(is_running(process) for process, _ in everyone) and not is_running(server), seconds=LONGEST
    )


def test_nothing_outlives_a_driver_that_is_killed(
    tmp_path: Path, is_running: Callable[..., bool], wait_until: Callable[..., None]
) -> None:
    driver = subprocess.Popen([sys.executable, str(DRIVER), str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE)
    wait_until(lambda: (tmp_path / "ray-hanging.tries").exists() or driver.poll() is not None, seconds=LONGEST)
    assert driver.poll() is None
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(driver.pid)], capture_output=True, text=True, check=True)
    below = [int(pid) for pid in found.stdout.split()]
    workers = {process for path in tmp_path.glob("*.tries") for process, _ in tries(tmp_path, path.stem)}
    assert any(is_running(process) for process in workers)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not any(is_running(process) for process in (*workers, *below)), seconds=LONGEST)


def test_a_ray_elsewhere_or_gpus_are_no_case_for_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not may_fork(Pool(1, gpus=0.5))
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert not may_fork(Pool(1))


def test_a_ray_that_was_begun_is_no_case_for_forks(ray_session: None) -> None:
    assert not may_fork(Pool(1))
