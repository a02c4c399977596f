"""What lies where in a denoiser: the order of its blocks, joined skip inputs, and each layer's role and width."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError, ModelError
from forebear_generators.quantisation.layers import SplitLayer, replace_module
from forebear_generators.quantisation.settings import QuantisationConfig, WeightsConfig
from forebear_generators.quantisation.temporal import TemporalBlock

Role = Literal["temporal", "first", "last", "shortcut", "resampling", "body"]


@dataclass(frozen=True)
class PlannedLayer:
    """A layer that is quantised, and how."""

    name: str
    role: Role
    bits: int
    """Of its weights."""
    symmetric: bool
    reduced: bool
    integer_inputs: bool
    """Whether its input is quantised to 8 bits."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Layout:
    """A denoiser taken to pieces, in the order in which a forward pass comes to them."""

    splits: dict[str, int]
    """Shortcuts over a joined input, and the channel before which the second input begins."""
    layers: tuple[PlannedLayer, ...]
    units: tuple[str, ...]
    """Blocks, and layers outside of blocks, that hold planned layers beside those of the temporal block."""

    def of_unit(self, unit: str) -> list[PlannedLayer]:
        """The planned layers inside a unit, without those of the temporal block."""
        return [
            layer
            for layer in self.layers
            if layer.role != "temporal" and (layer.name == unit or layer.name.startswith(f"{unit}."))
        ]

    def temporal(self) -> list[PlannedLayer]:
        return [layer for layer in self.layers if layer.role == "temporal"]


def lay_out(model: DiffusionModel, config: QuantisationConfig) -> Layout:
    """Run the denoiser once on zeros and plan its layers; joined shortcuts are split in place where they shall be."""
    denoiser = model.denoiser
    splits = _joined_shortcuts(model) if config.weights.shortcuts == "split" else {}
    split_shortcuts(denoiser, splits)
    block = TemporalBlock(denoiser)
    order = _call_order(model)
    planned = _plan(denoiser, order, block, config)
    for wide in config.weights.wide:
        if not any(f"{layer.name}.".startswith(f"{wide}.") for layer in planned):
            raise ConfigError(f"weights.wide names {wide!r}, and no quantised layer is called so or lies in it")
    units: list[str] = []
    blocks = [name for name in order if _is_block(denoiser.get_submodule(name))]
    outer = [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks)]
    for layer in planned:
        if layer.role == "temporal":
            continue
        unit = next((name for name in outer if layer.name.startswith(f"{name}.")), layer.name)
        if unit not in units:
            units.append(unit)
    return Layout(splits, tuple(planned), tuple(units))


def split_shortcuts(denoiser: nn.Module, splits: dict[str, int]) -> None:
    """Take each named convolution apart before its channel."""
    for name, at in splits.items():
        layer = denoiser.get_submodule(name)
        if not isinstance(layer, nn.Conv2d):
            raise ModelError(f"{name} is to be taken apart and is no convolution; quantise the model again")
        replace_module(denoiser, name, SplitLayer.of(layer, at))


@torch.no_grad()
def probe(model: DiffusionModel) -> None:
    """One forward pass of a row of zeros."""
    condition = model.condition([""], [0])
    model.predict(torch.zeros(1, *model.x0_shape), torch.zeros(1, dtype=torch.int64), condition)


def _call_order(model: DiffusionModel) -> list[str]:
    """Names of all modules in the order of their first calls (a block before what it holds)."""
    order: list[str] = []
    with ExitStack() as stack:
        for name, module in model.denoiser.named_modules():

            def note(*_: Any, name: str = name) -> None:
                if name and name not in order:
                    order.append(name)

            stack.enter_context(removed_at_end(module.register_forward_pre_hook(note)))
        probe(model)
    return order


@contextmanager
def removed_at_end(handle: Any) -> Iterator[None]:
    """Remove a hook when the block ends."""
    try:
        yield
    finally:
        handle.remove()


def _joined_shortcuts(model: DiffusionModel) -> dict[str, int]:
    """Shortcut convolutions of up blocks, and the channels that come from below."""
    found: dict[str, int] = {}
    with ExitStack() as stack:
        for name, block in model.denoiser.named_modules():
            if not isinstance(getattr(block, "resnets", None), nn.ModuleList) or ".up_blocks" not in f".{name}":
                continue

            def note(module: Any, plain: tuple[Any, ...], named: dict[str, Any], name: str = name) -> None:
                # UNet2DModel gives the skips by position, after x; UNet2DConditionModel by name.
                skips: tuple[Tensor, ...] = named.get("res_hidden_states_tuple") or plain[1]
                for place, resnet in enumerate(module.resnets):
                    if resnet.conv_shortcut is not None and place < len(skips):
                        at = resnet.in_channels - skips[-1 - place].shape[1]
                        found[f"{name}.resnets.{place}.conv_shortcut"] = at

            stack.enter_context(removed_at_end(block.register_forward_pre_hook(note, with_kwargs=True)))
        probe(model)
    return found


def _is_block(module: nn.Module) -> bool:
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    return isinstance(module, BasicTransformerBlock | Attention | ResnetBlock2D)


def _plan(
    denoiser: nn.Module, order: list[str], block: TemporalBlock, config: QuantisationConfig
) -> list[PlannedLayer]:
    temporal = set(block.layers())
    inside = tuple(f"{name}." for name in [*block.embeddings, *block.class_embeddings])
    names = [name for name in order if isinstance(denoiser.get_submodule(name), nn.Linear | nn.Conv2d)]
    body = [name for name in names if name not in temporal and not name.startswith(inside)]
    planned = []
    for name in names:
        if name not in temporal and name not in body:
            continue
        role = _role(name, temporal, body)
        layer = _planned(name, role, config)
        if layer is not None:
            planned.append(layer)
    return planned


def _role(name: str, temporal: set[str], body: list[str]) -> Role:
    if name in temporal:
        return "temporal"
    if name == body[0]:
        return "first"
    if name == body[-1]:
        return "last"
    if ".conv_shortcut" in name:
        return "shortcut"
    if ".upsamplers." in name or ".downsamplers." in name:
        return "resampling"
    return "body"


def _planned(name: str, role: Role, config: QuantisationConfig) -> PlannedLayer | None:
    weights, bits = config.weights, config.weight_bits
    if role in ("first", "last"):
        if weights.first_last == "float":
            return None
        bits = 8 if weights.first_last == "8-bit" else bits
    if (role == "shortcut" and weights.shortcuts == "float") or (
        role == "resampling" and weights.resampling == "float"
    ):
        return None
    symmetric = bits == 8 if weights.symmetric is None else weights.symmetric
    planned = PlannedLayer(name, role, bits, symmetric, weights.reduced, config.activation_bits is not None)
    wide = any(f"{name}.".startswith(f"{each}.") for each in weights.wide)
    return widened(planned, weights) if wide and bits == 4 else planned


def widened(plan: PlannedLayer, config: WeightsConfig) -> PlannedLayer:
    """The layer with 8-bit weights, of codes whose sums overflow on no processor."""
    return replace(plan, bits=8, symmetric=config.symmetric is not False, reduced=True)
