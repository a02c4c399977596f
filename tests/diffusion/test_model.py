"""Loss, noising and target of one sample at one timestep, against the scheduler's own functions."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.noise import draw_noise
from forebear.errors import ModelError

Build = Callable[..., DiffusionModel]
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def batch(model: DiffusionModel, count: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(count)
    x0 = torch.rand((count, *model.x0_shape), generator=generator) * 2 - 1
    timesteps = torch.randint(0, model.total_timesteps, (count,), generator=generator)
    noise = draw_noise(model.x0_shape, 0, [str(row) for row in range(count)], timesteps.tolist(), [0] * count)
    captions = [f"a cat {row}" for row in range(count)]
    return x0, timesteps, noise, model.condition(captions, [row % 3 for row in range(count)])


@pytest.mark.parametrize(
    "scheduler", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"]
)
@pytest.mark.parametrize("betas", [{"beta_schedule": "squaredcos_cap_v2"}, {"beta_start": 0.00085, "beta_end": 0.012}])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noising_and_target_are_the_schedulers_own(
    build: Build, scheduler: str, betas: dict[str, object], prediction: str
) -> None:
    import diffusers

    base = build()
    own = getattr(diffusers, scheduler)(prediction_type=prediction, **betas)
    model = DiffusionModel(base.denoiser, own, base.codec, base.conditioner)
    x0, _, noise, _ = batch(model)
    timesteps = torch.tensor([0, 1, 250, 500, 998, 999])
    reference = diffusers.DDPMScheduler(prediction_type=prediction, **betas)
    torch.testing.assert_close(model.noised(x0, timesteps, noise), reference.add_noise(x0, noise, timesteps))
    expected = {"epsilon": noise, "sample": x0, "v_prediction": reference.get_velocity(x0, noise, timesteps)}
    torch.testing.assert_close(model.target(x0, timesteps, noise), expected[prediction])


def test_zero_terminal_snr_is_the_schedulers_too(build: Build) -> None:
    model = build(scheduler={"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    x0, _, noise, _ = batch(model)
    last = torch.full((6,), 999)
    torch.testing.assert_close(model.noised(x0, last, noise), noise)
    torch.testing.assert_close(model.target(x0, last, noise), -x0)


@pytest.mark.parametrize("conditioning", ["none", "class", "text"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_batched_loss_equals_one_by_one(build: Build, conditioning: str, prediction: str) -> None:
    model = build(conditioning, scheduler={"prediction_type": prediction})
    x0, timesteps, noise, condition = batch(model)
    losses = model.per_sample_loss(x0, timesteps, noise, condition)
    absolute = model.per_sample_loss(x0, timesteps, noise, condition, "l1")
    for row in range(len(x0)):
        one = slice(row, row + 1)
        noised = model.scheduler.add_noise(x0[one], noise[one], timesteps[one])
        arguments = condition.rows(torch.tensor([row])).arguments()
        error = model.denoiser(noised, timesteps[one], **arguments).sample
        error = (
            error
            - {
                "epsilon": noise[one],
                "sample": x0[one],
                "v_prediction": model.scheduler.get_velocity(x0[one], noise[one], timesteps[one]),
            }[prediction]
        )
        torch.testing.assert_close(losses[row], error.square().mean(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(absolute[row], error.abs().mean(), rtol=1e-4, atol=1e-6)
    assert losses.shape == (6,)
    assert losses.unique().numel() == 6


@pytest.fixture(scope="module")
def text_model(build: Build) -> DiffusionModel:
    return build("text")


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_the_loss_does_not_depend_on_the_batch(text_model: DiffusionModel, rows: list[int]) -> None:
    model = text_model
    x0, timesteps, noise, condition = batch(model)
    index = torch.tensor(rows)
    with torch.no_grad():
        whole = model.per_sample_loss(x0, timesteps, noise, condition)
        chosen = model.per_sample_loss(x0[index], timesteps[index], noise[index], condition.rows(index))
    torch.testing.assert_close(chosen, whole[index], rtol=1e-5, atol=1e-6)


def test_the_condition_matters(build: Build) -> None:
    for conditioning in ("class", "text"):
        model = build(conditioning)
        x0, timesteps, noise, condition = batch(model)
        other = model.condition(["flag"] * 6, [2, 0, 1, 2, 0, 1])
        a, b = (model.per_sample_loss(x0, timesteps, noise, c) for c in (condition, other))
        assert (a - b).abs().min() > 0


def test_a_learned_variance_is_left_out_of_the_loss(build: Build) -> None:
    model = build(unet={"out_channels": 6})
    x0, timesteps, noise, condition = batch(model)
    noised = model.noised(x0, timesteps, noise)
    prediction = model.predict(noised, timesteps, condition)
    assert prediction.shape == x0.shape
    torch.testing.assert_close(prediction, model.denoiser(noised, timesteps).sample[:, :3])


def test_noise_is_keyed_by_seed_owner_timestep_and_draw() -> None:
    whole = draw_noise((2, 3), 7, ["a", "b", "a", "a"], [5, 5, 6, 5], [0, 0, 0, 1])
    assert whole.dtype == torch.float32
    assert torch.equal(draw_noise((2, 3), 7, ["a"], [6], [0])[0], whole[2])
    assert len({row.numpy().tobytes() for row in whole}) == 4
    assert not torch.equal(draw_noise((2, 3), 8, ["a"], [5], [0])[0], whole[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": {"prediction_type": "flow"}}, "prediction type 'flow'"),
        ({"unet": {"out_channels": 4}}, "reads 3 channels and predicts 4"),
        ({"channels": 2}, "pictures of 2 channels"),
        ({"unet": {"sample_size": [8, 16]}}, r"sample_size is \(8, 16\)"),
        ({"unet": {"sample_size": None}}, "sample_size is None"),
    ],
)
def test_models_that_cannot_be_measured_are_refused(build: Build, options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(**options)


def test_the_weights_fingerprint_sees_one_changed_number(build: Build) -> None:
    first, same, other = (weights_fingerprint(build(seed=seed).trained_parts()) for seed in (0, 0, 1))
    assert first == same != other
    model = build()
    parameter = next(model.denoiser.parameters())
    with torch.no_grad():
        parameter.view(-1)[0] += 1e-6
    assert weights_fingerprint(model.trained_parts()) != first
    with torch.no_grad():
        parameter.view(-1)[0] = next(build().denoiser.parameters()).view(-1)[0]
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    assert weights_fingerprint(model.trained_parts()) == first
