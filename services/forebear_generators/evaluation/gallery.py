"""The pictures of an evaluation, made batch by batch and kept, so that the same command goes on."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from forebear.files import fingerprint
from forebear_generators.evaluation.keeping import kept_tensors
from forebear_generators.generator import Generator, Request
from forebear_generators.quantisation.comparison import deviation

OnSteps = Callable[[int, bool], None]
"""Hears how many steps of the sampler are done, and whether they were done before."""


@dataclass(frozen=True)
class Named:
    """A generator and what identifies its pictures: its weights and its backend."""

    generator: Generator
    identity: str


@dataclass(frozen=True)
class Made:
    """A generator's pictures of a request, beside full precision's."""

    pixels: Tensor
    """float32[B, C, H, W] in [-1, 1]."""
    deviation: Tensor
    """||x_t - xhat_t|| / ||x_t|| of each picture, before the first step and after each: float32[S + 1, B]."""


class Gallery:
    """A folder with a file for each generator and batch of a request; trajectories are kept of full precision alone."""

    def __init__(self, folder: Path, batch: int, full: Named, on_steps: OnSteps) -> None:
        self._folder, self._batch, self._full, self._on_steps = folder, batch, full, on_steps

    def batches(self, request: Request) -> Iterator[Request]:
        for first in range(0, len(request.seeds), self._batch):
            yield request.rows(first, first + self._batch)

    def full_precision(self, request: Request) -> Tensor:
        """Pixels float32[B, C, H, W]."""
        return torch.cat([self._trajectory(part, self._on_steps)["pixels"] for part in self.batches(request)])

    def of(self, named: Named, request: Request) -> Made:
        """A quantised generator's pictures."""
        found = [self._compared(named, part) for part in self.batches(request)]
        return Made(
            torch.cat([each["pixels"] for each in found]), torch.cat([each["deviation"] for each in found], dim=1)
        )

    def _trajectory(self, request: Request, heard: OnSteps) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            made = self._full.generator.run(request, keep_trajectory=True, on_step=lambda _: heard(1, False))
            return {"pixels": made.pixels, "latents": made.way.latents}

        return self._kept(self._full.identity, request, make, heard)

    def _compared(self, named: Named, request: Request) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            made = named.generator.run(request, keep_trajectory=True, on_step=lambda _: self._on_steps(1, False))
            # Its steps were counted when full precision's own pictures were made.
            wanted = self._trajectory(request, _unheard)["latents"]
            return {"pixels": made.pixels, "deviation": deviation(wanted, made.way.latents)}

        return self._kept(f"{named.identity} against {self._full.identity}", request, make, self._on_steps)

    def _kept(
        self, identity: str, request: Request, make: Callable[[], dict[str, Tensor]], heard: OnSteps
    ) -> dict[str, Tensor]:
        path = self._folder / f"{fingerprint([identity, asdict(request)])}.safetensors"
        found, before = kept_tensors(path, make)
        if before:
            heard(request.steps, True)
        return found


def _unheard(_steps: int, _before: bool) -> None:
    """For steps that are not counted."""
