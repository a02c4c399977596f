"""4-bit variants: the layers that predictions feel most get 8 bits, and the files stay below the share asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear_generators.evaluation.sizes import generator_bytes
from forebear_generators.generator import Generator
from forebear_generators.quantisation.files import TENSORS
from forebear_generators.quantisation.layers import INPUT_LEVELS, weight_levels
from forebear_generators.quantisation.quantise import Quantisation, quantise
from forebear_generators.quantisation.reconstruction import learners, settle
from forebear_generators.quantisation.settings import (
    CalibrationConfig,
    QuantisationConfig,
    RoundingConfig,
    WeightsConfig,
)
from forebear_generators.quantisation.widths import chosen, felt
from forebear_generators.quantisation.workspace import Workspace

Save = Callable[..., Path]
STEPS = 4
LAST = "up_blocks.1.resnets.1"


def config(variant: str = "w4a8", method: Any = "nearest", **weights: Any) -> QuantisationConfig:
    return QuantisationConfig(
        variant,
        steps=STEPS,
        calibration=CalibrationConfig(pictures=3, every=2, batch=2),
        rounding=RoundingConfig(method),
        weights=WeightsConfig(**weights),
    )


@pytest.fixture(scope="module")
def model_folder(saved: Save) -> Path:
    """Large enough for descriptions and ranges to be a small part of its files."""
    wide = {"block_out_channels": [64, 64], "norm_num_groups": 4}
    return saved("none", unet=wide, scheduler={"prediction_type": "sample"})


def work(folder: Path, settings: QuantisationConfig, place: Path) -> Quantisation:
    found = Quantisation(DiffusionModel.load(folder), settings, Workspace(place, "here"))
    found.draw()
    return found


def test_an_error_is_that_of_the_layer_alone(model_folder: Path, tmp_path: Path) -> None:
    settings = config("w4a32")
    quantisation = work(model_folder, settings, tmp_path)
    plans = quantisation.layout.of_unit(LAST)
    data, before = quantisation.data, quantisation.model.denoiser.state_dict()

    def passes(model: DiffusionModel) -> Any:
        return data.passes(model, [0, 2], 3)

    ticks: list[int] = []
    found = felt(
        quantisation.inner, plans, lambda: passes(quantisation.student), settings.weights, lambda: ticks.append(1)
    )
    assert len(ticks) == len(plans)
    for name, each in quantisation.inner.state_dict().items():
        assert name not in before or torch.equal(each, before[name])
    learned = learners(quantisation.inner, [plans[0]], settings.weights)
    settle(quantisation.inner, learned, {plans[0].name: learned[plans[0].name].rounded("nearest")}, quantisation.clock)
    both = zip(passes(quantisation.model), passes(quantisation.student), strict=True)
    with torch.no_grad():
        wanted = sum(float((full() - small()).square().sum()) for full, small in both)
    assert float(found[0]) == pytest.approx(wanted, rel=1e-3)
    assert (found > 0).all()


def test_layers_are_taken_by_error_for_each_byte_while_bytes_last() -> None:
    errors = torch.tensor([10.0, 9.0, 8.0, 7.0, 100.0])
    extra = [100, 10, 30, 20, 0]  # the last has 8 bits already
    assert chosen(errors, extra, 45) == [1, 3]  # the third no longer fits
    assert chosen(errors, extra, 60) == [1, 2, 3]
    assert chosen(errors, extra, 1000) == [0, 1, 2, 3]
    assert chosen(errors, extra, -5) == []


@pytest.mark.parametrize("share", [0.0, 0.17, 0.2])
def test_files_stay_below_the_share(model_folder: Path, tmp_path: Path, share: float) -> None:
    description = quantise(model_folder, config(share=share), tmp_path)
    bits = [layer.bits for layer in description.structure.layers]
    generator = Generator.load(tmp_path)
    on_disk, _ = generator_bytes(tmp_path, generator)
    assert (8 in bits) == (share > 0)
    assert 4 in bits
    if share:
        assert 0.9 * share < on_disk / description.report["bytes_full_precision"] <= share
    assert generator.pictures(["a cat"], [0])[0].size == (8, 8)


def test_wide_layers_have_codes_whose_sums_overflow_nowhere(model_folder: Path, tmp_path: Path) -> None:
    """Two products of 8 bits are added in 16 on processors without VNNI."""
    description = quantise(model_folder, config(share=0.2), tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    wide = [layer for layer in description.structure.layers if layer.bits == 8]
    for layer in wide:
        codes = tensors[f"{layer.name}.codes"]
        assert codes.dtype == torch.int8
        assert int(codes.abs().amax()) <= weight_levels(8, layer.symmetric, layer.reduced).high
        assert 2 * int(codes.abs().amax()) * INPUT_LEVELS.high < 2**15


def test_named_blocks_are_wide_whatever_the_share(model_folder: Path, tmp_path: Path) -> None:
    def bits(wide: str) -> dict[str, int]:
        quantisation = Quantisation(
            DiffusionModel.load(model_folder), config(wide=(wide,)), Workspace(tmp_path / wide, "here")
        )
        return {plan.name: plan.bits for plan in quantisation.layout.layers}

    found = bits(LAST)
    assert {name for name, each in found.items() if each == 8} == {
        name for name in found if name.startswith(f"{LAST}.")
    }
    assert set(bits(f"{LAST}.conv1").values()) == {4, 8}
    with pytest.raises(ConfigError, match="no quantised layer"):
        bits(f"{LAST}.conv")


def test_an_interrupted_choice_goes_on_to_the_same_bytes(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(share=0.2)
    quantise(model_folder, settings, tmp_path / "once")
    save = Workspace.save

    def interrupted(self: Workspace, step: str, tensors: dict[str, torch.Tensor]) -> None:
        save(self, step, tensors)
        if step in ("widths", "unit-0001"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "save", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                quantise(model_folder, settings, tmp_path / "twice")
    quantise(model_folder, settings, tmp_path / "twice")
    for name in (TENSORS, "generator.json"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
