"""The conditions of the evaluation: training images, what of them is kept, and the words of others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forebear.data import TrainingSet
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear.images import to_picture, to_pixels
from forebear.randomness import keyed_permutation
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig
from forebear_generators.cow.placement import place

Words = tuple[str, int | None]
"""A caption, or "" and a label."""
BACKGROUND = 0.1
"""How far the levels, -1 to 1, of an even background may lie from its corner's."""


@dataclass(frozen=True)
class Case:
    """One condition, and what its picture is judged by."""

    sample: str
    """Id of the training image that is kept."""
    condition: CowCondition
    wrong: tuple[Words, ...]
    """Words that it is not given: the condition's own where there are no others; none of models told none."""
    target: int
    """Row of the training image whose words it is given."""

    @property
    def right(self) -> Words:
        return self.condition.prompt, self.condition.label

    def again(self, seed: int) -> "Case":
        """The same with another seed."""
        return replace(self, condition=replace(self.condition, seed=seed))

    def identity(self) -> list[object]:
        """What its pictures depend on, beside the settings."""
        return [self.sample, *self.right, self.condition.seed]


def choose_cases(training_set: TrainingSet, model: DiffusionModel, config: CowEvaluationConfig) -> list[Case]:
    """The evaluation's conditions, chosen by key whatever the order of the training set.

    Raises ConfigError when the training images of a model that is told words have fewer than two captions or labels.
    """
    kind = model.conditioner.kind
    samples = training_set.samples
    by_id = sorted(range(len(samples)), key=lambda row: samples[row].id)
    order = [by_id[place] for place in keyed_permutation(len(by_id), "cow conditions", config.seed).tolist()]
    told = kind != "unconditional"
    words: dict[int, Words] = {
        row: (samples[row].caption if kind == "text" else "", samples[row].label if kind == "class" else None)
        for row in order
    }
    different = list(dict.fromkeys(words.values()))
    if told and len(different) < 2:
        raise ConfigError(
            "all training images have the same caption or label; the evaluation needs two, the condition's and another"
        )
    kept = _kept_images(training_set, model, config, order)
    found = []
    for number in range(config.conditions):
        row, condition = kept[number % len(kept)]
        ahead = (order[(number + config.conditions + further) % len(order)] for further in range(len(order)))
        target = next(other for other in ahead if not told or words[other] != words[row])
        others = [each for each in different if each not in (words[row], words[target])]
        if told and not others:
            others = [words[row]]
        chosen = keyed_permutation(len(others), "cow wrong words", config.seed, number).tolist()[: config.wrong]
        prompt, label = words[target]
        given = replace(condition, prompt=prompt, label=label, seed=config.seed + number)
        found.append(Case(samples[row].id, given, tuple(others[each] for each in chosen), target))
    return found


def _kept_images(
    training_set: TrainingSet, model: DiffusionModel, config: CowEvaluationConfig, order: Sequence[int]
) -> list[tuple[int, CowCondition]]:
    """The first images in order of which something is left at the model's positions, with their rows.

    Raises the last one's ConfigError when there is none.
    """
    settings = config.of_cow({"inversion": "canvas"})
    found: list[tuple[int, CowCondition]] = []
    refused: ConfigError | None = None
    for row in order:
        pixels = to_pixels(training_set.picture(row, model.image_size), model.image_size)
        condition = CowCondition(to_picture(pixels), kept_part(pixels, config.mask))
        try:
            place(model, [condition], settings)
        except ConfigError as reason:
            refused = reason
            continue
        found.append((row, condition))
        if len(found) == config.conditions:
            break
    if refused is not None and not found:
        raise refused
    return found


def further_seeds(cases: Sequence[Case], config: CowEvaluationConfig) -> list[list[Case]]:
    """The first cases with each of the seeds after all of theirs, seed by seed; empty when diversity is left out."""
    return [
        [case.again(config.seed + seed * config.conditions + number) for number, case in enumerate(cases)]
        for seed in range(1, config.seeds if cases else 1)
    ]


def kept_part(pixels: NDArray[np.float32], mask: str) -> NDArray[np.float32]:
    """What of an image float32[C, s, s] is kept, float32[s, s]: its `subject`, `left` half, or `centre`.

    The subject is all but the background, which reaches the border and has the upper left corner's colour. An image
    that is nothing but background is kept whole.
    """
    side = pixels.shape[-1]
    kept = np.zeros((side, side), np.float32)
    if mask == "left":
        kept[:, : side // 2] = 1.0
    elif mask == "centre":
        first = side // 4
        kept[first : first + side // 2, first : first + side // 2] = 1.0
    else:
        even = (np.abs(pixels - pixels[:, :1, :1]) < BACKGROUND).all(0)
        kept = 1.0 - _reached_from_border(even).astype(np.float32)
        if not kept.any():
            kept[:] = 1.0
    return kept


def _reached_from_border(passable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The places, bool[s, s], that a way over passable ones joins to the border."""
    found = passable.copy()
    found[1:-1, 1:-1] = False
    while True:
        wider = found.copy()
        wider[1:] |= found[:-1]
        wider[:-1] |= found[1:]
        wider[:, 1:] |= found[:, :-1]
        wider[:, :-1] |= found[:, 1:]
        wider &= passable
        if (wider == found).all():
            return found
        found = wider
