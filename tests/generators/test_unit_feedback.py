"""Closed-form rounding of a block: sums against plain loops, the fit, the scale, the bias, and halves of a shortcut."""

from typing import Any

import pytest
import torch
from torch import nn

from forebear_generators.quantisation.layers import Clock, Operation, SplitLayer
from forebear_generators.quantisation.layout import PlannedLayer
from forebear_generators.quantisation.reconstruction import Inputs, LearnedLayer
from forebear_generators.quantisation.settings import WeightsConfig
from forebear_generators.quantisation.unit_feedback import (
    Moments,
    _full_inputs,
    decoded,
    fitted_scale,
    moments,
    round_layer,
)

PLAN = PlannedLayer("layer", "body", 4, False, False, False)
LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (40, 3, 6)),
    "no bias": (lambda: nn.Linear(6, 5, bias=False), (120, 6)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding=1), (12, 3, 5, 5)),
    "strided": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (12, 3, 6, 6)),
}


@pytest.fixture(params=list(LAYERS))
def case(request: pytest.FixtureRequest) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A layer, what it reads behind rounded layers, and what it read before."""
    torch.manual_seed(0)
    build, shape = LAYERS[request.param]
    wanted = torch.randn(shape) + 0.5
    return build(), wanted + 0.1 * torch.randn(shape), wanted


def outputs(layer: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What a layer gives with other weights, [R, out]."""
    with torch.no_grad():
        y = Operation.of(layer)(x, weight.view(layer.weight.shape), bias)
    return (y.flatten(2).transpose(1, 2) if y.dim() == 4 else y).reshape(-1, len(weight)).double()


def test_sums_give_the_squared_error_of_any_weights(
    case: tuple[Any, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, read, wanted = case
    monkeypatch.setattr("forebear_generators.quantisation.unit_feedback.UNFOLDED", 500)  # several chunks
    seen = moments(layer, read, wanted)
    aim = outputs(layer, wanted, layer.weight, None)
    weight = torch.randn_like(layer.weight.flatten(1))
    given = outputs(layer, read, weight, None)
    if layer.bias is not None:
        aim, given = aim - aim.mean(0), given - given.mean(0)
    wide = weight.double()
    found = ((wide @ seen.gram) * wide).sum(1) - 2 * (wide * seen.cross.T).sum(1)
    torch.testing.assert_close(found, (given - aim).square().sum(0) - aim.square().sum(0), rtol=1e-4, atol=1e-2)


def test_a_rounded_layer_is_nearer_to_what_is_wanted_and_its_mean_is_exact(
    case: tuple[Any, torch.Tensor, torch.Tensor],
) -> None:
    layer, read, wanted = case
    aim = outputs(layer, wanted, layer.weight, layer.bias)
    rounded = round_layer(layer, PLAN, read, wanted, WeightsConfig())
    assert int(rounded.codes.amin()) >= 0
    assert int(rounded.codes.amax()) <= 15
    plain = LearnedLayer(layer, PLAN, WeightsConfig()).rounded("nearest")
    errors = []
    for each in (rounded, plain):
        weight = decoded(each.codes.flatten(1), each.scale, each.zero)
        given = outputs(layer, read, weight, each.bias if each.bias is not None else layer.bias)
        errors.append(float((given - aim).square().sum()))
        if each.bias is not None:
            torch.testing.assert_close(given.mean(0), aim.mean(0), rtol=0, atol=1e-5)
    assert errors[0] < errors[1]
    made = rounded.layer(Operation.of(layer), layer.bias, Clock((0.0,)))
    assert (made.bias is None) == (layer.bias is None)
    if rounded.bias is not None:
        torch.testing.assert_close(made.bias, rounded.bias)


def test_the_scale_is_the_one_of_the_least_error() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(50, 6, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    seen = Moments(x.T @ x, x.T @ y, torch.zeros(6), torch.zeros(4))
    code = torch.randint(-7, 8, (4, 6))
    code[0] = 0  # says nothing: its scale stays
    start = torch.full((4,), 0.1)
    scale, error = fitted_scale(code, start, seen)
    assert scale[0] == start[0]
    for row in range(1, 4):
        along = x @ code[row].double()
        best = float(along @ y[:, row] / (along @ along))
        torch.testing.assert_close(float(scale[row]), best if best > 0 else 0.1, rtol=1e-5, atol=0)
        missed = (float(scale[row]) * along - y[:, row]).square().sum() - y[:, row].square().sum()
        torch.testing.assert_close(float(error[row]), float(missed), rtol=1e-4, atol=1e-4)


def test_convolutions_in_groups_are_rounded_to_the_nearest() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    x = torch.randn(2, 4, 5, 5)
    found = round_layer(layer, PLAN, x, x, WeightsConfig())
    assert torch.equal(found.codes, LearnedLayer(layer, PLAN, WeightsConfig()).rounded("nearest").codes)


def test_each_half_of_a_shortcut_has_its_part_of_the_whole_ones_input() -> None:
    class Unit(nn.Module):
        def __init__(self, shortcut: nn.Module) -> None:
            super().__init__()
            self.shortcut = shortcut

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.shortcut(x)
            return y

    convolution = nn.Conv2d(5, 2, 1)
    whole = nn.ModuleDict({"unit": Unit(convolution)})
    halved = nn.ModuleDict({"unit": Unit(SplitLayer.of(convolution, 3))})
    x = torch.randn(4, 5, 2, 2)
    names = ["unit.shortcut.first", "unit.shortcut.second"]
    found = _full_inputs(halved, whole, "unit", names, Inputs([((x[:2],), {}), ((x[2:],), {})]))
    assert torch.equal(found[names[0]], x[:, :3])
    assert torch.equal(found[names[1]], x[:, 3:])
