"""Our metrics against quanda's and dattri's on the same matrices, each peer in an environment that the test makes."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebear.evaluation.lds import lds
from forebear.evaluation.metrics import (
    auc,
    first_ranks,
    precision_at,
    recall_at_k,
    reciprocal_ranks,
    top_rows,
    unique_ratio,
)
from forebear.files import fingerprint

HERE = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parents[2] / "runs" / "peers"
"""Kept between runs: the first takes minutes."""
QUERIES, SAMPLES, SUBSETS, TOP = 12, 300, 40, 20
RECALL_AT = (1, 10)


def environment(peer: str) -> Path:
    """The Python of a peer's environment, made when it is not there or its requirements have changed."""
    folder, requirements = ENVIRONMENTS / peer, HERE / f"requirements-{peer}.txt"
    python, stamp = folder / "bin" / "python", folder / "requirements-fingerprint"
    torch = f"torch=={version('torch').split('+')[0]}"
    wanted = fingerprint([torch, requirements.read_text(encoding="utf-8")])
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip(python, torch)
        pip(python, "--no-deps", "-r", str(requirements))
        stamp.write_text(wanted, encoding="utf-8")
    return python.absolute()


def pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-qq", "--no-input", "--prefer-binary", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        pytest.skip(f"{' '.join(command)} failed, is a package index in reach? {finished.stderr[-500:]}")


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """Scores without equal ones, so that peers that break ties by chance agree; some of them predict the losses."""
    random = np.random.default_rng(3)
    members = np.stack([random.permutation(SAMPLES)[: SAMPLES // 2] for _ in range(SUBSETS)])
    scores = random.standard_normal((QUERIES, SAMPLES))
    truth = scores + 2.0 * random.standard_normal((QUERIES, SAMPLES))
    losses = -np.stack([truth[:, rows].sum(1) for rows in members])  # [S, Q]
    relevant = random.random((QUERIES, SAMPLES)) < 0.01
    relevant[np.arange(QUERIES), random.integers(SAMPLES, size=QUERIES)] = True
    planted = random.random(SAMPLES) < 0.05
    self_influence = np.abs(random.standard_normal(SAMPLES)) + planted * 0.8
    return {
        "scores": scores,
        "losses": losses,
        "subsets": members,
        "relevant": relevant,
        "recall_at": np.array(RECALL_AT),
        "top": np.array(TOP),
        "self_influence": self_influence,
        "planted": planted,
    }


def measured(peer: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    python = environment(peer)
    np.savez(folder / "given.npz", **given)
    command = [str(python), str(HERE / "measure.py"), peer, str(folder / "given.npz"), str(folder / "found.json")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


def our_lds(given: dict[str, Any]) -> np.ndarray[Any, Any]:
    members = np.zeros((SUBSETS, SAMPLES), np.bool_)
    for number, rows in enumerate(given["subsets"]):
        members[number, rows] = True
    return lds(given["scores"], members, given["losses"])


@pytest.mark.slow
def test_quanda_agrees(given: dict[str, Any], tmp_path: Path) -> None:
    found = measured("quanda", given, tmp_path)
    ranks = first_ranks(given["scores"], given["relevant"])
    planted, scores = given["planted"], given["self_influence"]
    positives, negatives = int(planted.sum()), int((~planted).sum())
    mean_rank = SAMPLES - (positives - 1) / 2 - auc(scores, planted) * negatives
    first_step = precision_at(scores, planted, 1) / positives
    ours = {
        "MRR": reciprocal_ranks(ranks).mean(),
        "unique ratio": unique_ratio(top_rows(given["scores"], TOP)),
        "detection curve": (SAMPLES + 1 - mean_rank - (first_step + 1) / 2) / SAMPLES,  # by trapezoids
        **{f"recall@{k}": recall_at_k(ranks, k).mean() for k in RECALL_AT},
    }
    theirs_lds = found.pop("lds")
    assert np.std(theirs_lds) > 0.01
    np.testing.assert_allclose(our_lds(given), theirs_lds, rtol=0, atol=1e-6)
    assert found == pytest.approx(ours, rel=0, abs=1e-6)


@pytest.mark.slow
def test_dattri_agrees(given: dict[str, Any], tmp_path: Path) -> None:
    found = measured("dattri", given, tmp_path)
    np.testing.assert_allclose(our_lds(given), found["lds"], rtol=0, atol=1e-6)
    assert found["AUC"] == pytest.approx(auc(given["self_influence"], given["planted"]), rel=0, abs=1e-6)
    assert 0.6 < found["AUC"] < 0.99
