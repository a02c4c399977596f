"""Embeddings against plain autograd: one picture, one timestep, one gradient at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from forebear.diffusion.building import ModelConfig, TextConfig, build_model
from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise
from forebear.errors import ConfigError, ForebearError
from forebear.gradients import ProjectionConfig
from forebear.gradients.embedding import Draws, Embedder
from forebear.randomness import keyed_signs

EXACT = ProjectionConfig(dim=None)
SKETCH = ProjectionConfig(dim=64)
CAPTIONS = ["digit one", "digit two", "digit three"]
UNET = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
CLASS = ModelConfig(
    conditioning="class",
    image_size=8,
    channels=1,
    unet={
        **UNET,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    },
)
TEXT = ModelConfig(
    conditioning="text",
    image_size=8,
    channels=1,
    text=TextConfig(width=16, layers=1, heads=2, max_tokens=5),
    unet={
        **UNET,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
)


@pytest.fixture(scope="module", params=[CLASS, TEXT], ids=["class", "text"])
def model(request: pytest.FixtureRequest) -> DiffusionModel:
    return build_model(request.param, CAPTIONS, classes=3, seed=1)


@pytest.fixture(scope="module")
def x0(model: DiffusionModel) -> Tensor:
    return draw_noise(model.x0_shape, 9, CAPTIONS, [0] * 3, [0] * 3).clamp(-1, 1)


@pytest.fixture(scope="module")
def condition(model: DiffusionModel) -> Condition:
    return model.condition(CAPTIONS, [0, 1, 2])


def some_draws(each: int, timesteps: tuple[int, ...] = (40, 700)) -> Draws:
    """Every picture has other timesteps, another seed and other draw numbers; one shares its noise."""
    return Draws(
        timesteps=np.array([[t + b for t in timesteps] for b in range(3)], np.int64),
        owners=("a", SHARED, "c"),
        seeds=np.array([5, 6, 7]),
        draws=np.arange(3 * len(timesteps) * each, dtype=np.int64).reshape(3, len(timesteps), each),
    )


MEASURED = {
    "loss": lambda predicted, target: (predicted - target) ** 2,
    "square": lambda predicted, _: predicted**2,
    "output": lambda predicted, _: predicted,
}


def plain_gradients(
    model: DiffusionModel,
    x0: Tensor,
    condition: Condition,
    draws: Draws,
    measurement: str = "loss",
    mask: Tensor | float = 1.0,
) -> tuple[Tensor, np.ndarray]:
    """float32[B, T, P] gradients averaged over draws, and their measurements [B, T], by autograd row by row."""
    parameters = list(model.denoiser.parameters())
    gradients, losses = [], []
    for b, t in np.ndindex(draws.timesteps.shape):
        timestep = int(draws.timesteps[b, t])
        values = []
        for number in draws.draws[b, t].tolist():
            noise = draw_noise(model.x0_shape, int(draws.seeds[b]), [draws.owners[b]], [timestep], [number])
            own = condition.rows(torch.tensor([b]))
            row, at = x0[b : b + 1], torch.tensor([timestep])
            predicted = model.predict(model.noised(row, at, noise), at, own)
            values.append((MEASURED[measurement](predicted, model.target(row, at, noise)) * mask).mean())
        value = torch.stack(values).mean()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        gradients.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
        losses.append(value.item())
    shape = draws.timesteps.shape
    return torch.stack(gradients).reshape(*shape, -1), np.reshape(losses, shape)


def close(found: np.ndarray, expected: Tensor | np.ndarray, relative: float = 1e-4) -> bool:
    """Whether every row errs by at most `relative` of its norm."""
    expected = np.asarray(expected)
    error = np.linalg.norm(found - expected, axis=1)
    return bool((error <= relative * np.linalg.norm(expected, axis=1)).all())


@pytest.mark.parametrize("each", [1, 3])
def test_exact_embeddings_equal_autograd(model: DiffusionModel, x0: Tensor, condition: Condition, each: int) -> None:
    draws = some_draws(each)
    gradients, losses = plain_gradients(model, x0, condition, draws)  # [B, T, P]
    norms = gradients.norm(dim=2)  # [B, T]
    units = gradients / norms[:, :, None]
    signs = torch.stack(
        [
            torch.from_numpy(np.stack([keyed_signs(gradients.shape[2], "timestep", 0, int(t)) for t in row]))
            for row in draws.timesteps
        ]
    )  # [B, T, P]

    found = Embedder(model, EXACT, batch_size=4).embed(x0, condition, draws)

    assert close(found.mean, gradients.mean(1))
    assert close(found.unit_mean, units.mean(1))
    assert close(found.unit_matched, (signs * units).sum(1) / 2**0.5)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-4)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_other_measurements_equal_autograd(
    model: DiffusionModel, x0: Tensor, condition: Condition, masked: bool
) -> None:
    draws = some_draws(3)
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) if masked else None
    factor = 1.0 if mask is None else mask
    square, _ = plain_gradients(model, x0, condition, draws, "square", factor)
    output, _ = plain_gradients(model, x0, condition, draws, "output", factor)
    loss, losses = plain_gradients(model, x0, condition, draws, "loss", factor)
    units = output / output.norm(dim=2, keepdim=True)

    embedder = Embedder(model, EXACT, batch_size=6)
    found = embedder.embed(x0, condition, draws, measurements=("loss", "square", "output"), mask=mask)

    assert close(found.column("square_mean"), square.mean(1))
    assert close(found.column("output_unit_mean"), units.mean(1))
    assert close(found.mean, loss.mean(1))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(found.norms, loss.norm(dim=2), rtol=1e-4)


def test_a_measurement_alone_is_the_one_beside_others(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    embedder, draws = Embedder(model, SKETCH), some_draws(1)
    every = embedder.embed(x0, condition, draws, measurements=("loss", "square", "output"))
    alone = embedder.embed(x0, condition, draws, measurements=("square",))
    np.testing.assert_array_equal(alone.column("square_mean"), every.column("square_mean"))
    np.testing.assert_array_equal(alone.losses, every.losses)
    assert np.isnan(alone.norms).all()
    with pytest.raises(ConfigError, match="without mean, only square_mean"):
        _ = alone.mean
    usual = embedder.embed(x0, condition, draws)
    for column in ("mean", "unit_mean", "unit_matched"):
        np.testing.assert_array_equal(usual.column(column), every.column(column))


def test_masks_add_up(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    embedder, draws = Embedder(model, SKETCH), some_draws(1)
    whole = embedder.embed(x0, condition, draws)
    ones = embedder.embed(x0, condition, draws, mask=torch.ones(8, 8))
    np.testing.assert_array_equal(ones.unit_matched, whole.unit_matched)
    corner = torch.zeros(8, 8)
    corner[:3, :3] = 1
    inside, outside = (embedder.embed(x0, condition, draws, mask=mask) for mask in (corner, 1 - corner))
    assert close(inside.mean + outside.mean, whole.mean, 1e-4)
    np.testing.assert_allclose(inside.losses + outside.losses, whole.losses, rtol=1e-5)
    for mask in (torch.ones(4, 8), torch.full((8, 8), 1.5), torch.full((8, 8), torch.nan)):
        with pytest.raises(ConfigError, match="mask must be"):
            embedder.embed(x0, condition, draws, mask=mask)


def test_weights_are_the_shares_of_timesteps(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    embedder, draws = Embedder(model, EXACT), some_draws(1)
    gradients, _ = plain_gradients(model, x0, condition, draws)  # [B, 2, P]
    shares = np.array([[0.9, 0.2], [0.5, 0.5], [0.0, 1.0]])
    found = embedder.embed(x0, condition, replace(draws, weights=shares))
    weighted = gradients * torch.from_numpy(shares)[:, :, None]
    assert close(found.mean, weighted.sum(1))
    assert close(found.unit_mean, (weighted / gradients.norm(dim=2, keepdim=True)).sum(1))
    even = embedder.embed(x0, condition, replace(draws, weights=np.full((3, 2), 0.5)))
    assert close(even.unit_matched, embedder.embed(x0, condition, draws).unit_matched, 1e-6)


def test_norms_are_those_of_the_whole_gradient(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    draws = some_draws(3)
    exact, sketched = (Embedder(model, projection) for projection in (EXACT, ProjectionConfig(dim=64, mode="exact")))
    whole, projected = exact.embed(x0, condition, draws), sketched.embed(x0, condition, draws)
    np.testing.assert_allclose(projected.norms, whole.norms, rtol=1e-5)
    assert close(projected.mean, sketched.engine.sketch(torch.from_numpy(whole.mean)))


def test_units_are_the_sketches_over_their_own_norms(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    draws = some_draws(3)
    gradients, _ = plain_gradients(model, x0, condition, draws)
    embedder = Embedder(model, SKETCH)
    sketches = torch.stack([embedder.engine.sketch(gradients[:, step]) for step in range(gradients.shape[1])])
    units = sketches / sketches.norm(dim=2, keepdim=True)  # [T, B, k]
    assert close(embedder.embed(x0, condition, draws).unit_mean, units.mean(0))


def test_matched_inner_product_at_one_timestep_is_the_cosine(
    model: DiffusionModel, x0: Tensor, condition: Condition
) -> None:
    draws = Draws.at(np.array([300]), [SHARED] * 3, seed=2)
    found = Embedder(model, EXACT).embed(x0, condition, draws)
    units = found.mean / found.norms
    np.testing.assert_allclose(found.unit_matched @ found.unit_matched.T, units @ units.T, atol=1e-5)
    np.testing.assert_allclose(np.diag(found.unit_matched @ found.unit_matched.T), 1.0, rtol=1e-4)


def test_matched_inner_product_is_the_mean_cosine_at_equal_timesteps(
    model: DiffusionModel, x0: Tensor, condition: Condition
) -> None:
    draws = Draws.at(np.array([50, 300, 600, 900]), [SHARED] * 3, seed=2)
    gradients, _ = plain_gradients(model, x0, condition, draws)
    units = gradients / gradients.norm(dim=2, keepdim=True)  # [B, T, P]
    cosines = torch.einsum("atp,btp->ab", units, units) / 4  # [B, B]
    # Terms of unequal timesteps have random signs: their variance is known, and shared by (s, t) and (t, s).
    products = torch.einsum("asp,btp->abst", units.square(), units.square())
    spread = (2 * (products.sum((2, 3)) - torch.einsum("abtt->ab", products))).sqrt() / 4

    found = Embedder(model, EXACT).embed(x0, condition, draws).unit_matched

    assert np.all(np.abs(found @ found.T - cosines.numpy()) < 5 * spread.numpy() + 1e-4)


def test_batches_do_not_matter(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    draws = some_draws(2)
    one, many = (Embedder(model, SKETCH, batch_size=size).embed(x0, condition, draws) for size in (1, 64))
    for column in ("mean", "unit_mean", "unit_matched", "norms", "losses"):
        assert close(getattr(one, column), getattr(many, column), 1e-5)


def test_order_does_not_matter(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    draws, order = some_draws(1), [2, 0, 1]
    turned = Draws(
        draws.timesteps[order], tuple(draws.owners[b] for b in order), draws.seeds[order], draws.draws[order]
    )
    embedder = Embedder(model, SKETCH)
    first = embedder.embed(x0, condition, draws)
    second = embedder.embed(x0[order], condition.rows(torch.tensor(order)), turned)
    assert close(second.unit_matched, first.unit_matched[order], 1e-5)
    assert close(second.mean, first.mean[order], 1e-5)


def test_same_call_same_bits(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    embedder = Embedder(model, SKETCH, batch_size=4)
    first, second = (embedder.embed(x0, condition, some_draws(1)) for _ in range(2))
    for column in ("mean", "unit_mean", "unit_matched", "norms", "losses"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


def test_gradient_of_zero_gives_zeros(x0: Tensor, condition: Condition) -> None:
    config = CLASS if condition.class_labels is not None else TEXT
    model = build_model(config, CAPTIONS, classes=3, seed=1)
    torch.nn.init.zeros_(model.denoiser.conv_out.weight)  # nothing before it can change the output
    found = Embedder(model, SKETCH, patterns=("conv_in.*",)).embed(x0, condition, some_draws(1))
    assert not found.norms.any()
    for vectors in (found.mean, found.unit_mean, found.unit_matched):
        assert not vectors.any()
    assert found.losses.all()


def test_whole_gradients_have_no_seed(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    draws = some_draws(1)
    found = [Embedder(model, ProjectionConfig(dim=None, seed=s)).embed(x0, condition, draws) for s in (0, 5)]
    np.testing.assert_array_equal(found[0].unit_matched, found[1].unit_matched)


def test_loss_is_chosen(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    draws = Draws.at(np.array([300]), ["a", "b", "c"], seed=4)
    noise = draw_noise(model.x0_shape, 4, ["a", "b", "c"], [300] * 3, [0] * 3)
    with torch.no_grad():
        expected = model.per_sample_loss(x0, torch.tensor([300] * 3), noise, condition, "l1")
    found = Embedder(model, SKETCH, loss="l1").embed(x0, condition, draws)
    np.testing.assert_allclose(found.losses[:, 0], expected, rtol=1e-5)


def test_projection_larger_than_the_gradient_is_refused(model: DiffusionModel) -> None:
    with pytest.raises(ConfigError, match="dim 10000000 is larger than the gradient itself"):
        Embedder(model, ProjectionConfig(dim=10_000_000))


def test_inputs_that_do_not_fit_are_refused(model: DiffusionModel, x0: Tensor, condition: Condition) -> None:
    embedder, draws = Embedder(model, SKETCH), some_draws(1)
    with pytest.raises(ConfigError, match="3 pictures of shape"):
        embedder.embed(x0[:2], condition, draws)
    with pytest.raises(ConfigError, match="between 0 and 999"):
        embedder.embed(x0, condition, replace(draws, timesteps=draws.timesteps + 900))
    with pytest.raises(ConfigError, match="draws do not fit"):
        replace(draws, seeds=draws.seeds[:2])
    with pytest.raises(ConfigError, match="weights"):
        replace(draws, weights=np.ones((3, 1)))
    with pytest.raises(ConfigError, match="only once"):
        embedder.embed(x0, condition, draws, measurements=("loss", "loss"))


def short_of_memory(model: DiffusionModel, most: int, problem: Exception) -> list[int]:
    """Let the denoiser fail above `most` rows; returns the batch sizes it is then called with."""
    seen: list[int] = []

    def refuse(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(len(args[0]))
        if len(args[0]) > most:
            raise problem

    model.denoiser.register_forward_pre_hook(refuse)
    return seen


@pytest.mark.parametrize(
    "problem",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
    ids=["cuda", "cpu"],
)
def test_batches_are_halved_when_memory_runs_out(x0: Tensor, condition: Condition, problem: Exception) -> None:
    config = CLASS if condition.class_labels is not None else TEXT
    model = build_model(config, CAPTIONS, classes=3, seed=1)
    embedder = Embedder(model, SKETCH, batch_size=8)
    expected = embedder.embed(x0, condition, some_draws(1))
    seen = short_of_memory(model, 2, problem)
    with pytest.warns(UserWarning, match="batches of 1 fit") as warned:
        found = embedder.embed(x0, condition, some_draws(1))
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1]
    assert len(warned) == 1
    for column in ("mean", "unit_mean", "unit_matched", "norms", "losses"):
        assert close(getattr(found, column), getattr(expected, column), 1e-5)


def test_memory_for_less_than_one_row_is_an_error(x0: Tensor, condition: Condition) -> None:
    config = CLASS if condition.class_labels is not None else TEXT
    model = build_model(config, CAPTIONS, classes=3, seed=1)
    short_of_memory(model, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(ForebearError, match="memory is too short for a batch of one row; free some"):
        Embedder(model, SKETCH).embed(x0, condition, some_draws(1))


def test_other_runtime_errors_are_not_mistaken_for_memory(x0: Tensor, condition: Condition) -> None:
    config = CLASS if condition.class_labels is not None else TEXT
    model = build_model(config, CAPTIONS, classes=3, seed=1)
    seen = short_of_memory(model, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Embedder(model, SKETCH).embed(x0, condition, some_draws(1))
    assert seen == [6]
