"""The projection: its formula, its expectation, and what it must not depend on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from forebear.errors import ForebearError
from forebear.gradients import GradientEngine, ProjectionConfig
from forebear.gradients.projection import CHANNELS, Mode, Projection

SHAPES = {"a.weight": (5, 7), "a.bias": (5,), "b.weight": (3, 2, 2), "c": (40,)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())


@given(dim=st.integers(1, 100), size=st.integers(1, 100), seed=st.integers(0, 2**40))
def test_projection_is_its_formula(dim: int, size: int, seed: int) -> None:
    projection = Projection(ProjectionConfig(dim, seed), {"p": (size,)})
    gradient = np.random.default_rng(seed).standard_normal(size)
    found = projection.sketch(torch.from_numpy(gradient)[None])[0].numpy()
    np.testing.assert_allclose(found, projection.reference("p", gradient), atol=1e-5)


AXES = {"linear": (0, 1), "pointwise": (0, 1), "conv": (0, 1), "transposed": (1, 0)}
WIDE = {
    "linear": (90, 50),
    "pointwise": (140, 40, 1, 1),
    "conv": (40, 20, 3, 3),
    "transposed": (20, 40, 3, 2),
    "narrow": (40, 20, 3, 3),
}


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("name", WIDE)
def test_projected_channels_are_their_formula(name: str, mode: Mode) -> None:
    projection = Projection(ProjectionConfig(1000, mode=mode), WIDE, AXES)
    gradient = np.random.default_rng(0).standard_normal(WIDE[name])
    folded = torch.zeros(1, 1000)
    projection.add(folded, name, projection.reduce(name, torch.from_numpy(gradient)[None]).float())
    np.testing.assert_allclose(folded[0].numpy(), projection.reference(name, gradient), atol=1e-4)
    kept = CHANNELS[mode]
    if kept and name in AXES:
        shape = projection.shapes[name]
        expected = kept.pointwise if name in ("linear", "pointwise") else kept.spatial
        assert [shape[axis] for axis in AXES[name]] == [
            min(few, WIDE[name][axis]) for axis, few in zip(AXES[name], expected, strict=True)
        ]
    else:
        assert projection.shapes[name] == WIDE[name]


@pytest.mark.parametrize("name", WIDE)
def test_expected_inner_product_survives_the_channels(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, math.prod(WIDE[name]), generator=generator)
    b = b + 0.5 * a
    true = float((a * b).sum())
    axes = {name: AXES[name]} if name in AXES else {}
    products = []
    for seed in range(200):
        projection = Projection(ProjectionConfig(4096, seed, "fast"), {name: WIDE[name]}, axes)
        products.append(float((projection.sketch(a) * projection.sketch(b)).sum()))
    assert abs(float(np.mean(products)) - true) <= 3 * float(np.std(products)) / 200**0.5


def test_channels_are_spread_evenly() -> None:
    found = Projection(ProjectionConfig(), {"conv": (100, 64, 3, 3)}, {"conv": (0, 1)}).channels("conv", torch.empty(0))
    assert found.inputs is not None
    assert found.outputs is not None
    assert found.inputs.abs().sum(0).tolist() == [4.0] * 16
    assert sorted(set(found.outputs.abs().sum(0).tolist())) == [3.0, 4.0]
    assert found.outputs.abs().sum(1).tolist() == [1.0] * 100


@pytest.mark.parametrize("shapes", [SHAPES, {"one": (1,)}, {"wide": (2, 300)}])
def test_expected_inner_product_is_the_true_one(shapes: dict[str, tuple[int, ...]]) -> None:
    size, dim, seeds = sum(math.prod(shape) for shape in shapes.values()), 16, 400
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, size, generator=generator)
    b = b + 0.5 * a
    true = float((a * b).sum())
    products = []
    for seed in range(seeds):
        projection = Projection(ProjectionConfig(dim, seed), shapes)
        products.append(float((projection.sketch(a) * projection.sketch(b)).sum()))
    error = abs(float(np.mean(products)) - true)
    assert error <= 3 * float(np.std(products)) / seeds**0.5 + 1e-5 * abs(true)
    # The spread of independent signs with evenly filled buckets; an uneven fill or dependent signs would exceed it.
    spread = ((float(a.norm() * b.norm())) ** 2 + true**2) / dim
    assert float(np.var(products)) <= 1.3 * spread


def test_signs_of_two_parameters_are_independent() -> None:
    shapes = {"x": (64, 64), "y": (64, 64)}
    projection = Projection(ProjectionConfig(4096, 0), shapes)
    x = projection.sketch(torch.cat([torch.ones(1, 4096), torch.zeros(1, 4096)], 1))
    y = projection.sketch(torch.cat([torch.zeros(1, 4096), torch.ones(1, 4096)], 1))
    assert abs(float((x * y).sum())) < 4 * 4096**0.5


@given(seed=st.integers(0, 1000), scale=st.floats(-4, 4))
def test_projection_is_linear(seed: int, scale: float) -> None:
    projection = Projection(ProjectionConfig(dim=16), SHAPES)
    a, b = torch.randn(2, 3, SIZE, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        projection.sketch(a + scale * b), projection.sketch(a) + scale * projection.sketch(b), atol=1e-4, rtol=1e-4
    )


def test_a_parameter_is_projected_alike_whatever_else_is_selected() -> None:
    config = ProjectionConfig(dim=16)
    gradient = torch.randn(1, 12)
    alone = Projection(config, {"b.weight": SHAPES["b.weight"]}).sketch(gradient)
    among = torch.zeros(1, 16)
    Projection(config, SHAPES).add(among, "b.weight", gradient)
    assert torch.equal(alone, among)


def test_seed_name_and_length_change_the_projection() -> None:
    gradient = torch.randn(1, 40)

    def sketch(config: ProjectionConfig, name: str) -> Tensor:
        return Projection(config, {name: (40,)}).sketch(gradient)

    first = sketch(ProjectionConfig(16, 0), "c")
    assert torch.equal(first, sketch(ProjectionConfig(16, 0), "c"))
    assert not torch.equal(first, sketch(ProjectionConfig(16, 1), "c"))
    assert not torch.equal(first, sketch(ProjectionConfig(16, 0), "d"))
    assert sketch(ProjectionConfig(8, 0), "c").shape == (1, 8)


def test_the_projection_never_changes_between_versions() -> None:
    """Stores outlive releases: when this fails, PROJECTION_VERSION must rise."""
    found = Projection(ProjectionConfig(dim=4, seed=7), {"p": (10,)}).sketch(torch.arange(1.0, 11.0)[None])
    assert found.tolist() == [[10.0, 12.0, 3.0, 6.0]]


def test_no_projection_keeps_the_gradient() -> None:
    flat = torch.randn(2, SIZE)
    projection = Projection(ProjectionConfig(dim=None), SHAPES)
    assert projection.dim == SIZE
    assert torch.equal(projection.sketch(flat), flat)


def test_a_gradient_of_another_length_is_refused() -> None:
    with pytest.raises(ForebearError, match=rf"\[batch, {SIZE}\], got \[2, 3\]"):
        Projection(ProjectionConfig(dim=16), SHAPES).sketch(torch.zeros(2, 3))


@pytest.mark.parametrize("settings", [{"dim": 0}, {"seed": -1}, {"size": 3}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ProjectionConfig(**settings)


def test_a_device_that_computes_zeros_is_found_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(self: Projection, vectors: Tensor, name: str, gradients: Tensor) -> None:
        """What a kernel without code for its device did in another library: nothing, in silence."""

    monkeypatch.setattr(Projection, "add", zeros)
    with pytest.raises(ForebearError, match=r"projection of weight on the device cpu differs"):
        GradientEngine(nn.Linear(3, 2), ProjectionConfig(dim=4))
