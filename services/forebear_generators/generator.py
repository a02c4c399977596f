"""A trained model that makes pictures: the same seed gives the same picture, alone or in any batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.sampling import Step, decoded, denoise_along, starting_noise
from forebear.errors import ConfigError
from forebear.images import to_picture
from forebear_generators.samplers import MEMORYLESS, OWN, moves, times


@dataclass(frozen=True)
class Request:
    """What decides B pictures, but for the model: one prompt, label and seed for each."""

    prompts: tuple[str, ...]
    labels: tuple[int | None, ...]
    seeds: tuple[int, ...]
    sampler: str = OWN
    """One of `samplers.SAMPLERS`."""
    steps: int = 50
    guidance: float = 1.0
    """Classifier-free guidance; 1 switches it off."""

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.labels) == len(self.seeds) > 0:
            raise ConfigError(
                f"{len(self.prompts)} prompts, {len(self.labels)} labels and {len(self.seeds)} seeds; "
                "give one of each per picture"
            )

    def rows(self, first: int, last: int) -> "Request":
        """The request of the pictures from `first` to before `last`."""
        return replace(
            self, prompts=self.prompts[first:last], labels=self.labels[first:last], seeds=self.seeds[first:last]
        )


@dataclass(frozen=True)
class Trajectory:
    """The way of B pictures from noise to x0, and the request that made it."""

    request: Request
    times: tuple[float, ...]
    """What the denoiser was told at each of the S steps."""
    latents: Tensor
    """float32[S + 1, B, c, h, w]: the starting noise, then x after each step."""


@dataclass(frozen=True)
class Generation:
    """Pictures, and how they came about where that was asked for."""

    pixels: Tensor
    """float32[B, C, H, W] in [-1, 1]."""
    trajectory: Trajectory | None = None

    @property
    def way(self) -> Trajectory:
        """The trajectory; raises ConfigError when it was not asked for."""
        if self.trajectory is None:
            raise ConfigError("the pictures' trajectory was not kept; make them with keep_trajectory=True")
        return self.trajectory

    def pictures(self) -> list[Image.Image]:
        return [to_picture(array) for array in self.pixels.numpy()]


@dataclass(frozen=True)
class Sight:
    """How far generation is, and what the batch's pictures look like by now."""

    made: int
    """Steps so far, those of earlier batches included."""
    step: Step
    model: DiffusionModel

    def pixels(self) -> Tensor:
        """The clean pictures that the denoiser sees, float32[b, C, H, W] in [-1, 1]: computed when asked for."""
        return decoded(self.model, self.step.clean())


class Generator:
    """Generation with classifier-free guidance by a model in the numbers of its `variant`.

    A picture is a function of model, variant and its row of the request. Sums over batches of other sizes may round
    differently, so that pictures in other batches agree within rounding, and in batches of one size exactly.
    """

    def __init__(
        self,
        model: DiffusionModel,
        variant: str = "fp32",
        *,
        sampler: str = OWN,
        steps: int = 50,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """`sampler` and `steps` are taken where a caller names none: of a quantised generator, those it is made for."""
        self.model, self.variant, self.sampler, self.steps = model, variant, sampler, steps
        self.facts: dict[str, Any] = facts or {"backend": "torch float32"}
        """What runs, for reports: the backend, why another one was not taken, bytes."""

    @classmethod
    def load(cls, folder: Path | str, *, backend: str = "auto", source: DiffusionModel | None = None) -> "Generator":
        """Open a diffusers directory in float32, or what `forebear quantize` wrote with the backend that is asked for.

        With `source`, a quantised generator's full-precision model, its fingerprint is checked. Raises ModelError with
        the remedy when the folder cannot be used, ConfigError for a backend that cannot run it.
        """
        from forebear_generators.quantisation.backends import choose_backend, full_precision
        from forebear_generators.quantisation.files import is_generator, load_quantised

        folder = Path(folder)
        if not is_generator(folder):
            model = DiffusionModel.load(folder)
            variant, facts = full_precision(model, backend)
            return cls(model, variant, facts=facts)
        model, description = load_quantised(folder, source)
        config = description.config
        facts = choose_backend(model, backend, config.variant) | {"weights": description.report}
        return cls(model, config.variant, sampler=config.sampler, steps=config.steps, facts=facts)

    def pictures(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        labels: Sequence[int | None] | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float = 1.0,
        batch: int | None = None,
        on_step: Callable[[Sight], None] | None = None,
    ) -> list[Image.Image]:
        """One RGB picture for each prompt and seed, by the generator's own sampler and steps; see also `run`."""
        chosen = [None] * len(prompts) if labels is None else labels
        asked = self.sampler if sampler is None else sampler, self.steps if steps is None else steps
        request = Request(tuple(prompts), tuple(chosen), tuple(seeds), *asked, guidance)
        return self.run(request, batch=batch, on_step=on_step).pictures()

    def run(
        self,
        request: Request,
        *,
        batch: int | None = None,
        keep_trajectory: bool = False,
        on_step: Callable[[Sight], None] | None = None,
    ) -> Generation:
        """Make the pictures, at most `batch` of them at once (all when None).

        `on_step` is called after each step of each batch, at last with `made` of `steps` times the number of batches.
        Raises ConfigError for impossible settings.
        """
        return self._follow(request, None, batch, keep_trajectory, on_step)

    def replay(
        self,
        trajectory: Trajectory,
        from_step: int = 0,
        *,
        batch: int | None = None,
        keep_trajectory: bool = False,
        on_step: Callable[[Sight], None] | None = None,
    ) -> Generation:
        """Follow a trajectory again from its x after `from_step` steps: its own model comes to the same pictures.

        Another generator shows by the same starting point where its own way leads. Raises ConfigError for a step that
        the trajectory has not, or a sampler that needs the steps before it.
        """
        steps, sampler = trajectory.request.steps, trajectory.request.sampler
        if not 0 <= from_step < steps:
            raise ConfigError(f"from_step is {from_step}; the trajectory can be taken up at 0 to {steps - 1}")
        if from_step and sampler not in MEMORYLESS:
            raise ConfigError(
                f"{sampler} needs the steps before; replay from step 0, or use one of {', '.join(MEMORYLESS)}"
            )
        return self._follow(trajectory.request, (trajectory, from_step), batch, keep_trajectory, on_step)

    def _follow(
        self,
        request: Request,
        start: tuple[Trajectory, int] | None,
        batch: int | None,
        keep_trajectory: bool,
        on_step: Callable[[Sight], None] | None,
    ) -> Generation:
        made = 0

        def count(step: Step) -> None:
            nonlocal made
            made += 1
            way.append(step.x)
            if on_step is not None:
                on_step(Sight(made, step, self.model))

        pixels, ways = [], []
        asked = times(moves(self.model, request.sampler, request.steps))
        for first, last in _chunks(len(request.seeds), batch):
            part = request.rows(first, last)
            if start is None:
                way = [starting_noise(self.model, part.seeds)]
            else:
                way = list(start[0].latents[: start[1] + 1, first:last])
            ahead = moves(self.model, part.sampler, part.steps)[len(way) - 1 :]
            x0 = denoise_along(self.model, way[-1], ahead, part.prompts, part.labels, part.guidance, count)
            pixels.append(decoded(self.model, x0))
            if keep_trajectory:
                ways.append(torch.stack(way))
        trajectory = Trajectory(request, tuple(asked), torch.cat(ways, dim=1)) if keep_trajectory else None
        return Generation(torch.cat(pixels), trajectory)


def _chunks(total: int, size: int | None) -> Iterator[tuple[int, int]]:
    if size is not None and size < 1:
        raise ConfigError(f"batch is {size}; give 1 or more")
    step = size or total
    for first in range(0, total, step):
        yield first, min(first + step, total)
