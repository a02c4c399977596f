"""How a picture is made from a condition: the defaults are those of the paper's code, the modes are presets."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse
from forebear.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
PAPER_STEPS = 10


@dataclass(frozen=True, config=STRICT)
class PlacementConfig:
    """Where the condition lies on the canvas, in pixels of the model's picture."""

    size: Annotated[int, Field(ge=1)] | Literal["half", "canvas"] = "half"
    """Side of the square that the image is brought to; the paper's is 256 of 512."""
    x: Annotated[int, Field(ge=0)] | None = None
    """Pixels to its left; None: centred, as the paper's 128."""
    y: Annotated[int, Field(ge=0)] = 0
    """Pixels above it."""


@dataclass(frozen=True, config=STRICT)
class CowConfig:
    """Settings of Cyclic One-Way Diffusion. docs/cow.md has a table of them."""

    steps: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Steps N of the whole way from noise to picture; None: 10, or those that a quantised generator is made for."""
    cycles: Annotated[int, Field(ge=0, le=1000)] = 10
    """Rounds of disturbing and constructing, at most."""
    replace: Fraction = 0.5
    """Cycles end, and the last way begins, at step r = int(replace N), counted from the clean picture."""
    back: Fraction = 0.7
    """Cycles begin at step b = int(back N)."""
    preserve: Fraction = 0.4
    """The last way is overwritten once, at step p = int(preserve N), unless `strength` is given."""
    strength: Fraction | None = None
    """From 0, keep every pixel, to 1, follow the text; None: the paper's single overwriting."""
    eta: Fraction = 1.0
    """Of DDIM within the cycles."""
    final_eta: Fraction = 0.1
    """Of DDIM on the last way."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.5
    """Classifier-free guidance in all phases; 1 switches it off, and models that learned none have none."""
    negative: str = "a bad quality and low resolution image,extra fingers,deformed hands"
    """Prompt that cycles lead away from."""
    suppress: str = "human face"
    """Prompt that cycles lead away from outside the kept area; equal to `diverse`, neither takes part."""
    diverse: str = "a high quality and colorful image"
    """Prompt that cycles lead to outside the kept area."""
    placement: PlacementConfig = Field(default_factory=PlacementConfig)
    """Where the condition lies on the canvas."""
    edge: Literal["hard", "soft"] = "hard"
    """Hard masks keep what is at least half white; soft ones blend by their grey levels."""
    hold: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Masks are multiplied by it: below 1 the kept area is blended everywhere, and may turn into something else."""
    keep: Literal["white", "black"] = "white"
    """What is kept of a mask picture; the paper's code keeps black."""
    inversion: Literal["alone", "canvas"] = "alone"
    """Whether the condition is inverted by itself, at its own size, or where it lies on the canvas."""
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Cycles end when the boundary changes by less than this part of itself; 0: never early."""


MODES: dict[str, dict[str, Any]] = {
    "scene": {},
    "edit": {"placement": {"size": "canvas"}},
    "cross-domain": {"placement": {"size": "canvas"}, "strength": 1.0, "hold": 0.25},
    "inpaint": {"placement": {"size": "canvas"}, "strength": 0.0},
}
"""By mode, the settings that differ from the defaults."""


def preset(mode: str = "scene", changes: Mapping[str, Any] | None = None) -> CowConfig:
    """The settings of a mode, and `changes` on top, nested as in YAML.

    Raises ConfigError for an unknown mode and for settings that are not valid.
    """
    return parse(CowConfig, with_mode(mode, changes or {}), "settings")


def with_mode(mode: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings: a mode's own, and `changes` on top; raises ConfigError for an unknown mode."""
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} is unknown; the modes are {', '.join(MODES)}")
    merged: dict[str, Any] = MODES[mode] | dict(changes)
    if isinstance(changes.get("placement"), Mapping):
        merged["placement"] = MODES[mode].get("placement", {}) | dict(changes["placement"])
    return merged
