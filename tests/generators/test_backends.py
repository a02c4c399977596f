"""Backends compute what the reference computes, and say what they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from forebear.errors import ConfigError
from forebear_generators.generator import Generator, Request
from forebear_generators.quantisation import backends, openvino_backend
from forebear_generators.quantisation.layers import Clock, Operation, QuantisedLayer
from forebear_generators.quantisation.network import QuantisedDenoiser
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import (
    CalibrationConfig,
    QuantisationConfig,
    RoundingConfig,
    WeightsConfig,
)

needs_onednn = pytest.mark.skipif(backends.onednn_problem() is not None, reason=str(backends.onednn_problem()))
STEPS = 3


@pytest.fixture(scope="module")
def generators(saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    model = saved("none", scheduler={"prediction_type": "sample"})
    folders = {}
    for variant, reduced in (("w4a8", False), ("w8a8", False), ("w8a8", True), ("w4a16", False)):
        name = variant + ("-reduced" if reduced else "")
        folders[name] = tmp_path_factory.mktemp(name)
        config = QuantisationConfig(
            variant=variant,
            steps=STEPS,
            calibration=CalibrationConfig(pictures=2),
            rounding=RoundingConfig(method="nearest"),
            weights=WeightsConfig(reduced=reduced, search="minmax"),
        )
        quantise(model, config, folders[name])
    return folders


def pixels(generator: Generator) -> torch.Tensor:
    return generator.run(Request(("", ""), (None, None), (1, 2), steps=STEPS)).pixels


@needs_onednn
@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(24, 8, 3, stride=2, padding=1), nn.Conv2d(24, 8, 1), nn.Linear(24, 8)],
    ids=["same", "halved", "shortcut", "linear"],
)
def test_onednn_is_the_reference(layer: nn.Module) -> None:
    """The same whole-number sums; only the scales are applied in another order."""
    clock = Clock((2.0, 1.0, 0.0))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-64, 65, layer.weight.shape, generator=generator)

    def made() -> QuantisedLayer:
        scale = torch.rand(8, generator=torch.Generator().manual_seed(1)) / 100
        quantised = QuantisedLayer(Operation.of(layer), codes, scale, layer.bias.detach(), clock)
        quantised.quantise_inputs(torch.tensor([0.02, 0.1, 0.5]), torch.tensor([0, 128, 255], dtype=torch.int32))
        return quantised

    reference, packed = made(), made()
    packed.kernel = backends._Packed(packed)
    for rows in (1, 3):
        shape = (rows, 24, 6, 6) if isinstance(layer, nn.Conv2d) else (rows, 5, 24)
        x = torch.randn(shape, generator=generator) * 5
        for step in range(3):
            clock.step = step
            torch.testing.assert_close(packed(x), reference(x), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("name", ["w4a8", "w8a8-reduced"])
def test_a_generator_by_integers_is_the_simulated_one(generators: dict[str, Path], name: str) -> None:
    integer, simulated = (Generator.load(generators[name], backend=each) for each in ("onednn-int8", "simulated"))
    assert integer.facts["backend"] == "onednn-int8"
    assert integer.facts["reason"] == ""
    assert integer.facts["integer_layers"] > 5
    assert simulated.facts["backend"] == "simulated"
    # A sum's last bit may move an input by one code further on.
    torch.testing.assert_close(pixels(integer), pixels(simulated), rtol=0, atol=0.05)
    assert (pixels(integer) - pixels(simulated)).norm() < 0.01 * pixels(simulated).norm()
    assert integer.facts["bytes_in_memory"] == simulated.facts["bytes_in_memory"]


@needs_onednn
def test_layers_that_would_overflow_are_simulated(generators: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "saturates", lambda: True)
    facts = Generator.load(generators["w8a8"], backend="onednn-int8").facts
    assert facts["backend"] == "simulated"
    assert "overflow" in facts["reason"]
    assert Generator.load(generators["w8a8-reduced"], backend="onednn-int8").facts["backend"] == "onednn-int8"


def test_other_operators_make_it_stand_back(generators: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.SIGNATURES, "qlinear_prepack", "Tensor weight, int another")
    monkeypatch.setattr(openvino_backend, "openvino_problem", lambda: "it is not installed")
    backends.onednn_problem.cache_clear()
    try:
        facts = Generator.load(generators["w4a8"]).facts
        assert facts["backend"] == "simulated"
        assert "onednn::qlinear_prepack" in facts["reason"]
        assert "it is not installed" in facts["reason"]
        with pytest.raises(ConfigError, match="use backend auto"):
            Generator.load(generators["w4a8"], backend="onednn-int8")
    finally:
        backends.onednn_problem.cache_clear()


def test_sixteen_bit_activations_are_bfloat16_where_the_processor_has_it(
    generators: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "bf16_problem", lambda: "none here")
    plain = Generator.load(generators["w4a16"])
    assert (plain.facts["backend"], plain.facts["reason"]) == ("float32", "none here")
    monkeypatch.setattr(backends, "bf16_problem", lambda: None)
    half = Generator.load(generators["w4a16"])
    assert half.facts["backend"] == "bf16"
    assert "disk" in half.facts["storage_only"]
    distance = (pixels(half) - pixels(plain)).norm() / pixels(plain).norm()
    assert 0 < distance < 0.05
    with pytest.raises(ConfigError, match="no integer activations"):
        Generator.load(generators["w4a16"], backend="onednn-int8")


def test_full_precision_models_compute_in_bfloat16_when_asked(saved: Callable[..., Path]) -> None:
    model = saved("none", scheduler={"prediction_type": "sample"})
    half, full = Generator.load(model, backend="bf16"), Generator.load(model)
    assert (half.variant, half.facts["backend"]) == ("bf16", "bf16")
    assert 0 < (pixels(half) - pixels(full)).norm() / pixels(full).norm() < 0.05
    with pytest.raises(ConfigError, match="for quantised generators"):
        Generator.load(model, backend="onednn-int8")


def test_unknown_backends_are_refused(generators: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="auto, simulated"):
        Generator.load(generators["w4a8"], backend="magic")


@needs_onednn
def test_weights_in_memory_are_integers(generators: dict[str, Path]) -> None:
    denoiser = Generator.load(generators["w4a8"], backend="onednn-int8").model.denoiser
    assert isinstance(denoiser, QuantisedDenoiser)
    layers = denoiser.quantised_layers().values()
    assert all(layer.codes.numel() == 0 and layer.packed_bytes > 0 for layer in layers)
