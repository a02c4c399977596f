"""The Temporal Information Block is the model's own: its features are those of a forward pass, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ModelError
from forebear_generators.quantisation.temporal import (
    TemporalBlock,
    feature_errors,
    mismatch_rate,
    relative_feature_errors,
)

Build = Callable[..., DiffusionModel]


def heard(model: DiffusionModel, time: int, labels: list[int | None]) -> dict[str, torch.Tensor]:
    """What the layers of the temporal features give in a forward pass of the whole denoiser."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.denoiser.get_submodule(feature.name).register_forward_hook(
            lambda module, given, output, name=feature.name: found.__setitem__(name, output)
        )
        for feature in TemporalBlock(model.denoiser).features
    ]
    with torch.no_grad():
        x = torch.randn(len(labels), *model.x0_shape)
        model.predict(x, torch.full((len(labels),), time), model.condition(["a cat"] * len(labels), labels))
    for handle in handles:
        handle.remove()
    return found


def models(build: Build, stable_diffusion: Path, dit: Path) -> dict[str, DiffusionModel]:
    return {
        "none": build("none"),
        "class": build("class"),
        "text": build("text"),
        "scale and shift": build("none", unet={"resnet_time_scale_shift": "scale_shift"}),
        "latent": DiffusionModel.load(stable_diffusion),
        "transformer": DiffusionModel.load(dit),
    }


def test_features_are_those_of_a_forward_pass(build: Build, stable_diffusion: Path, dit: Path) -> None:
    for name, model in models(build, stable_diffusion, dit).items():
        block = TemporalBlock(model.denoiser)
        by_class = name in ("class", "transformer")
        for labels in ([2], [0, 2, 1]):
            wanted = heard(model, 417, labels)
            with torch.no_grad():
                found = block.compute(torch.full((len(labels),), 417), torch.tensor(labels) if by_class else None)
            assert set(found) == set(wanted)
            assert len(found) > 2
            for layer, each in found.items():
                assert torch.equal(each, wanted[layer]), (name, layer)
        assert set(block.layers()) >= {feature.name for feature in block.features}
        if by_class:
            assert block.class_embeddings
        else:
            assert not block.class_embeddings


def test_rows_alone_are_bit_for_bit_those_of_one_picture(build: Build) -> None:
    model = build("text")
    with torch.no_grad():
        found = TemporalBlock(model.denoiser).compute_alone(torch.tensor([3, 999]))
    for row, time in enumerate((3, 999)):
        for layer, each in heard(model, time, [None]).items():
            assert torch.equal(found[layer][row], each[0])


def test_errors_and_mismatches_are_the_formulas() -> None:
    wanted = {"a": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "b": torch.tensor([[2.0], [4.0]])}
    found = {"a": torch.tensor([[1.0, 0.5], [0.9, 0.2]]), "b": torch.tensor([[2.0], [3.5]])}
    errors = feature_errors(wanted, found)
    torch.testing.assert_close(errors["a"], torch.tensor([0.25, 0.81 + 0.64]))
    torch.testing.assert_close(errors["b"], torch.tensor([0.0, 0.25]))
    torch.testing.assert_close(relative_feature_errors(wanted, found)[1], torch.tensor([0.0, 0.125]))
    assert mismatch_rate(wanted, found) == 0.25  # row 1 of `a` is nearest to row 0
    assert mismatch_rate(wanted, wanted) == 0.0


def test_other_denoisers_are_refused(stable_diffusion_3: Path) -> None:
    with pytest.raises(ModelError, match="supported are UNet2DModel"):
        TemporalBlock(DiffusionModel.load(stable_diffusion_3).denoiser)
