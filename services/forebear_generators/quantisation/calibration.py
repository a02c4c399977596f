"""Calibration data: the model's own trajectories, and the ranges of activations along them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.randomness import keyed_integers
from forebear_generators.generator import Generator, Request, Sight
from forebear_generators.quantisation.grids import range_grid, value_grid
from forebear_generators.quantisation.layers import INPUT_LEVELS
from forebear_generators.quantisation.layout import removed_at_end
from forebear_generators.quantisation.settings import QuantisationConfig

VALUES_KEPT = 2048
"""As many values of a layer's input at a step as the search for its range looks at."""


def calibration_request(model: DiffusionModel, config: QuantisationConfig) -> Request:
    """Whose trajectories calibrate: keyed labels, and the given captions in turn or words of the model's."""
    count, seed = config.calibration.pictures, config.calibration.seed
    classes = int(getattr(model.conditioner, "classes", 0))
    labels = keyed_integers(classes, (count,), "calibration", seed, "labels").tolist() if classes else [None] * count
    prompts = config.calibration.prompts or _word_pairs(model, count, seed)
    return Request(
        tuple(prompts[place % len(prompts)] for place in range(count)),
        tuple(labels),
        # Far from the seeds that people give, so that what calibrated is not what is looked at.
        tuple(2**40 + seed * 2**20 + place for place in range(count)),
        config.sampler,
        config.steps,
        config.guidance,
    )


def _word_pairs(model: DiffusionModel, count: int, seed: int) -> tuple[str, ...]:
    words: set[str] = set()
    for tokenizer in model.conditioner.tokenizers().values():
        plain = (word.removesuffix("</w>") for word in tokenizer.get_vocab())
        words |= {word for word in plain if len(word) > 2 and word.isalpha()}
    if not words:
        return ("",)
    ordered = sorted(words)
    chosen = keyed_integers(len(ordered), (count, 2), "calibration", seed, "words")
    return tuple(f"{ordered[first]} {ordered[second]}" for first, second in chosen.tolist())


@dataclass(frozen=True)
class CalibrationData:
    """x at each step of the sampler, of P pictures."""

    request: Request
    times: tuple[float, ...]
    latents: Tensor
    """float32[S, P, c, h, w]: what the denoiser read at each step."""

    @staticmethod
    def draw(
        model: DiffusionModel, config: QuantisationConfig, on_step: Callable[[Sight], None] | None = None
    ) -> "CalibrationData":
        """Follow the full-precision model; `on_step` hears of each step of each batch."""
        request = calibration_request(model, config)
        made = Generator(model).run(request, batch=config.calibration.batch, keep_trajectory=True, on_step=on_step)
        return CalibrationData(request, made.way.times, made.way.latents[:-1].contiguous())

    def first(self, pictures: int) -> "CalibrationData":
        """The same of the first pictures alone."""
        return CalibrationData(self.request.rows(0, pictures), self.times, self.latents[:, :pictures])

    def passes(self, model: DiffusionModel, steps: Sequence[int], batch: int) -> Iterator[Callable[[], Any]]:
        """Forward passes of a denoiser over the x of these steps, with and, under guidance, without the condition."""
        told = self._conditions(model)
        for step in steps:
            time = torch.tensor(self.times[step])
            time = time.long() if float(time) == int(time) else time
            for condition in told:
                for first in range(0, self.latents.shape[1], batch):
                    rows = torch.arange(first, min(first + batch, self.latents.shape[1]))
                    x = self.latents[step, rows]
                    yield lambda x=x, rows=rows, time=time, told=condition: model.denoise(  # type: ignore[misc]
                        x, time.repeat(len(x)), told.rows(rows)
                    )

    def _conditions(self, model: DiffusionModel) -> list[Condition]:
        told = [model.condition(self.request.prompts, self.request.labels)]
        if self.request.guidance != 1.0:
            with torch.no_grad():
                empty = model.conditioner.unconditional(len(self.request.seeds))
            told += [] if empty is None else [empty]
        return told


@dataclass(frozen=True)
class SeenInputs:
    """What a layer's input was over the steps of a sampler."""

    least: Tensor
    """float32[S]."""
    most: Tensor
    """float32[S]."""
    values: Tensor
    """float32[S, n]: some of its values at each step."""

    def grid(self, per_step: bool, estimate: str) -> tuple[Tensor, Tensor]:
        """Scale float32[S or 1] and zero point int32[S or 1] of 8-bit inputs."""
        if estimate == "error":
            rows = list(self.values) if per_step else [self.values.flatten()]
            pairs = [value_grid(row[row.isfinite()], INPUT_LEVELS) for row in rows]
            return torch.cat([scale for scale, _ in pairs]), torch.cat([zero for _, zero in pairs])
        least, most = (self.least, self.most) if per_step else (self.least.amin()[None], self.most.amax()[None])
        return range_grid(least, most, INPUT_LEVELS)


class Observer:
    """Listens to the inputs of layers, step by step."""

    def __init__(self, layers: dict[str, nn.Module], steps: int) -> None:
        self._layers = layers
        self._least = {name: torch.full((steps,), torch.inf) for name in layers}
        self._most = {name: torch.full((steps,), -torch.inf) for name in layers}
        self._values: dict[str, list[list[Tensor]]] = {name: [[] for _ in range(steps)] for name in layers}

    @torch.no_grad()
    def watch(self, step: int, passes: Sequence[Callable[[], Any]]) -> None:
        """Take in the inputs during these forward passes of one step."""
        share = max(1, VALUES_KEPT // max(len(passes), 1))
        with ExitStack() as stack:
            for name, layer in self._layers.items():

                def note(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                    x = given[0]
                    self._least[name][step] = torch.minimum(self._least[name][step], x.amin())
                    self._most[name][step] = torch.maximum(self._most[name][step], x.amax())
                    flat = x.flatten()
                    self._values[name][step].append(flat[:: max(1, len(flat) // share)][:share].clone())

                stack.enter_context(removed_at_end(layer.register_forward_pre_hook(note)))
            for forward in passes:
                forward()

    @cached_property
    def seen(self) -> dict[str, SeenInputs]:
        """What was seen, by layer; steps with fewer values than others are filled with NaN."""
        found = {}
        for name in self._layers:
            rows = [torch.cat(step) for step in self._values[name]]
            width = max(len(row) for row in rows)
            values = torch.full((len(rows), width), torch.nan)
            for place, row in enumerate(rows):
                values[place, : len(row)] = row
            found[name] = SeenInputs(self._least[name], self._most[name], values)
        return found
