"""`forebear doctor` on a tiny trained run: its figures, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from forebear.diffusion.model import DiffusionModel
from forebear.gradients import layer_rule, layers
from forebear.gradients.diagnosis import plain_gradients
from forebear.jobs.doctor_costs import cost, sweep
from forebear.jobs.doctor_subject import Subject
from forebear.jobs.embed_config import EmbedConfig
from forebear.run import Run

QUICK = ("--samples", 6, "--timesteps", 2)


@pytest.fixture(scope="module")
def examined(embedded_run: Path, forebear, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    file = tmp_path_factory.mktemp("doctor") / "found.json"
    result = forebear("doctor", "--run", embedded_run, *QUICK, "--dim", 4096, "--min-fidelity", 0.5, "--json", file)
    assert result.exit_code == 0, result.output
    return result.output, json.loads(file.read_text())


def test_report_is_complete(examined: tuple[str, dict]) -> None:
    output, found = examined
    titles = ("coverage", "largest relative error", "fidelity", "throughput", "memory", "where the time goes")
    for title in (*titles, "recommended", "all right"):
        assert title in output
    assert set(found) == {
        *("settings", "bfloat16", "bfloat16_layers", "memory_budget", "coverage", "exactness", "fidelity"),
        *("throughput", "memory", "time", "recommendation", "problems"),
    }
    assert found["problems"] == []
    assert found["settings"]["projection"]["dim"] == 4096
    assert "forebear embed --run" in output
    assert found["recommendation"]["options"] in output
    settings = {
        (r["setting"]["mode"], r["setting"]["dim"], r["setting"]["precision"]) for r in found["fidelity"]["rows"]
    }
    assert settings == {
        (mode, dim, precision)
        for mode in ("fast", "default")
        for dim in (1024, 2048, 4096, 8192)
        for precision in ("float32", "bfloat16")
    }


def test_coverage_and_exactness_are_those_of_the_model(examined: tuple[str, dict], embedded_run: Path) -> None:
    _, found = examined
    denoiser = DiffusionModel.load(embedded_run / "model").denoiser
    convolutions = [part for part in denoiser.modules() if type(part) is nn.Conv2d]
    row = next(row for row in found["coverage"] if row["kind"] == "Conv2d")
    assert row["layers"] == len(convolutions)
    assert row["parameters"] == sum(p.numel() for part in convolutions for p in part.parameters())
    assert sum(row["parameters"] for row in found["coverage"]) == sum(p.numel() for p in denoiser.parameters())
    paths = {path["path"]: path for path in found["exactness"]["paths"]}
    assert {"as embedded", "channels last", "math attention", "flash attention"} <= set(paths)
    assert all(layer["error"] < 1e-4 for path in paths.values() for layer in path["errors"])
    assert 0 < found["exactness"]["own"] < 1e-4


def test_fidelity_is_scipys_on_whole_gradients(examined: tuple[str, dict], embedded_run: Path) -> None:
    from forebear.gradients import GradientEngine, ProjectionConfig

    subject = Subject.of_run(Run(embedded_run), EmbedConfig(), 6, 2)
    denoiser = subject.model.denoiser
    engine = GradientEngine(denoiser, ProjectionConfig(dim=2048))
    pairs, correlations, spreads = np.triu_indices(6, 1), [], []
    for timestep in subject.timesteps:
        measure = subject.at(timestep)
        true = plain_gradients(denoiser, [name for name, _ in denoiser.named_parameters()], measure, 6)
        batch = engine.measure(lambda measure=measure: measure(slice(0, 6)))
        # Each divided by its own norm, as embeddings are, and not by the norm that the engine reports.
        units = [vectors / vectors.norm(dim=1, keepdim=True) for vectors in (true, batch.vectors)]
        one, other = ((unit @ unit.T).numpy()[pairs] for unit in units)
        correlations.append(spearmanr(one, other).statistic)
        spreads.append(float((batch.norms / true.norm(dim=1)).std(correction=0)))
    rows = examined[1]["fidelity"]["rows"]
    row = next(r for r in rows if r["setting"] == {"mode": "default", "dim": 2048, "precision": "float32"})
    assert row["mean"]["cosine_spearman"] == pytest.approx(np.mean(correlations), abs=1e-6)
    assert row["mean"]["norm_error"] == pytest.approx(np.mean(spreads), abs=1e-4)


def test_shares_of_the_time_add_up(examined: tuple[str, dict]) -> None:
    found = examined[1]["time"]
    assert set(found["shares"]) == {"read", "forward", "backward", "project", "contract", "fold", "rest", "write"}
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert all(found["seconds"][step] > 0 for step in ("read", "forward", "backward", "contract", "fold", "write"))


def test_bfloat16_reaches_all_layers_but_the_last(examined: tuple[str, dict], embedded_run: Path) -> None:
    denoiser = DiffusionModel.load(embedded_run / "model").denoiser
    layers = sum(type(part) in (nn.Conv2d, nn.Linear) for part in denoiser.modules())
    found = examined[1]["bfloat16_layers"]
    assert (found["layers"], found["low"]) == (layers, layers - 1)
    assert 0.5 < found["share"] < 1


def test_cost_is_the_median_of_the_ratios_within_rounds() -> None:
    found = cost([2.0, 20.0, 4.0], [1.0, 10.0, 1.0], samples=8)
    assert (found.ratio, found.low, found.high, found.samples_per_second) == (0.5, 0.375, 0.5, 2.0)


@pytest.mark.slow
def test_every_checkpoint_is_examined_or_one(embedded_run: Path, forebear, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    call = ("doctor", "--run", embedded_run, *QUICK, "--min-fidelity", 0, "--json", file)
    result = forebear(*call, "--all-checkpoints")
    assert result.exit_code == 0, result.output
    names = [folder.name for folder in sorted((embedded_run / "checkpoints").iterdir())]
    found = json.loads(file.read_text())
    rows = {row["name"]: row["fidelity"]["mean"]["inner_pearson"] for row in found["checkpoints"]}
    assert list(rows) == names
    assert len(names) == 2
    assert rows[names[1]] == pytest.approx(own_pearson(found), abs=1e-4)
    assert rows[names[0]] != pytest.approx(own_pearson(found), abs=1e-4)
    assert forebear(*call, "--checkpoint", names[0]).exit_code == 0
    assert rows[names[0]] == pytest.approx(own_pearson(json.loads(file.read_text())), abs=1e-4)


def own_pearson(found: dict) -> float:
    """Of inner products, at the k that the run was embedded with."""
    own = {"mode": "default", "dim": 64, "precision": "float32"}
    return next(row["mean"]["inner_pearson"] for row in found["fidelity"]["rows"] if row["setting"] == own)


def test_unknown_checkpoint_is_refused_by_name(embedded_run: Path, forebear) -> None:
    result = forebear("doctor", "--run", embedded_run, "--checkpoint", "step-9")
    assert result.exit_code != 0
    assert "no checkpoint 'step-9'; there are step-" in str(result.exception) + result.output
    assert forebear("doctor", "--model", "m", "--data", "digits", "--all-checkpoints").exit_code == 2


def test_poor_settings_are_refused(embedded_run: Path, forebear) -> None:
    result = forebear("doctor", "--run", embedded_run, *QUICK, "--dim", 1, "--min-fidelity", 0.999)
    assert result.exit_code == 2, result.output
    assert "WRONG: the settings default, k = 1, float32 rank pictures at" in result.output


def test_model_without_a_run_is_examined_and_nothing_written(
    embedded_run: Path, forebear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOREBEAR_RUN", raising=False)
    model = embedded_run / "model"
    result = forebear("doctor", "--model", model, "--data", "digits", *QUICK, "--dim", 2048, "--min-fidelity", 0)
    assert result.exit_code == 0, result.output
    assert f"forebear embed --run RUN --model {model} --data digits --mode" in result.output
    assert forebear("doctor", "--model", model).exit_code == 2


@pytest.fixture
def own_rules(monkeypatch: pytest.MonkeyPatch) -> dict:
    rules = dict(layers._RULES)
    monkeypatch.setattr(layers, "_RULES", rules)
    return rules


def test_uncovered_parameter_is_named(embedded_run: Path, forebear, own_rules: dict, tmp_path: Path) -> None:
    del own_rules["torch.nn.modules.normalization.GroupNorm"]
    file = tmp_path / "found.json"
    result = forebear("doctor", "--run", embedded_run, *QUICK, "--min-fidelity", 0, "--json", file)
    assert result.exit_code == 2, result.output
    (problem,) = json.loads(file.read_text())["problems"]
    assert "cannot be covered" in problem
    assert "norm" in problem
    assert "no rule for GroupNorm" in problem


@pytest.fixture
def wrong_rule(own_rules: dict) -> None:
    right = layers.group_norm

    @layer_rule(nn.GroupNorm)
    def shifted(module: nn.GroupNorm, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
        return {name: 1.01 * found for name, found in right(module, x, grad, samples).items()}


def test_wrong_layer_is_named(embedded_run: Path, forebear, wrong_rule: None, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    result = forebear("doctor", "--run", embedded_run, *QUICK, "--min-fidelity", 0, "--json", file)
    assert result.exit_code == 2, result.output
    found = json.loads(file.read_text())
    assert "gradients are wrong (as embedded)" in found["problems"][0]
    worst = found["exactness"]["paths"][0]["errors"]
    wrong = [layer for layer in worst if layer["error"] > 1e-4]
    assert {layer["kind"] for layer in wrong} == {"GroupNorm"}
    assert max(layer["error"] for layer in wrong) == pytest.approx(0.01, rel=0.05)


def test_sweep_stops_at_the_budget_and_when_memory_runs_out() -> None:
    kept: list[Tensor] = []

    def work(rows: int) -> object:
        if rows > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return kept

    costs = sweep(lambda rows: lambda: work(rows), [1, 2, 4, 8, 16], 2**40, torch.device("cpu"))
    assert [(cost.rows, cost.fits) for cost in costs] == [(1, True), (2, True), (4, True), (8, False)]

    def hungry(rows: int) -> object:
        return torch.ones(rows, 2**20)  # 4 MiB for each row

    costs = sweep(lambda rows: lambda: hungry(rows), [2, 4, 8, 16, 32], 45 * 2**20, torch.device("cpu"))
    assert all(abs(cost.peak / (cost.rows * 2**22) - 1) < 0.2 for cost in costs if cost.peak and cost.rows >= 4)
    assert [cost.rows for cost in costs if not cost.fits] == [16] or costs[0].peak is None
