"""Denoisers compiled by OpenVINO compute what torch's reference computes, and say what they are."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from forebear.errors import ConfigError, ModelError
from forebear_generators.generator import Generator, Request
from forebear_generators.quantisation import backends, openvino_backend
from forebear_generators.quantisation.comparison import step_features
from forebear_generators.quantisation.layers import Clock, Operation, QuantisedLayer
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import (
    CalibrationConfig,
    QuantisationConfig,
    RoundingConfig,
    TemporalConfig,
    WeightsConfig,
)

pytestmark = pytest.mark.skipif(
    openvino_backend.openvino_problem() is not None, reason=str(openvino_backend.openvino_problem())
)
STEPS = 3


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Quantises a saved model: a variant, and fields of the temporal settings."""

    def make(model: Path, variant: str = "w4a8", reduced: bool = True, **temporal: object) -> Path:
        folder = tmp_path_factory.mktemp(variant)
        config = QuantisationConfig(
            variant=variant,
            steps=STEPS,
            calibration=CalibrationConfig(pictures=2),
            rounding=RoundingConfig(method="nearest"),
            weights=WeightsConfig(reduced=reduced, search="minmax"),
            temporal=TemporalConfig(**temporal),  # type: ignore[arg-type]
        )
        quantise(model, config, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def plain(saved: Callable[..., Path]) -> Path:
    return saved("none", scheduler={"prediction_type": "sample"})


@pytest.fixture(scope="module")
def small(plain: Path, quantised: Callable[..., Path]) -> Path:
    return quantised(plain)


def latents(generator: Generator, label: int | None = None, rows: int = 2) -> torch.Tensor:
    """x after each step."""
    request = Request(("a red heart",) * rows, (label,) * rows, tuple(range(rows)), steps=STEPS)
    return generator.run(request, keep_trajectory=True).way.latents


def assert_agree(folder: Path, label: int | None = None, batches: tuple[int, ...] = (3,)) -> Generator:
    """Within 1 % of the whole: a sum's last bit may move an input by one code."""
    compiled, simulated = (Generator.load(folder, backend=each) for each in ("openvino", "simulated"))
    for rows in batches:
        found, wanted = latents(compiled, label, rows), latents(simulated, label, rows)
        assert (found - wanted).norm() < 0.01 * wanted.norm()
    return compiled


@pytest.mark.parametrize("exact", [True, False], ids=["integers", "floats"])
@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(24, 8, 3, stride=2, padding=1), nn.Conv2d(24, 8, 1), nn.Linear(24, 8)],
    ids=["same", "halved", "shortcut", "linear"],
)
def test_a_layer_is_the_reference_at_every_step(layer: nn.Module, exact: bool) -> None:
    """The same whole-number sums, ranges that differ by step, and zero points that padding knows nothing of."""
    import openvino
    import openvino.opset13 as op

    from forebear_generators.quantisation.openvino_layers import layer_graph

    clock = Clock((2.0, 1.0, 0.0))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-64, 65, layer.weight.shape, generator=generator)
    reference = QuantisedLayer(Operation.of(layer), codes, torch.rand(8) / 100, layer.bias.detach(), clock)
    reference.quantise_inputs(torch.tensor([0.02, 0.1, 0.5]), torch.tensor([0, 128, 255], dtype=torch.int32))
    shape = (2, 24, 6, 6) if isinstance(layer, nn.Conv2d) else (2, 5, 24)
    x, step = op.parameter(list(shape), np.float32), op.parameter([1], np.int64)
    made = layer_graph(reference, shape, x, step, exact=exact)
    # Inputs lie on codes, or beyond the range, and not on the halves between two of them.
    compiled = openvino.Core().compile_model(
        openvino.Model([made], [x, step]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for clock.step in range(3):
        scale, zero = reference.input_grid()
        values = (torch.randint(-20, 276, shape, generator=generator) - zero) * scale
        found = torch.from_numpy(compiled([values.numpy(), torch.tensor([clock.step]).numpy()])[0])
        torch.testing.assert_close(found, reference(values), rtol=1e-4, atol=1e-4)


def test_a_generator_is_the_simulated_one(small: Path) -> None:
    compiled = assert_agree(small, batches=(3, 1, 3))
    facts = compiled.facts
    assert (facts["backend"], facts["reason"]) == ("openvino", "")
    assert facts["integer_layers"] > 5
    assert facts["bytes_in_memory"] < 2 * Generator.load(small, backend="simulated").facts["bytes_in_memory"]


def test_auto_takes_it_first(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Generator.load(small).facts["backend"] == "openvino"
    monkeypatch.setattr(openvino_backend, "openvino_problem", lambda: "install it")
    facts = Generator.load(small).facts
    assert facts["backend"] in ("onednn-int8", "simulated")
    assert "install it" in facts["reason"]
    with pytest.raises(ConfigError, match="install it"):
        Generator.load(small, backend="openvino")


def test_text_conditions_reach_the_graph(saved: Callable[..., Path], quantised: Callable[..., Path]) -> None:
    compiled = assert_agree(quantised(saved("text", scheduler={"prediction_type": "sample"}), "w8a8"))
    request = Request(("a red heart", "the cat's face"), (None, None), (1, 1), steps=STEPS, guidance=2.0)
    first, second = compiled.run(request).pixels
    assert not torch.equal(first, second)
    time = torch.tensor(compiled.model.denoiser.clock.times[0])
    with pytest.raises(ConfigError, match="keep to that size"):
        compiled.model.denoiser(torch.zeros(1, 3, 4, 4), time, encoder_hidden_states=torch.zeros(1, 8, 8))
    with pytest.raises(ConfigError, match="was given none"):
        compiled.model.denoiser(torch.zeros(1, 3, 8, 8), time)


@pytest.mark.slow
@pytest.mark.parametrize(
    "temporal", [{"granularity": "step", "cache": "int8"}, {"maintenance": "block", "per_step": "none"}]
)
def test_classes_and_computed_features(
    saved: Callable[..., Path], quantised: Callable[..., Path], temporal: dict[str, str]
) -> None:
    folder = quantised(saved("class", scheduler={"prediction_type": "sample"}), "w4a8", **temporal)
    compiled = assert_agree(folder, label=1)
    assert not torch.equal(latents(compiled, 1)[-1], latents(compiled, 2)[-1])


@pytest.mark.slow
def test_a_transformer(dit: Path, quantised: Callable[..., Path]) -> None:
    assert_agree(quantised(dit, "w4a8"), label=1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["w4a16", "w8a32"])
def test_floating_activations(
    plain: Path, quantised: Callable[..., Path], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "bf16_problem", lambda: "none here")
    assert assert_agree(quantised(plain, variant)).facts["integer_layers"] == 0


@pytest.mark.slow
def test_products_that_would_overflow_are_of_floats(
    plain: Path, quantised: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "saturates", lambda: True)
    facts = assert_agree(quantised(plain, "w8a8", reduced=False)).facts
    assert facts["integer_layers"] == 0
    assert "weights.reduced" in facts["reason"]


def test_full_precision_is_torchs(plain: Path) -> None:
    full, compiled = Generator.load(plain), Generator.load(plain, backend="openvino")
    assert (compiled.variant, compiled.facts["backend"]) == ("fp32", "openvino")
    torch.testing.assert_close(latents(compiled), latents(full), rtol=1e-3, atol=1e-4)


def test_temporal_features_can_still_be_looked_at(small: Path) -> None:
    models = [Generator.load(small, backend=each).model for each in ("openvino", "simulated")]
    times = models[0].denoiser.clock.times
    found, wanted = (step_features(model, times) for model in models)
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) and not torch.equal(*found[name][:2]) for name in found)


def test_layers_inside_the_graph_make_room(small: Path) -> None:
    denoiser = Generator.load(small, backend="openvino").model.denoiser
    assert not denoiser.quantised_layers()
    with pytest.raises(ModelError, match="backend simulated"):
        denoiser.inner(torch.zeros(1, 3, 8, 8), torch.tensor(0))


def test_nothing_is_reported_to_its_makers() -> None:
    """OpenVINO's telemetry, which is on by default, is never loaded."""
    code = (
        "import sys; from forebear_generators.quantisation.openvino_backend import openvino_problem as p; p(); "
        "import openvino.frontend.pytorch; sys.exit(any(m.startswith('openvino_telemetry.') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
