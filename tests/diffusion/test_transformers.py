"""Transformer denoisers: DiT with classes, Stable Diffusion 3 with its three text encoders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from forebear.diffusion.building import save_model
from forebear.diffusion.codec import PixelCodec, VaeCodec
from forebear.diffusion.conditioning import ByClass, ByJointText, Condition
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.sampling import generate
from forebear.errors import ModelError

PROMPTS = ["a red heart", "", "cat " * 300]
TIMESTEPS = torch.tensor([3, 500, 999])


def batch(model: DiffusionModel) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn((2, 3, *model.x0_shape), generator=generator)
    return x0, noise, model.condition(PROMPTS, [0, 7, 999])


@pytest.fixture(scope="module")
def dit_model(dit: Path) -> DiffusionModel:
    return DiffusionModel.load(dit)


@pytest.fixture(scope="module")
def sd3_model(stable_diffusion_3: Path) -> DiffusionModel:
    return DiffusionModel.load(stable_diffusion_3)


@pytest.fixture
def sd3_copy(stable_diffusion_3: Path, tmp_path: Path) -> Path:
    shutil.copytree(stable_diffusion_3, tmp_path / "sd3")
    return tmp_path / "sd3"


@pytest.mark.parametrize("fixture", ["dit_model", "sd3_model"])
def test_saved_transformers_load_back_equal(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model: DiffusionModel = request.getfixturevalue(fixture)
    save_model(model, tmp_path / "model")
    again = DiffusionModel.load(tmp_path / "model")
    assert weights_fingerprint(again.trained_parts()) == weights_fingerprint(model.trained_parts())
    x0, noise, condition = batch(model)
    with torch.no_grad():
        losses = model.per_sample_loss(x0, TIMESTEPS, noise, condition)
        assert torch.equal(again.per_sample_loss(x0, TIMESTEPS, noise, batch(again)[2]), losses)
    assert torch.equal(again.codec.encode(torch.ones(1, 3, 16, 16)), model.codec.encode(torch.ones(1, 3, 16, 16)))
    assert not any(module.training for part in again.trained_parts().values() for module in part.modules())


def test_dit_opens_in_its_pipelines_layout(dit_model: DiffusionModel) -> None:
    assert isinstance(dit_model.conditioner, ByClass)
    assert isinstance(dit_model.codec, VaeCodec)
    assert (dit_model.conditioner.classes, dit_model.conditioner.guidance_class) == (1000, 1000)
    assert (dit_model.x0_shape, dit_model.image_size, dit_model.image_channels) == ((4, 8, 8), 16, 3)
    assert list(dit_model.trained_parts()) == ["transformer"]
    with pytest.raises(ModelError, match="a class from 0 to 999"):
        dit_model.condition([""], [1000])  # the class of guidance is no picture's


def test_dit_predicts_and_loses_as_the_module_itself(dit_model: DiffusionModel) -> None:
    x0, noise, condition = batch(dit_model)
    labels = torch.tensor([0, 7, 999])
    with torch.no_grad():
        prediction = dit_model.predict(x0, TIMESTEPS, condition)
        direct = dit_model.denoiser(x0, timestep=TIMESTEPS, class_labels=labels).sample
        assert direct.shape == (3, 8, 8, 8)  # noise and variance
        assert torch.equal(prediction, direct[:, :4])
        losses = dit_model.per_sample_loss(x0, TIMESTEPS, noise, condition)
        for row, timestep in enumerate(TIMESTEPS.tolist()):
            betas = torch.linspace(0.0001, 0.02, 1000)
            alpha = (1 - betas).cumprod(0)[timestep]
            noised = alpha.sqrt() * x0[row] + (1 - alpha).sqrt() * noise[row]
            output = dit_model.denoiser(
                noised[None], timestep=TIMESTEPS[row : row + 1], class_labels=labels[row : row + 1]
            ).sample
            expected = (output[0, :4] - noise[row]).square().mean()
            torch.testing.assert_close(losses[row], expected, rtol=1e-4, atol=1e-6)
    assert losses.unique().numel() == 3


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_generates_as_the_ddim_scheduler_with_the_class_of_guidance(
    dit_model: DiffusionModel, guidance: float
) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dit_model.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    x = draw_noise(dit_model.x0_shape, 3, ["generate"], [1000], [0])
    with torch.no_grad():
        for time in scheduler.timesteps:
            told, untold = (
                dit_model.denoiser(x, timestep=time[None], class_labels=torch.tensor([label])).sample[:, :4]
                for label in (7, 1000)
            )
            x = scheduler.step(untold + guidance * (told - untold), time, x).prev_sample
        expected = dit_model.codec.decode(x).clamp(-1, 1)
    picture = generate(dit_model, [""], [7], [3], steps=5, guidance=guidance)
    torch.testing.assert_close(picture, expected, rtol=1e-3, atol=1e-4)


def test_a_bare_transformer_directory_loads_beside_its_scheduler(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler, DiTTransformer2DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 8}
    # No out_channels, with which diffusers predicts as many as it reads.
    DiTTransformer2DModel(in_channels=3, num_embeds_ada_norm=5, **sizes).save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    model = DiffusionModel.load(tmp_path)
    assert isinstance(model.codec, PixelCodec)
    assert model.predict(torch.randn(1, 3, 8, 8), torch.tensor([1]), model.condition([""], [4])).shape == (1, 3, 8, 8)


def test_stable_diffusion_3_opens_in_its_pipelines_layout(sd3_model: DiffusionModel) -> None:
    assert isinstance(sd3_model.conditioner, ByJointText)
    assert sd3_model.prediction_type == "flow"
    assert list(sd3_model.trained_parts()) == ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3"]
    vae = sd3_model.codec.vae  # type: ignore[attr-defined]
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = (vae.encode(pixels).latent_dist.mode() - 0.06) * 1.5
    torch.testing.assert_close(sd3_model.codec.encode(pixels), expected)


def pipeline(folder: Path, model: DiffusionModel) -> object:
    from diffusers import StableDiffusion3Pipeline

    conditioner = model.conditioner
    parts = {**conditioner.tokenizers(), **conditioner.encoders()}
    missing = dict.fromkeys({"tokenizer_3", "text_encoder_3"} - set(parts))
    made = StableDiffusion3Pipeline(
        transformer=model.denoiser,
        scheduler=DiffusionModel.load(folder).scheduler,  # sampling changes it
        vae=model.codec.vae,  # type: ignore[attr-defined]
        **parts,
        **missing,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("third", [True, False])
def test_captions_are_joined_as_the_pipeline_joins_them(sd3_copy: Path, third: bool) -> None:
    if not third:
        shutil.rmtree(sd3_copy / "text_encoder_3")
        shutil.rmtree(sd3_copy / "tokenizer_3")
    model = DiffusionModel.load(sd3_copy)
    with torch.no_grad():
        states, empty, pooled, empty_pooled = pipeline(sd3_copy, model).encode_prompt(  # type: ignore[attr-defined]
            PROMPTS, None, None
        )
    condition = model.condition(PROMPTS, [None] * 3)
    assert states.shape == (3, 12 + 256, 32)
    assert torch.equal(condition.hidden_states, states)  # type: ignore[arg-type]
    assert torch.equal(condition.pooled, pooled)  # type: ignore[arg-type]
    assert states[:, 12:].any() == third
    untold = model.conditioner.unconditional(3)
    assert untold is not None
    assert torch.equal(untold.hidden_states, empty)  # type: ignore[arg-type]
    assert torch.equal(untold.pooled, empty_pooled)  # type: ignore[arg-type]


def test_stable_diffusion_3_predicts_and_loses_as_the_module_itself(sd3_model: DiffusionModel) -> None:
    x0, noise, condition = batch(sd3_model)
    even = (TIMESTEPS + 1) / 1000
    sigmas = 3 * even / (1 + 2 * even)
    told = {"encoder_hidden_states": condition.hidden_states, "pooled_projections": condition.pooled}
    with torch.no_grad():
        prediction = sd3_model.predict(x0, TIMESTEPS, condition)
        direct = sd3_model.denoiser(x0, timestep=sigmas * 1000, **told).sample
        torch.testing.assert_close(prediction, direct, rtol=1e-4, atol=1e-5)
        line = (1 - sigmas.view(3, 1, 1, 1)) * x0 + sigmas.view(3, 1, 1, 1) * noise
        error = sd3_model.denoiser(line, timestep=sigmas * 1000, **told).sample - (noise - x0)
        losses = sd3_model.per_sample_loss(x0, TIMESTEPS, noise, condition)
        torch.testing.assert_close(losses, error.square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
        index = torch.tensor([2, 0])
        chosen = sd3_model.per_sample_loss(x0[index], TIMESTEPS[index], noise[index], condition.rows(index))
        torch.testing.assert_close(chosen, losses[index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_stable_diffusion_3_generates_as_its_pipeline(
    stable_diffusion_3: Path, sd3_model: DiffusionModel, guidance: float
) -> None:
    start = draw_noise(sd3_model.x0_shape, 3, ["generate"], [1000], [0])
    made = pipeline(stable_diffusion_3, sd3_model)(  # type: ignore[operator]
        "a red heart",
        latents=start,
        guidance_scale=guidance,
        num_inference_steps=4,
        output_type="pt",
        height=16,
        width=16,
    )
    picture = generate(sd3_model, ["a red heart"], [None], [3], steps=4, guidance=guidance)
    torch.testing.assert_close((picture + 1) / 2, made.images, rtol=1e-3, atol=1e-4)


def test_every_word_matters_to_both_states(sd3_model: DiffusionModel) -> None:
    one = sd3_model.condition(["a red heart", "flag of France"], [None] * 2)
    assert one.hidden_states is not None
    assert one.pooled is not None
    assert not torch.equal(one.hidden_states[0], one.hidden_states[1])
    assert not torch.equal(one.pooled[0], one.pooled[1])
    joined = Condition.joined([one, one])
    assert joined.pooled is not None
    assert torch.equal(joined.pooled, torch.cat([one.pooled, one.pooled]))


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2", "text_encoder_3"])
def test_a_part_in_pickle_is_refused(sd3_copy: Path, part: str) -> None:
    (weights,) = (sd3_copy / part).glob("*.safetensors")
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match=rf"{part}/.*\.bin is a pickle checkpoint"):
        DiffusionModel.load(sd3_copy)


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2", "text_encoder_3"])
def test_incomplete_weights_are_never_filled_with_random_ones(sd3_copy: Path, part: str) -> None:
    (weights,) = (sd3_copy / part).glob("*.safetensors")
    tensors = load_file(weights)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{part}.*lack 1 weights"):
        DiffusionModel.load(sd3_copy)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "text_encoder_2", "tokenizer_3"])
def test_a_missing_part_is_named(sd3_copy: Path, part: str) -> None:
    shutil.rmtree(sd3_copy / part)
    with pytest.raises(ModelError, match=rf"has no {part}/; a text-conditional model needs"):
        DiffusionModel.load(sd3_copy)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("pooled_projection_dim", 24, "text_encoder_2 gives with text_encoder, pooled states of width 20.*reads 24"),
        ("joint_attention_dim", 40, "text_encoder_3 gives states of width 32.*reads 40"),
        ("joint_attention_dim", 16, "text_encoder_2 gives with text_encoder, states of width 20.*reads 16"),
    ],
)
def test_text_encoders_of_other_widths_are_refused(sd3_copy: Path, option: str, value: int, message: str) -> None:
    from diffusers import SD3Transformer2DModel

    config = json.loads((sd3_copy / "transformer" / "config.json").read_text()) | {option: value}
    SD3Transformer2DModel.from_config(config).save_pretrained(sd3_copy / "transformer")
    with pytest.raises(ModelError, match=message):
        DiffusionModel.load(sd3_copy)
