"""What is selected, what is covered, and how the rest is named."""

import pytest
import torch
from torch import Tensor, nn

from forebear.errors import ConfigError, ModelError
from forebear.gradients import GradientEngine, ProjectionConfig

SMALL = ProjectionConfig(dim=8)


class Mixed(nn.Module):
    """One covered layer, one of an unknown kind, one bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.slope = nn.PReLU()
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope(self.linear(x)) + self.shift


def test_uncovered_parameters_are_named_with_their_share() -> None:
    with pytest.raises(ModelError) as caught:
        GradientEngine(Mixed(), SMALL)
    message = str(caught.value)
    assert message.startswith("20.00% of the selected parameters cannot be covered")
    assert "shift (16.00%: no rule for Mixed)" in message
    assert "slope.weight (4.00%: no rule for PReLU)" in message
    assert "'!shift'" in message


def test_many_uncovered_parameters_make_a_short_message() -> None:
    with pytest.raises(ModelError, match="and 4 more;"):
        GradientEngine(nn.Sequential(*(nn.PReLU() for _ in range(12))), SMALL)


def test_uncovered_parameters_can_be_left_out() -> None:
    engine = GradientEngine(Mixed(), SMALL, allow_uncovered=True)
    assert [share.name for share in engine.coverage.covered] == ["linear.weight", "linear.bias"]
    assert [(share.name, share.numel) for share in engine.coverage.uncovered] == [("shift", 4), ("slope.weight", 1)]
    assert engine.coverage.uncovered_share == pytest.approx(0.2)
    assert engine.parameter_count == 20


def test_nothing_covered_is_an_error_even_when_uncovered_is_allowed() -> None:
    with pytest.raises(ModelError, match=r"100.00%"):
        GradientEngine(nn.PReLU(), SMALL, allow_uncovered=True)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["linear.*"], ["linear.weight", "linear.bias"]),
        (["*.weight", "!slope.*"], ["linear.weight"]),
        (["!shift", "!slope.weight"], ["linear.weight", "linear.bias"]),
        (["linear.bias", "linear.weight"], ["linear.weight", "linear.bias"]),
    ],
)
def test_patterns_select_in_the_order_of_the_module(patterns: list[str], names: list[str]) -> None:
    engine = GradientEngine(Mixed(), ProjectionConfig(dim=None), patterns)
    assert [share.name for share in engine.coverage.covered] == names
    assert engine.dim == engine.parameter_count == sum(share.numel for share in engine.coverage.covered)


def test_a_selection_takes_the_same_numbers_out_of_the_whole() -> None:
    module, inputs = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3)
    exact = ProjectionConfig(dim=None)
    whole = GradientEngine(module, exact).measure(lambda: module(inputs).sum(1))
    part = GradientEngine(module, exact, ["*.bias"]).measure(lambda: module(inputs).sum(1))
    assert torch.equal(part.vectors, torch.cat([whole.vectors[:, 12:16], whole.vectors[:, 24:]], 1))


@pytest.mark.parametrize("pattern", ["lora", "!lora"])
def test_a_pattern_without_a_match_is_an_error(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"no parameter matches the pattern 'lora'.*linear.weight"):
        GradientEngine(Mixed(), SMALL, ["linear.*", pattern])


def test_a_selection_of_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="leave no parameter"):
        GradientEngine(Mixed(), SMALL, ["linear.*", "!*"])


def test_a_weight_used_outside_its_layer_kind_is_not_covered() -> None:
    """The output projection of PyTorch's attention is a Linear that is never called: its gradient would be lost."""
    with pytest.raises(ModelError, match=r"out_proj.weight .*no rule for NonDynamicallyQuantizableLinear"):
        GradientEngine(nn.MultiheadAttention(4, 2), SMALL)


def test_a_weight_shared_with_an_uncovered_layer_is_not_covered() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Bilinear(3, 3, 3))
    module[1].bias = module[0].bias
    with pytest.raises(ModelError, match=r"0.bias .*no rule for Bilinear"):
        GradientEngine(module, SMALL, ["0.*"])
