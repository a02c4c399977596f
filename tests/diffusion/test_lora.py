"""LoRA weights beside a model stay apart from its own, and every one of them is taken up or refused."""

import builtins
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from forebear.diffusion.building import save_model
from forebear.diffusion.checkpoint import attributed_checkpoints, load_checkpoint, write_checkpoint
from forebear.diffusion.lora import LORA_FILE
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ModelError
from forebear.gradients.engine import GradientEngine
from forebear.gradients.projection import ProjectionConfig
from forebear.run import Run

RANK = 3


def adapter(denoiser: Any, **options: Any) -> dict[str, torch.Tensor]:
    """Random LoRA weights for a denoiser, as peft names them; the denoiser gets the adapter."""
    chosen = {"r": RANK, "lora_alpha": RANK, "target_modules": ["to_q", "to_v"]} | options
    denoiser.add_adapter(LoraConfig(init_lora_weights="gaussian", **chosen))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(denoiser)
    return found


@pytest.fixture
def plain(stable_diffusion: Path, tmp_path: Path) -> Path:
    shutil.copytree(stable_diffusion, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def lora(plain: Path) -> Path:
    """A Stable Diffusion directory with a LoRA, as diffusers' training scripts leave it."""
    StableDiffusionPipeline.save_lora_weights(plain, unet_lora_layers=adapter(DiffusionModel.load(plain).denoiser))
    return plain


def predictions(model: DiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noised = torch.randn((2, *model.x0_shape), generator=generator)
    with torch.no_grad():
        return model.predict(noised, torch.tensor([10, 900]), model.condition(["a cat", "heart"], [None, None]))


def test_the_adapter_is_in_place_and_not_fused(lora: Path, stable_diffusion: Path) -> None:
    model, base = DiffusionModel.load(lora), DiffusionModel.load(stable_diffusion)
    assert (predictions(model) - predictions(base)).abs().max() > 1e-3
    reference = DiffusionModel.load(stable_diffusion)
    adapter(reference.denoiser)
    torch.testing.assert_close(predictions(model), predictions(reference))
    own = dict(model.denoiser.named_parameters())
    found = {name for name in own if "lora_A" in name or "lora_B" in name}
    saved = load_file(lora / LORA_FILE)
    assert len(found) == len(saved) > 0
    for name, tensor in saved.items():
        assert torch.equal(own[name.removeprefix("unet.").replace(".weight", ".default.weight")], tensor)
    for name, parameter in base.denoiser.named_parameters():
        assert any(torch.equal(parameter, own[kept]) for kept in (name, name.replace(".weight", ".base_layer.weight"))
                   if kept in own)  # fmt: skip
    assert all(parameter.requires_grad for parameter in own.values())
    assert not any(module.training for module in model.denoiser.modules())


def test_the_adapter_alone_can_be_attributed_to(lora: Path) -> None:
    model = DiffusionModel.load(lora)
    chosen = {name: p for name, p in model.denoiser.named_parameters() if "lora_" in name}
    assert len(chosen) == len(load_file(lora / LORA_FILE))
    x0, noise = torch.randn(2, 2, *model.x0_shape)
    condition = model.condition(["a cat", "heart"], [None, None])

    def losses() -> torch.Tensor:
        return model.per_sample_loss(x0, torch.tensor([500, 20]), noise, condition)

    found = GradientEngine(model.denoiser, ProjectionConfig(dim=None), ["*lora_*"]).measure(losses)
    for row in range(2):
        gradients = torch.autograd.grad(losses()[row], list(chosen.values()))
        assert all(gradient.any() for gradient in gradients)
        torch.testing.assert_close(
            found.vectors[row], torch.cat([g.flatten() for g in gradients]), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize(("alpha", "with_settings"), [(RANK, False), (2 * RANK, True)])
def test_alpha_is_that_of_the_settings_or_the_rank(plain: Path, alpha: int, with_settings: bool) -> None:
    reference = DiffusionModel.load(plain)
    weights = adapter(reference.denoiser, lora_alpha=alpha, lora_dropout=0.5)
    reference.denoiser.eval()
    settings = reference.denoiser.peft_config["default"].to_dict() if with_settings else None  # type: ignore
    StableDiffusionPipeline.save_lora_weights(plain, weights, unet_lora_adapter_metadata=settings)
    torch.testing.assert_close(predictions(DiffusionModel.load(plain)), predictions(reference))


def test_the_fingerprint_follows_the_lora(lora: Path, stable_diffusion: Path) -> None:
    first = weights_fingerprint(DiffusionModel.load(lora).trained_parts())
    assert first == weights_fingerprint(DiffusionModel.load(lora).trained_parts())
    assert first != weights_fingerprint(DiffusionModel.load(stable_diffusion).trained_parts())
    tensors = load_file(lora / LORA_FILE)
    tensors[sorted(tensors)[0]][0, 0] += 1e-4
    save_file(tensors, lora / LORA_FILE)
    assert first != weights_fingerprint(DiffusionModel.load(lora).trained_parts())


def test_the_fingerprint_follows_the_scale(plain: Path) -> None:
    found = set()
    for alpha in (RANK, 2 * RANK):
        reference = DiffusionModel.load(plain)
        adapter(reference.denoiser, lora_alpha=alpha)
        reference.denoiser.save_lora_adapter(plain)  # type: ignore[operator]
        model = DiffusionModel.load(plain)
        found.add(weights_fingerprint(model.trained_parts()))
        (plain / LORA_FILE).unlink()
    assert len(found) == 2


def test_checkpoints_hold_the_lora(lora: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(lora, run.model_folder)
    (whole,) = attributed_checkpoints(run)
    model = load_checkpoint(run, whole)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if "lora_" in name:
                parameter.add_(0.5)
    here = type(whole)(**{**vars(whole), "weights": "here"})
    write_checkpoint(run, here, {part: module.state_dict() for part, module in model.trained_parts().items()})
    again = load_checkpoint(run, here)
    assert torch.equal(predictions(again), predictions(model))
    assert weights_fingerprint(again.trained_parts()) == weights_fingerprint(model.trained_parts())
    assert not torch.equal(predictions(again), predictions(load_checkpoint(run, whole)))


def test_stable_diffusion_3_takes_a_lora(stable_diffusion_3: Path, tmp_path: Path) -> None:
    shutil.copytree(stable_diffusion_3, tmp_path / "model")
    reference = DiffusionModel.load(stable_diffusion_3)
    StableDiffusion3Pipeline.save_lora_weights(tmp_path / "model", transformer_lora_layers=adapter(reference.denoiser))
    model = DiffusionModel.load(tmp_path / "model")
    torch.testing.assert_close(predictions(model), predictions(reference))
    assert any("lora_B" in name for name, _ in model.denoiser.named_parameters())


def test_a_lora_of_the_denoiser_alone_and_in_half_precision_loads(plain: Path) -> None:
    reference = DiffusionModel.load(plain)
    adapter(reference.denoiser)
    reference.denoiser.save_lora_adapter(plain)  # type: ignore[operator] - no prefix
    torch.testing.assert_close(predictions(DiffusionModel.load(plain)), predictions(reference))
    tensors = load_file(plain / LORA_FILE)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, plain / LORA_FILE)
    model = DiffusionModel.load(plain)
    assert {parameter.dtype for parameter in model.denoiser.parameters()} == {torch.float32}
    torch.testing.assert_close(predictions(model), predictions(reference), rtol=1e-2, atol=1e-3)


def test_the_older_names_of_diffusers_load_too(lora: Path) -> None:
    expected = predictions(DiffusionModel.load(lora))
    older = {".lora_A.": ".lora.down.", ".lora_B.": ".lora.up."}
    tensors = load_file(lora / LORA_FILE)
    for new, old in older.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, lora / LORA_FILE)
    torch.testing.assert_close(predictions(DiffusionModel.load(lora)), expected)


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


OTHER = "put the LoRA beside the model"
FORMAT = "is not a LoRA weight in diffusers' format"
ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"text_encoder.layers.0.lora_A.weight": ONE}, "also changes a text encoder.*only LoRA of"),
        (lambda t: t | {"unet.down_blocks.9.to_q.lora_A.weight": torch.ones(3, 8)}, OTHER),
        (lambda t: {n: v for n, v in t.items() if n != min(t)}, OTHER),
        (lambda t: {n: v[..., :2].contiguous() for n, v in t.items()}, OTHER),
        (renamed("down_blocks", "other_blocks"), OTHER),
        (renamed("unet.", "lora_unet_"), OTHER),
        (lambda t: t | {"down_blocks.0.lora_A.weight": ONE}, FORMAT),
        (lambda t: t | {"unet.down_blocks.0.alpha": ONE}, FORMAT),
        (lambda _: {}, "holds no weights"),
    ],
)
def test_weights_that_are_not_taken_up_are_refused(lora: Path, change: Any, message: str) -> None:
    save_file(change(load_file(lora / LORA_FILE)), lora / LORA_FILE)
    with pytest.raises(ModelError, match=message):
        DiffusionModel.load(lora)


def test_a_start_that_changes_the_models_own_weights_is_refused(plain: Path) -> None:
    reference = DiffusionModel.load(plain)
    weights = adapter(reference.denoiser)
    settings = reference.denoiser.peft_config["default"].to_dict() | {"init_lora_weights": "pissa"}  # type: ignore
    StableDiffusionPipeline.save_lora_weights(plain, weights, unet_lora_adapter_metadata=settings)
    with pytest.raises(ModelError, match="started from pissa"):
        DiffusionModel.load(plain)


def test_a_damaged_and_a_pickled_lora_are_refused(lora: Path) -> None:
    path = lora / LORA_FILE
    torch.save({}, path.with_suffix(".bin"))
    DiffusionModel.load(lora)  # the safetensors beside it are what is read
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelError, match=rf"{LORA_FILE} cannot be loaded.*save the LoRA again"):
        DiffusionModel.load(lora)
    path.unlink()
    with pytest.raises(ModelError, match=r"pytorch_lora_weights\.bin is a pickle checkpoint"):
        DiffusionModel.load(lora)


def test_without_peft_the_remedy_is_named(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_spec, real_import = importlib.util.find_spec, builtins.__import__
    monkeypatch.setattr("forebear.diffusion.lora.find_spec", lambda name: None if name == "peft" else real_spec(name))

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "peft":
            raise ModuleNotFoundError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModelError, match=r"pip install 'forebear\[lora\]'"):
        DiffusionModel.load(lora)


def test_a_denoiser_that_takes_no_lora_is_named(dit: Path, tmp_path: Path) -> None:
    shutil.copytree(dit, tmp_path / "model")
    save_file({"transformer.lora_A.weight": torch.ones(1)}, tmp_path / "model" / LORA_FILE)
    with pytest.raises(ModelError, match="no LoRA into a DiTTransformer2DModel"):
        DiffusionModel.load(tmp_path / "model")


def test_a_model_with_a_lora_is_not_saved_half(lora: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="copy the directory"):
        save_model(DiffusionModel.load(lora), tmp_path / "again")
    assert not (tmp_path / "again").exists()
