"""The rows of the evaluation: methods, combinations of COW's settings, and its settings varied one at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch

from forebear.config import plain
from forebear.data import TrainingSet
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.evaluation import baselines
from forebear_generators.cow.evaluation.cases import Case
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig, Method
from forebear_generators.cow.sampler import CowResult, cow, planned_calls
from forebear_generators.cow.settings import CowConfig
from forebear_generators.evaluation.gallery import Named
from forebear_generators.generator import Generator

COW, PAPER, PASTE, REPAINT, TEXT, REAL = "COW", "COW, paper", "paste", "RePaint", "text alone", "real images"
Kind = Literal["method", "reference", "grid", "ablation"]


@dataclass(frozen=True)
class Row:
    """One way to make the pictures."""

    name: str
    kind: Kind
    identity: tuple[Any, ...]
    """What its pictures depend on beside the cases, as JSON-like values."""
    make: Callable[[Sequence[Case]], CowResult]
    cases: int
    """How many it sees, the first ones."""
    seeded: bool = True
    """Whether another seed makes another picture."""
    baseline: bool = False
    """Whether it is another method than COW."""
    setting: str = ""
    """Of an ablation: what is varied."""
    value: bool | int | float | str = ""
    full: str = ""
    """The row of full precision that a quantised generator's is compared with."""


def rows_of(
    config: CowEvaluationConfig, full: Named, quantised: Mapping[str, Named], training_set: TrainingSet
) -> list[Row]:
    """Every row, baselines first. Raises ConfigError for settings that do not fit the model or a generator."""
    chosen, paper = config.of_cow(config.cow), config.of_cow()
    plain_way = config.of_cow({"guidance": chosen.guidance})
    ways: dict[Method, list[Row]] = {
        "paste": [_baseline(PASTE, full, plain_way, config, baselines.paste)],
        "sdedit": [
            _baseline(f"SDEdit {strength:g}", full, plain_way, config, baselines.sdedit, strength=strength)
            for strength in config.sdedit
        ],
        "repaint": [_baseline(REPAINT, full, plain_way, config, baselines.repaint, **_jumps(config))],
        "cow paper": _everywhere(PAPER, full, quantised, paper, config),
        "cow": _everywhere(COW, full, quantised, chosen, config),
        "text": [_baseline(TEXT, full, plain_way, config, baselines.sdedit, "reference", strength=1.0)],
        "real": [_real(full, plain_way, config, training_set)],
    }
    found = [row for method in dict.fromkeys(config.methods) for row in ways[method]]
    for values in product(*config.grid.values()) if config.grid else ():
        changes = dict(zip(config.grid, values, strict=True))
        named = ", ".join(f"{name} {value}" for name, value in changes.items())
        varied = config.of_cow(config.cow | changes)
        found.append(_cow_row(f"{COW}, {named}", "grid", full, varied, config.conditions))
    seen = min(config.ablation_conditions, config.conditions)
    for name, several in config.ablations.items():
        for value in several:
            varied = config.of_cow(config.cow | {name: value})
            found.append(_cow_row(f"varied: {name} {value}", "ablation", full, varied, seen, setting=name, value=value))
    return found


def _jumps(config: CowEvaluationConfig) -> dict[str, Any]:
    return {"jump": max(1, round(config.repaint_jump * config.steps)), "resamplings": config.repaint_resamplings}


def _everywhere(
    name: str, full: Named, quantised: Mapping[str, Named], settings: CowConfig, config: CowEvaluationConfig
) -> list[Row]:
    """COW by full precision, then by every quantised generator."""
    return [
        _cow_row(name, "method", full, settings, config.conditions),
        *(
            _cow_row(f"{name}, {other}", "method", named, settings, config.conditions, full=name)
            for other, named in quantised.items()
        ),
    ]


def _cow_row(name: str, kind: Kind, named: Named, settings: CowConfig, cases: int, **more: Any) -> Row:
    planned_calls(named.generator, 1, settings)  # refused before anything is made

    def make(given: Sequence[Case]) -> CowResult:
        return cow(named.generator, _conditions(given), settings, batch=len(given))

    return Row(name, kind, (named.identity, "cow", plain(settings)), make, cases, **more)


def _baseline(
    name: str,
    named: Named,
    settings: CowConfig,
    config: CowEvaluationConfig,
    way: Callable[..., CowResult],
    kind: Kind = "method",
    **more: Any,
) -> Row:
    follow = partial(way, **more)

    def make(given: Sequence[Case]) -> CowResult:
        return follow(named.generator, _conditions(given), settings)

    return Row(
        name, kind, (named.identity, way.__name__, more, plain(settings)), make, config.conditions, baseline=True
    )


def _real(named: Named, settings: CowConfig, config: CowEvaluationConfig, training_set: TrainingSet) -> Row:
    """The training images whose words the conditions are given, in place of pictures."""
    generator: Generator = named.generator

    def make(given: Sequence[Case]) -> CowResult:
        pasted = baselines.paste(generator, _conditions(given), settings)
        model = generator.model
        pixels = training_set.pixels([case.target for case in given], model.image_size, model.image_channels)
        none: tuple[tuple[float, ...], ...] = ((),) * len(given)
        return CowResult(torch.from_numpy(pixels), pasted.canvas, pasted.kept, 0, 0, (), none, (0,) * len(given))

    identity = (named.identity, "real", training_set.fingerprint, plain(settings))
    return Row(REAL, "reference", identity, make, config.conditions, seeded=False)


def _conditions(cases: Sequence[Case]) -> list[CowCondition]:
    return [case.condition for case in cases]
