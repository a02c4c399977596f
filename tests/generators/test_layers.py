"""Integer layers against whole-number arithmetic in NumPy; splitting and planning against the models themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, ModelError
from forebear_generators.quantisation.layers import Clock, Operation, QuantisedLayer, SplitLayer
from forebear_generators.quantisation.layout import lay_out
from forebear_generators.quantisation.settings import QuantisationConfig, WeightsConfig
from forebear_generators.quantisation.temporal import TemporalBlock

Build = Callable[..., DiffusionModel]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integer_linear(codes: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return whole.astype(np.int64) @ codes.astype(np.int64).T


def unfolded(x: np.ndarray, width: int) -> np.ndarray:
    """Windows of a convolution with padding 1: [B, h, w, c * width * width]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(*windows.shape[:1], *windows.shape[2:4], -1)


@pytest.mark.parametrize("largest", [15, 127])
@pytest.mark.parametrize("convolution", [True, False])
def test_the_reference_is_whole_number_arithmetic(largest: int, convolution: bool) -> None:
    clock = Clock((30.0, 10.0))
    layer = nn.Conv2d(160, 4, 3, padding=1) if convolution else nn.Linear(1100, 4)
    codes = torch.randint(-largest, largest + 1, layer.weight.shape, generator=seeded())
    codes[0] = largest  # the largest sums there are
    scale, bias = torch.rand(4, generator=seeded(1)) / 100, torch.randn(4, generator=seeded(2))
    quantised = QuantisedLayer(Operation.of(layer), codes, scale, bias, clock)
    assert quantised.codes.dtype == torch.int8
    quantised.quantise_inputs(torch.tensor([0.02, 0.05]), torch.tensor([3, 250], dtype=torch.int32))
    x = torch.rand((2, 160, 5, 5) if convolution else (3, 1100), generator=seeded(3)) * 5
    for step, (s, z) in enumerate(((0.02, 3), (0.05, 250))):
        clock.set(torch.tensor([[30, 10][step]] * len(x)), None)
        whole = np.clip(np.rint(x.numpy() / np.float32(s)) + z, 0, 255) - z
        if convolution:
            sums = integer_linear(codes.flatten(1).numpy(), unfolded(whole, 3)).transpose(0, 3, 1, 2)
            shape = (1, 4, 1, 1)
        else:
            sums, shape = integer_linear(codes.numpy(), whole), (1, 4)
        # Sums fit float64; the scales are applied in float32.
        wanted = torch.from_numpy(sums).float() * (torch.tensor(s) * scale).view(shape) + bias.view(shape)
        assert torch.equal(quantised(x), wanted)
    assert quantised.exact_in_float == (largest == 15 and 255 * int(codes.flatten(1).abs().sum(1).max()) < 2**24)


def test_without_integer_inputs_a_layer_is_its_dequantised_self() -> None:
    layer = nn.Linear(5, 3)
    codes, scale = torch.randint(-300, 300, (3, 5), generator=seeded()), torch.rand(3)
    quantised = QuantisedLayer(Operation.of(layer), codes, scale, None, Clock((0.0,)))
    assert quantised.codes.dtype == torch.int16
    x = torch.randn(2, 5)
    torch.testing.assert_close(quantised(x), x @ (codes * scale[:, None]).T)


def test_a_clock_knows_its_times_only() -> None:
    clock = Clock((999.0, 499.0))
    clock.set(torch.tensor(499), None)
    assert clock.step == 1
    with pytest.raises(ConfigError, match="knows nothing of timestep 500"):
        clock.set(torch.tensor([500, 500]), None)
    with pytest.raises(ModelError, match="batches of one timestep"):
        clock.set(torch.tensor([499, 999]), None)


def test_a_split_convolution_is_the_same_one() -> None:
    layer = nn.Conv2d(7, 4, 1)
    x = torch.randn(2, 7, 3, 3)
    torch.testing.assert_close(SplitLayer.of(layer, 3)(x), layer(x))


def test_other_padding_is_refused() -> None:
    with pytest.raises(ModelError, match="pads with other than zeros"):
        Operation.of(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))


@pytest.mark.parametrize("conditioning", ["none", "text"])
def test_splits_lie_where_the_joined_inputs_meet(build: Build, conditioning: str) -> None:
    """What a split shortcut's first half reads is what came from below: it is not in any down block's output."""
    model = build(conditioning)
    layout = lay_out(model, QuantisationConfig())
    shortcuts = {name for name, _ in model.denoiser.named_modules() if name.endswith("conv_shortcut") and "up_" in name}
    assert set(layout.splits) == shortcuts
    assert len(shortcuts) == 4
    for name, at in layout.splits.items():
        resnet = model.denoiser.get_submodule(name.rpartition(".")[0])
        assert 0 < at < resnet.in_channels
        split = resnet.conv_shortcut
        assert split.first.in_channels == at
        assert split.second.in_channels == resnet.in_channels - at
    skips = [8, 8, 8, 16]  # of conv_in, the first level, its downsampler, the second level
    taken = [model.denoiser.get_submodule(name).second.in_channels for name in layout.splits]
    assert taken == skips[::-1]


def test_every_layer_has_its_role(build: Build) -> None:
    model = build("text")
    layout = lay_out(model, QuantisationConfig(variant="w4a8", weights=WeightsConfig(first_last="8-bit")))
    roles = {layer.name: layer for layer in layout.layers}
    assert roles["conv_in"].role == "first"
    assert roles["conv_out"].role == "last"
    assert (roles["conv_in"].bits, roles["conv_in"].symmetric) == (8, True)
    body = roles["down_blocks.0.resnets.0.conv1"]
    assert (body.role, body.bits, body.symmetric) == ("body", 4, False)
    assert roles["down_blocks.0.downsamplers.0.conv"].role == "resampling"
    assert {layer.name for layer in layout.temporal()} == set(TemporalBlock(model.denoiser).layers())
    kinds = (nn.Linear, nn.Conv2d)
    assert set(roles) == {name for name, module in model.denoiser.named_modules() if isinstance(module, kinds)}
    inside = [layer.name for unit in layout.units for layer in layout.of_unit(unit)]
    assert sorted(inside + [layer.name for layer in layout.temporal()]) == sorted(roles)
    assert layout.units[0] == "conv_in"
    assert layout.units[-1] == "conv_out"
    first, last = (next(p for p, u in enumerate(layout.units) if u.startswith(part)) for part in ("mid", "up_"))
    assert first < last


@pytest.mark.parametrize(
    ("weights", "left_out"),
    [
        ({"first_last": "float"}, {"conv_in", "conv_out"}),
        (
            {"first_last": "same", "resampling": "float"},
            {"down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"},
        ),
    ],
)
def test_layers_can_be_left_alone(build: Build, weights: dict[str, str], left_out: set[str]) -> None:
    model = build("none")
    layout = lay_out(model, QuantisationConfig(weights=WeightsConfig(**weights)))  # type: ignore[arg-type]
    kinds = (nn.Linear, nn.Conv2d)
    every = {name for name, module in model.denoiser.named_modules() if isinstance(module, kinds)}
    assert every - {layer.name for layer in layout.layers} == left_out


def test_transformers_are_planned(dit: Path) -> None:
    layout = lay_out(DiffusionModel.load(dit), QuantisationConfig())
    names = {layer.name: layer.role for layer in layout.layers}
    assert names["transformer_blocks.1.norm1.linear"] == "temporal"
    assert names["proj_out_1"] == "temporal"
    assert "transformer_blocks.0" in layout.units
    assert "pos_embed.proj" not in names  # the first layer stays floating
    assert "proj_out_2" not in names  # and so does the last
