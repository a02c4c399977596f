"""Settings of the evaluation of Cyclic One-Way Diffusion."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ConfigError
from forebear_generators.cow.settings import PAPER_STEPS, CowConfig, Fraction, PlacementConfig

Count = Annotated[int, Field(ge=1)]
Value = bool | int | float | str
Method = Literal["paste", "sdedit", "repaint", "cow paper", "cow", "text", "real"]
METHODS: tuple[Method, ...] = ("paste", "sdedit", "repaint", "cow paper", "cow", "text", "real")


@dataclass(frozen=True, config=STRICT)
class CowEvaluationConfig:
    """Which conditions, which methods, and how their pictures are measured. docs/cow.md has a table of them."""

    generators: tuple[Path, ...] = ()
    """Folders that `forebear quantize` wrote of the run's model: COW by each of them beside full precision's."""
    backend: str = "auto"
    """Of these generators."""
    conditions: Annotated[int, Field(ge=2)] = 64
    """Training images chosen by key, each with the caption or label of another."""
    mask: Literal["subject", "left", "centre"] = "subject"
    """What is kept: all but the image's even background, its left half, or the half as wide square in its middle."""
    placement: PlacementConfig = Field(default_factory=PlacementConfig)
    """Where every method finds the condition on the canvas."""
    seed: int = 0
    """Of the choice and of the first picture; the others count up."""
    steps: Annotated[int, Field(ge=2, le=1000)] = PAPER_STEPS
    """N of every method."""
    methods: tuple[Method, ...] = METHODS
    """Rows of the comparison, in this order."""
    cow: dict[str, Any] = Field(default_factory=lambda: {"guidance": 2.0})
    """Settings of the row `COW` that differ from the paper's; its guidance is that of every baseline."""
    sdedit: tuple[Fraction, ...] = (0.3, 0.5, 0.7)
    """Strengths of SDEdit."""
    repaint_jump: Fraction = 0.04
    """Steps that RePaint goes back at once, as a part of N, at least one; the paper's is 10 of 250."""
    repaint_resamplings: Count = 10
    """How often RePaint walks each stretch; 1: no going back."""
    wrong: Count = 15
    """Captions or labels of other training images that the right one is told apart from."""
    timesteps: Count = 8
    """Stratified timesteps at which the model's loss decides between them."""
    draws: Count = 1
    """Noises at each of these, the same for all pictures and captions."""
    judge_backend: str = "auto"
    """What computes the full-precision model that judges: auto, or openvino, which is quicker."""
    seeds: Count = 3
    """Pictures of the same condition between which diversity is measured; 1 leaves it out."""
    diverse: Count = 16
    """Conditions, the first ones, of which it is measured."""
    real: Count = 256
    """Training images that say how large the step across a boundary is in real images."""
    grid: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Settings of COW and their values: a row for each combination, on top of `cow`."""
    ablations: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Settings of COW and their values: a row and a point of a curve for each value alone, on top of `cow`."""
    ablation_conditions: Annotated[int, Field(ge=2)] = 32
    """Conditions, the first ones, that the rows of `ablations` see."""
    batch: Count = 8
    """Pictures made at once."""
    shown: Count = 8
    """Pictures of each row on the page."""

    def of_cow(self, changes: dict[str, Any] | None = None) -> CowConfig:
        """Settings of COW with this evaluation's steps and placement; raises ConfigError when they are not valid.

        The one overwriting of the last way cannot lie above its start, so that a `replace` below `preserve` moves it.
        """
        shared = {"steps": self.steps, "placement": plain(self.placement)}
        given = changes or {}
        if fixed := set(shared) & set(given):
            raise ConfigError(f"set {', '.join(sorted(fixed))} for the whole evaluation, not within COW's settings")
        found = parse(CowConfig, given | shared, "cow")
        if found.preserve > found.replace:
            found = parse(CowConfig, given | shared | {"preserve": found.replace}, "cow")
        return found
