"""Diffusers directories open, or say what is wrong and what to do."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from forebear.diffusion.building import save_model
from forebear.diffusion.codec import PixelCodec, SpaceToDepthCodec, VaeCodec
from forebear.diffusion.conditioning import ByCaption
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ModelError

Build = Callable[..., DiffusionModel]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(tmp_path: Path, build: Build) -> Path:
    save_model(build(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def latent(tmp_path: Path, stable_diffusion: Path) -> Path:
    shutil.copytree(stable_diffusion, tmp_path / "latent")
    return tmp_path / "latent"


def losses(model: DiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn((2, 2, *model.x0_shape), generator=generator)
    with torch.no_grad():
        condition = model.condition(["a cat", "flag of France"], [0, 2])
        return model.per_sample_loss(x0, torch.tensor([10, 900]), noise, condition)


@pytest.mark.parametrize(
    ("conditioning", "options"),
    [
        ("none", {"scheduler": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}}),
        ("none", {"channels": 1}),
        ("class", {}),
        ("text", {}),
        ("text", {"space_to_depth": 2}),
        ("class", {"space_to_depth": 2, "channels": 1}),
    ],
)
def test_saved_models_load_back_equal(
    tmp_path: Path, build: Build, conditioning: str, options: dict[str, object]
) -> None:
    model = build(conditioning, **options)
    save_model(model, tmp_path / "model")
    loaded = DiffusionModel.load(tmp_path / "model")
    assert weights_fingerprint(loaded.trained_parts()) == weights_fingerprint(model.trained_parts())
    assert torch.equal(losses(loaded), losses(model))
    assert torch.equal(loaded.scheduler.alphas_cumprod, model.scheduler.alphas_cumprod)
    assert (loaded.image_size, loaded.image_channels) == (8, options.get("channels", 3))
    assert not any(module.training for part in loaded.trained_parts().values() for module in part.modules())


def test_space_to_depth_is_exact_for_grey_and_colour(build: Build) -> None:
    for channels in (1, 3):
        model = build(space_to_depth=2, channels=channels)
        assert isinstance(model.codec, SpaceToDepthCodec)
        assert model.x0_shape == (4 * channels, 4, 4)
        pixels = torch.rand(2, channels, 8, 8)
        assert model.codec.encode(pixels).shape == (2, *model.x0_shape)
        assert torch.equal(model.codec.decode(model.codec.encode(pixels)), pixels)


def test_the_layout_of_stable_diffusion(stable_diffusion: Path, tmp_path: Path) -> None:
    model = DiffusionModel.load(stable_diffusion)
    assert isinstance(model.codec, VaeCodec)
    assert isinstance(model.conditioner, ByCaption)
    assert (model.image_size, model.image_channels, model.x0_shape) == (16, 3, (4, 8, 8))
    assert model.prediction_type == "epsilon"
    tokens = model.conditioner.tokenizer("cat", padding="max_length", max_length=12).input_ids
    assert len(tokens) == 12
    assert len(set(tokens)) == 3  # start, `cat` as one token, end
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = model.codec.vae.encode(pixels).latent_dist.mode() * model.codec.vae.config.scaling_factor
    torch.testing.assert_close(model.codec.encode(pixels), expected)
    expected = model.codec.vae.decode(expected / model.codec.vae.config.scaling_factor).sample
    torch.testing.assert_close(model.codec.decode(model.codec.encode(pixels)), expected)
    assert len(losses(model).unique()) == 2
    save_model(model, tmp_path / "again")
    again = DiffusionModel.load(tmp_path / "again")
    assert torch.equal(losses(again), losses(model))
    assert torch.equal(again.codec.encode(pixels), model.codec.encode(pixels))


def test_long_captions_are_cut_and_shape_stays(stable_diffusion: Path) -> None:
    model = DiffusionModel.load(stable_diffusion)
    states = model.condition(["cat " * 100, ""], [None, None]).hidden_states
    assert states is not None
    assert states.shape == (2, 12, 8)
    assert not states.requires_grad


def test_a_bare_unet_directory_loads_beside_its_scheduler(tmp_path: Path, build: Build) -> None:
    model = build()
    model.denoiser.save_pretrained(tmp_path)  # type: ignore[operator]
    model.scheduler.save_pretrained(tmp_path / "scheduler")
    assert torch.equal(losses(DiffusionModel.load(tmp_path)), losses(model))


def test_half_precision_weights_load_as_float32_without_a_word(
    saved: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = saved / "unet" / WEIGHTS
    halves = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(halves, path)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = DiffusionModel.load(saved)
    for name, parameter in model.denoiser.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, halves[name].float())
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])


@pytest.mark.parametrize("fixture", ["stable_diffusion", "stable_diffusion_3", "dit"])
def test_loading_draws_no_bars_and_leaves_those_of_others(
    fixture: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers import CLIPTextModel
    from transformers.utils import logging as of_transformers

    folder = request.getfixturevalue(fixture)
    before = (of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled())
    hub = are_progress_bars_disabled()
    capfd.readouterr()
    DiffusionModel.load(folder)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ModelError):
        DiffusionModel.load(folder / "vae")  # fails halfway
    assert (of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled()) == before
    assert are_progress_bars_disabled() == hub
    if fixture == "stable_diffusion":
        CLIPTextModel.from_pretrained(folder / "text_encoder")
        assert "Loading weights" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["model.ckpt", "model.BIN", "weights.pt"])
def test_a_pickle_file_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save({"weight": torch.ones(1)}, path)
    for given_path in (path, tmp_path):
        with pytest.raises(ModelError, match=r"is a pickle checkpoint.*safe_serialization=True"):
            DiffusionModel.load(given_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_in_pickle_is_refused_with_the_remedy(latent: Path, part: str) -> None:
    (weights,) = (latent / part).glob("*.safetensors")
    torch.save({}, weights.with_suffix(".bin"))
    DiffusionModel.load(latent)  # safetensors beside it are what is read
    weights.unlink()
    with pytest.raises(ModelError, match=rf"{part}/.*\.bin is a pickle checkpoint.*safe_serialization"):
        DiffusionModel.load(latent)


def test_pickle_files_that_would_not_be_read_do_not_matter(latent: Path) -> None:
    (latent / "safety_checker").mkdir()
    torch.save({}, latent / "safety_checker" / "pytorch_model.bin")
    torch.save({}, latent / "v1-5-pruned.ckpt")
    DiffusionModel.load(latent)


def test_a_missing_path_and_a_foreign_folder_and_a_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist; give the directory"):
        DiffusionModel.load(tmp_path / "none")
    with pytest.raises(ModelError, match="is not a diffusers model"):
        DiffusionModel.load(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is a file; give the directory"):
        DiffusionModel.load(path)


def edit(path: Path, **values: object) -> None:
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "holds a FluxTransformer2DModel; supported denoisers are"),
        ("unet", {"block_out_channels": [8, 12]}, "unet"),
        ("unet", {"addition_embed_type": "text"}, "conditioned by addition_embed_type = text"),
        ("unet", {"num_class_embeds": 3}, "conditioned by num_class_embeds = 3"),
        ("unet", {"cross_attention_dim": 16}, "unet"),
        ("vae", {"_class_name": "VQModel"}, "holds a VQModel; supported are AutoencoderKL"),
        ("vae", {"latent_channels": 5}, "vae"),
        ("text_encoder", {"hidden_size": 16}, "text_encoder"),
        ("scheduler", {"_class_name": "FlowMatchHeunDiscreteScheduler"}, "has no alphas_cumprod; supported are DDPM"),
        ("scheduler", {"_class_name": "UNet2DModel"}, "has no alphas_cumprod"),
        ("scheduler", {"_class_name": "NoSuchScheduler"}, "has no alphas_cumprod"),
        ("scheduler", {"beta_schedule": "nonsense"}, "scheduler cannot be loaded"),
    ],
)
def test_unsupported_and_ill_fitting_parts_are_named(
    latent: Path, part: str, values: dict[str, object], message: str
) -> None:
    edit(latent / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    with pytest.raises(ModelError, match=message):
        DiffusionModel.load(latent)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_broken_json_is_named(latent: Path, part: str, content: str) -> None:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (latent / part / name).write_text(content)
    with pytest.raises(ModelError, match=rf"{part}/{name} is not"):
        DiffusionModel.load(latent)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_and_incomplete_weights_are_never_filled_with_random_ones(latent: Path, part: str) -> None:
    (weights,) = (latent / part).glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=rf"{part} cannot be loaded"):
        DiffusionModel.load(latent)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    dropped = sorted(tensors)[0]
    del tensors[dropped]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{part}.*lack 1 weights"):
        DiffusionModel.load(latent)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("scheduler", r"scheduler_config\.json is missing; save the training scheduler"),
        ("tokenizer", "has no tokenizer/"),
        ("text_encoder", "has no text_encoder/"),
    ],
)
def test_a_missing_part_is_named(latent: Path, part: str, message: str) -> None:
    shutil.rmtree(latent / part)
    with pytest.raises(ModelError, match=message):
        DiffusionModel.load(latent)


def test_an_inpainting_model_is_refused(latent: Path, build: Build) -> None:
    shutil.rmtree(latent / "unet")
    from diffusers import UNet2DConditionModel

    config = build("text").denoiser.config
    UNet2DConditionModel.from_config(dict(config) | {"in_channels": 9, "out_channels": 4}).save_pretrained(
        latent / "unet"
    )
    with pytest.raises(ModelError, match="reads 9 channels and predicts 4"):
        DiffusionModel.load(latent)


def test_pixel_models_need_no_vae(saved: Path) -> None:
    assert isinstance(DiffusionModel.load(saved).codec, PixelCodec)


@pytest.mark.parametrize("factor", [0, "2", None])
def test_a_space_to_depth_without_a_factor_is_named(tmp_path: Path, build: Build, factor: object) -> None:
    save_model(build(space_to_depth=2), tmp_path / "model")
    edit(tmp_path / "model" / "vae" / "config.json", factor=factor)
    with pytest.raises(ModelError, match="factor is"):
        DiffusionModel.load(tmp_path / "model")
