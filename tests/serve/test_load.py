"""Many clients at once for a bounded time, on loopback: no server error, and who has to wait is told how long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from forebear.run import Run

pytestmark = pytest.mark.slow
BENCH = Path(__file__).parents[1] / "bench" / "bench_serve_load.py"
CLIENTS = 32
GROWTH = 1.25
"""Of the replicas' memory between the middle and the end."""


def test_clients_beyond_what_the_server_takes_on_are_told_to_wait(
    served_run: Run, tmp_path: Path, record_testsuite_property
) -> None:
    body = {"label": 3, "steps": 5, "attribute": {"top_k": 5}}
    command = [sys.executable, BENCH, "--run", served_run.folder, "--clients", str(CLIENTS), "--body", json.dumps(body)]
    done = subprocess.run(
        [*command, "--output", tmp_path / "load"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "load.json").read_text())["loads"]["1"]
    record_testsuite_property("load", f"{found['statuses']}, MB {found['memory_middle']} then {found['memory_end']}")
    assert set(found["statuses"]) <= {"200", "429"}
    assert found["statuses"]["200"] > CLIENTS
    assert found["unexplained"] == []
    for name, megabytes in found["memory_end"].items():
        assert 0 < megabytes <= GROWTH * found["memory_middle"][name], name
