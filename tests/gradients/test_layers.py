"""Every layer rule against plain autograd, one sample at a time."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.normalization import RMSNorm as DiffusersRMSNorm
from torch import Tensor, nn

from forebear.errors import ModelError
from forebear.gradients import GradientEngine, ProjectionConfig, layer_rule
from forebear.gradients.projection import CHANNELS, KeptChannels

EXACT = ProjectionConfig(dim=None)
SAMPLES = 3


def conv(channels: int, out: int, kernel: int | tuple[int, int], **settings: object) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, **settings)  # type: ignore[arg-type]


def transposed(channels: int, out: int, kernel: int | tuple[int, int], **settings: object) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, kernel, **settings)  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (5,)),
    "linear over a sequence": (lambda: nn.Linear(5, 4), (7, 5)),
    "linear over a grid": (lambda: nn.Linear(5, 4), (2, 3, 5)),
    "conv": (lambda: conv(3, 4, 3), (3, 6, 5)),
    "conv without bias": (lambda: conv(3, 4, 3, padding=1, bias=False), (3, 6, 5)),
    "conv 1x1": (lambda: conv(3, 4, 1), (3, 6, 5)),
    "conv 1x1 stride 2": (lambda: conv(3, 4, 1, stride=2), (3, 6, 5)),
    "conv stride": (lambda: conv(3, 4, 3, stride=2, padding=1), (3, 7, 6)),
    "conv uneven everything": (
        lambda: conv(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        (3, 9, 7),
    ),
    "conv leaves a rest": (lambda: conv(2, 3, 3, stride=3), (2, 8, 7)),
    "conv dilation": (lambda: conv(3, 4, 3, dilation=2), (3, 8, 7)),
    "conv groups": (lambda: conv(4, 6, 3, groups=2, padding=1), (4, 5, 6)),
    "conv depthwise": (lambda: conv(4, 8, 3, groups=4, padding=1), (4, 5, 6)),
    "conv valid": (lambda: conv(3, 4, 3, padding="valid"), (3, 6, 5)),
    "conv same": (lambda: conv(3, 4, 3, padding="same", dilation=2), (3, 6, 5)),
    "conv same with an even kernel": (lambda: conv(3, 4, (2, 4), padding="same"), (3, 6, 5)),
    "conv reflect": (lambda: conv(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 5)),
    "conv replicate": (lambda: conv(3, 4, 3, padding=(2, 1), padding_mode="replicate"), (3, 6, 5)),
    "conv circular": (lambda: conv(3, 4, 3, padding=1, stride=2, padding_mode="circular"), (3, 6, 5)),
    "conv same and reflect": (lambda: conv(3, 4, (3, 2), padding="same", padding_mode="reflect"), (3, 6, 5)),
    "conv transposed": (lambda: transposed(3, 4, 3), (3, 4, 5)),
    "conv transposed uneven everything": (
        lambda: transposed(
            3, 4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), dilation=(2, 1), bias=False
        ),
        (3, 4, 5),
    ),
    "conv transposed groups": (lambda: transposed(4, 6, 2, stride=2, groups=2), (4, 3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 3, 4)),
    "group norm over a vector": (lambda: nn.GroupNorm(2, 6), (6,)),
    "layer norm": (lambda: nn.LayerNorm(5), (4, 5)),
    "layer norm over two dimensions": (lambda: nn.LayerNorm((3, 5), eps=0.1), (2, 3, 5)),
    "layer norm without bias": (lambda: nn.LayerNorm(5, bias=False), (5,)),
    "layer norm in float32": (lambda: FP32LayerNorm(5), (4, 5)),
    "rms norm": (lambda: nn.RMSNorm(5), (4, 5)),
    "rms norm over two dimensions": (lambda: nn.RMSNorm((3, 5), eps=0.1), (2, 3, 5)),
    "rms norm of diffusers": (lambda: DiffusersRMSNorm(5, eps=1e-3, bias=True), (4, 5)),
}


def randomise(module: nn.Module) -> nn.Module:
    """Ones and zeros hide mistakes in a normalisation's weight and bias."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of each sample's norm."""
    assert found.shape == expected.shape
    assert float(expected.norm(dim=1).min()) > 0
    assert float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max()) < 1e-5


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_autograd(case: str, group: int, autograd_gradients: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    build, shape = CASES[case]
    module = randomise(build())
    inputs = torch.randn(SAMPLES * group, *shape)

    def measure(rows: slice) -> Tensor:
        return module(inputs[rows]).sin().flatten(1).sum(1)

    expected = autograd_gradients(module, measure, SAMPLES, group)
    found = GradientEngine(module, EXACT).measure(lambda: measure(slice(None)), group)
    assert_close(found.vectors, expected)
    torch.testing.assert_close(found.norms, expected.norm(dim=1), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.values, measure(slice(None)).detach().reshape(SAMPLES, group).sum(1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("linear", "conv"))])
def test_projected_channels_equal_the_projected_gradient(
    case: str, autograd_gradients: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebear.gradients.projection.SMALL_WEIGHT", 0)
    monkeypatch.setitem(CHANNELS, "default", KeptChannels((3, 2), (3, 2)))
    torch.manual_seed(0)
    build, shape = CASES[case]
    module = randomise(build())
    inputs = torch.randn(SAMPLES, *shape)

    def measure(rows: slice) -> Tensor:
        return module(inputs[rows]).sin().flatten(1).sum(1)

    engine = GradientEngine(module, ProjectionConfig(dim=8))
    expected = engine.sketch(autograd_gradients(module, measure, SAMPLES))
    assert_close(engine.measure(lambda: measure(slice(None))).vectors, expected)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding_equals_autograd(
    padding_idx: int | None, shape: tuple[int, ...], group: int, autograd_gradients: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    module = randomise(nn.Embedding(6, 3, padding_idx=padding_idx))
    # Without a 2 among the scalars: its gradient is zero and has no relative error.
    tokens = torch.tensor([0, 5, 3, 3, 1, 4, 2, 2, 0, 1, 5, 3]).repeat(4)[
        : SAMPLES * group * int(torch.Size(shape).numel())
    ]
    tokens = tokens.reshape(SAMPLES * group, *shape)

    def measure(rows: slice) -> Tensor:
        return module(tokens[rows]).sin().flatten(1).sum(1)

    expected = autograd_gradients(module, measure, SAMPLES, group)
    assert_close(GradientEngine(module, EXACT).measure(lambda: measure(slice(None)), group).vectors, expected)


def test_channels_last_and_strided_inputs_equal_autograd(autograd_gradients: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(conv(3, 4, 3, padding=1), conv(4, 4, 1)).to(memory_format=torch.channels_last)
    inputs = torch.randn(SAMPLES, 6, 5, 6).to(memory_format=torch.channels_last)[:, ::2]

    def measure(rows: slice) -> Tensor:
        return module(inputs[rows]).sin().sum((1, 2, 3))

    expected = autograd_gradients(module, measure, SAMPLES)
    assert_close(GradientEngine(module, EXACT).measure(lambda: measure(slice(None))).vectors, expected)


def test_low_precision_layers_give_float32_gradients(autograd_gradients: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(conv(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    inputs = torch.randn(SAMPLES, 3, 4, 4)

    def measure(rows: slice) -> Tensor:
        return module(inputs[rows]).float().sin().sum(1)

    expected = autograd_gradients(module, measure, SAMPLES)
    engine = GradientEngine(module, EXACT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = engine.measure(lambda: measure(slice(None))).vectors
    assert found.dtype == torch.float32
    assert float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max()) < 0.02


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Embedding(4, 2, max_norm=1.0), "max_norm"),
        (nn.Embedding(4, 2, scale_grad_by_freq=True), "mixes the samples"),
    ],
)
def test_settings_without_a_per_sample_gradient_are_refused(module: nn.Module, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        GradientEngine(module, EXACT)


class Scale(nn.Module):
    """A layer kind that Forebear does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def test_a_researcher_adds_a_layer_kind(
    autograd_gradients: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebear.gradients.layers._RULES", {})
    with pytest.raises(ModelError, match="no rule for Scale"):
        GradientEngine(Scale(), EXACT)

    @layer_rule(Scale, parameters=("gain",))
    def scale(module: Scale, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
        return {"gain": (x * grad).reshape(samples, -1, 4).sum(1)}

    module, inputs = Scale(), torch.randn(SAMPLES, 5, 4)

    def measure(rows: slice) -> Tensor:
        return module(inputs[rows]).sin().sum((1, 2))

    expected = autograd_gradients(module, measure, SAMPLES)
    assert_close(GradientEngine(module, EXACT).measure(lambda: measure(slice(None))).vectors, expected)


def test_a_rule_of_the_wrong_shape_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebear.gradients.layers._RULES", {})

    @layer_rule(Scale, parameters=("gain",))
    def scale(module: Scale, x: Tensor, grad: Tensor, samples: int) -> dict[str, Tensor]:
        return {"gain": (x * grad).sum(0)}

    module, inputs = Scale(), torch.randn(SAMPLES, 4)
    with pytest.raises(ModelError, match=r"rule for Scale must return 'gain' of shape \[3, 4\]"):
        GradientEngine(module, EXACT).measure(lambda: module(inputs).sum(1))
