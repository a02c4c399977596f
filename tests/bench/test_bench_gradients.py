"""The gradient benchmark: what it keeps of the peers, and a quick run of all of it on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent
PEERS = {
    "model": "S",
    "kept": False,
    "measured": "2026-01-31",
    "rows": 4,
    "timesteps": [200],
    "versions": {"trak": "1.0"},
    "variants": {"trak": {"samples_per_second": 2.0, "ratio": 0.5, "low": 0.4, "high": 0.6}},
}


@pytest.mark.parametrize("dated", [True, False])
def test_peers_of_earlier_results_are_kept_with_their_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dated: bool
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from gradient_bench.peers import earlier

    file = tmp_path / "found.json"
    assert earlier(file) is None
    file.write_text(json.dumps({"models": {}}))
    assert earlier(file) is None
    peers = {key: value for key, value in PEERS.items() if dated or key != "measured"}
    file.write_text(json.dumps({"peers": peers}))
    os.utime(file, (86400, 86400))
    assert earlier(file) == PEERS | ({} if dated else {"measured": "1970-01-02"})


@pytest.mark.slow
def test_quick_run_measures_every_variant(tmp_path: Path) -> None:
    command = [sys.executable, BENCH / "bench_gradients.py", "--quick", "--dataset", "digits"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/found.json").write_text(json.dumps({"peers": PEERS}))
    subprocess.run([*command, "--cache", tmp_path / "cache", "--output", tmp_path / "docs/found"], check=True)
    results = json.loads((tmp_path / "docs/found.json").read_text(encoding="utf-8"))
    variants = results["models"]["tiny"]["variants"]
    assert variants["training step"]["ratio"] == variants["training step"]["memory"] == 1.0
    assert all(row["ratio"] > 0 for row in variants.values())
    sketched = {name: row for name, row in variants.items() if name.startswith("forebear")}
    flags = results["machine"]["flags"]
    precisions = 2 if flags["avx512_bf16"] or flags["amx_bf16"] else 1
    assert len(sketched) == 3 * precisions
    assert all(row["shared"]["inner_spearman"] > 0.5 for row in sketched.values())
    assert sketched["forebear exact, k=256, float32"]["own"]["norm_error"] < 1e-4
    page = (tmp_path / "docs/found.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in variants)
    assert results["peers"] == PEERS | {"kept": True}
    assert "| trak | 0.50 | 0.40–0.60 | 2 |" in page
    assert "Measured on 2026-01-31, and kept since" in page
