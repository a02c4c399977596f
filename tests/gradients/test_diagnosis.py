"""The doctor's checks, on modules small enough to know the answers."""

import pytest
import torch
from torch import Tensor, nn

from forebear.errors import ForebearError
from forebear.gradients import GradientEngine, ProjectionConfig, layer_rule, layers
from forebear.gradients.diagnosis import (
    TAKEN_OUT,
    EngineOfSeveral,
    Measure,
    coverage_rows,
    exactness,
    layer_errors,
    plain_gradients,
    sketch_error,
)


class Gain(nn.Module):
    """A kind of layer that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.5, 2.0, 1.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Linear(4, 24), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).unflatten(2, (3, 1, 8)).permute(2, 0, 3, 1, 4)
        return self.out(self.norm(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]))


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(1)
    return Attends()


def measuring(module: nn.Module, samples: int = 3) -> Measure:
    x = torch.randn(samples, 5, 4, generator=torch.Generator().manual_seed(2))
    return lambda rows: module(x[rows]).square().flatten(1).mean(1)


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def test_plain_gradients_are_autograds(module: nn.Module) -> None:
    measure = measuring(module)
    module.norm.weight.requires_grad_(False)
    found = plain_gradients(module, names(module), measure, 3)
    assert not module.norm.weight.requires_grad
    module.norm.weight.requires_grad_(True)
    for sample in range(3):
        module.zero_grad()
        measure(slice(sample, sample + 1)).sum().backward()
        expected = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
        torch.testing.assert_close(found[sample], expected)


def test_gradient_that_is_not_finite_is_named(module: nn.Module) -> None:
    with torch.no_grad():
        module.out.weight[0, 0] = float("nan")
    with pytest.raises(ForebearError, match=r"the gradient of \S+ is not finite"):
        plain_gradients(module, names(module), measuring(module), 1)


def test_every_parameter_has_its_row(module: nn.Module) -> None:
    whole = nn.Sequential(module, Gain())
    rows, coverage = coverage_rows(whole, ("*", "!0.norm.*"))
    found = {row.kind: (row.layers, row.parameters, row.covered, row.reason) for row in rows}
    assert found == {
        "Linear": (2, 4 * 24 + 24 + 8 * 4 + 4, True, ""),
        "LayerNorm": (1, 16, False, TAKEN_OUT),
        "Gain": (1, 4, False, "no rule for Gain"),
    }
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert {row.kind: row.wanted for row in rows} == {"Linear": True, "LayerNorm": False, "Gain": True}
    assert [share.name for share in coverage.uncovered] == ["1.gain"]


def test_right_paths_are_exact(module: nn.Module) -> None:
    measure = measuring(module)
    true = plain_gradients(module, names(module), measure, 3)
    paths = {path.path: path for path in exactness(module, ("*",), measure, true)}
    assert {"as embedded", "channels last", "math attention", "flash attention"} <= set(paths)
    assert all(path.worst < 1e-5 for path in paths.values())
    assert {layer.name for layer in paths["math attention"].errors} == {"into", "norm", "out"}
    # The kernel for memory-efficient attention exists on GPUs alone.
    assert bool(paths["efficient attention"].refused) == (not torch.cuda.is_available())


def test_errors_are_relative_to_the_layer(module: nn.Module) -> None:
    true = plain_gradients(module, names(module), measuring(module), 3)
    wrong = true.clone()
    start = 4 * 24 + 24
    wrong[1, start : start + 16] *= 1.5  # of the norm
    worst, *others = layer_errors(module, ("*",), wrong, true)
    assert (worst.name, worst.kind) == ("norm", "LayerNorm")
    size, floor = true[1, start : start + 16].norm(), 1e-2 * true[1].norm()
    assert worst.error == pytest.approx(float(0.5 * size / max(size, floor)), rel=1e-4)
    assert [layer.error for layer in others] == [0, 0]


@pytest.fixture
def wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_RULES", dict(layers._RULES))
    right = layers.layer_norm

    @layer_rule(nn.LayerNorm)
    def doubled(module: nn.LayerNorm, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
        found = right(module, x, grad, samples)
        return {**found, "weight": 2 * found["weight"]}


def test_wrong_rule_is_named_on_every_path(module: nn.Module, wrong_rule: None) -> None:
    measure = measuring(module)
    true = plain_gradients(module, names(module), measure, 3)
    for path in exactness(module, ("*",), measure, true):
        if not path.refused:
            assert [layer.name for layer in path.errors if layer.error > 1e-4] == ["norm"]
    assert sketch_error(GradientEngine(module, ProjectionConfig(dim=64)), measure, true) > 1e-3


def test_sketches_of_a_right_engine_are_those_of_autograd(module: nn.Module) -> None:
    measure = measuring(module)
    true = plain_gradients(module, names(module), measure, 3)
    assert sketch_error(GradientEngine(module, ProjectionConfig(dim=64)), measure, true) < 1e-5


@pytest.mark.parametrize("mode", ["fast", "default"])
def test_several_lengths_at_once_are_those_of_one_each(mode: str) -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 4))
    x = torch.randn(2, 80)

    def measurement() -> Tensor:
        return module(x).square().sum(1)

    together = EngineOfSeveral(module, mode, (100, 300), 7, ("*",), "float32").measure(measurement)
    for dim, part in zip((100, 300), together.vectors.split([100, 300], 1), strict=True):
        alone = GradientEngine(module, ProjectionConfig(dim=dim, seed=7, mode=mode)).measure(measurement)
        torch.testing.assert_close(part, alone.vectors)
        torch.testing.assert_close(together.norms, alone.norms)
