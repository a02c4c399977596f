"""The gradient benchmark: its statistics, and a quick run of all of it on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parent


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    from gradient_bench import fidelity

    return fidelity


def test_true_gradients_agree_wholly_with_themselves(fidelity: ModuleType) -> None:
    true = fidelity.Gram.of(torch.randn(12, 40, generator=torch.Generator().manual_seed(0)))
    found = fidelity.compare(true, true)
    agreement = (found.inner_spearman, found.cosine_spearman, found.inner_pearson, found.cosine_pearson, found.top)
    assert agreement == pytest.approx((1.0,) * 5)
    assert (found.cosine_error, found.norm_error) == (0.0, 0.0)


def test_noise_lowers_every_figure_and_scale_changes_rankings_not_at_all(fidelity: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 40, generator=generator)
    true = fidelity.Gram.of(vectors)
    noisy = fidelity.Gram.of(vectors + 0.3 * torch.randn(12, 40, generator=generator))
    found = fidelity.compare(noisy, true)
    assert 0.5 < found.cosine_spearman < 0.99
    assert found.top < 1.0
    assert found.cosine_error > 0.02
    assert found.norm_error > 0.02
    scaled = fidelity.compare(fidelity.Gram.of(3 * vectors), true)
    assert (scaled.inner_spearman, scaled.cosine_error) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_a_picture_is_not_its_own_neighbour(fidelity: ModuleType) -> None:
    angles = torch.linspace(0, 1.5, 8)
    true = fidelity.Gram.of(torch.stack([angles.cos(), angles.sin()], 1))
    # Cosines of another order everywhere: the nearest become the farthest, and only overlap by number is left.
    turned = fidelity.Gram(np.ones((8, 8)) + np.eye(8) - true.inner, np.ones(8))
    # Seven others, five wanted: of the farthest five, at least three are among the nearest five.
    assert fidelity.compare(turned, true).top == pytest.approx(3 / 5)


def test_cost_is_the_median_of_the_ratios_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from gradient_bench.timing import cost

    found = cost([2.0, 20.0, 4.0], [1.0, 10.0, 1.0], samples=8)
    assert (found.ratio, found.low, found.high, found.samples_per_second) == (0.5, 0.375, 0.5, 2.0)


@pytest.mark.slow
def test_quick_run_measures_every_variant(tmp_path: Path) -> None:
    command = [sys.executable, BENCH / "bench_gradients.py", "--quick", "--dataset", "digits"]
    subprocess.run([*command, "--cache", tmp_path / "cache", "--output", tmp_path / "docs/found"], check=True)
    results = json.loads((tmp_path / "docs/found.json").read_text(encoding="utf-8"))
    variants = results["models"]["tiny"]["variants"]
    assert variants["training step"]["ratio"] == variants["training step"]["memory"] == 1.0
    assert all(row["ratio"] > 0 for row in variants.values())
    sketched = {name: row for name, row in variants.items() if name.startswith("forebear")}
    assert len(sketched) == 6
    assert all(row["shared"]["inner_spearman"] > 0.5 for row in sketched.values())
    assert sketched["forebear exact, k=256, float32"]["own"]["norm_error"] < 1e-4
    page = (tmp_path / "docs/found.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in variants)
