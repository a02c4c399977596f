"""Makes the rows' pictures batch by batch and judges them; both are kept, so that the same command goes on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.files import fingerprint
from forebear_generators.cow.evaluation.cases import Case, further_seeds
from forebear_generators.cow.evaluation.measures import word_losses
from forebear_generators.cow.evaluation.rows import Row
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig
from forebear_generators.cow.sampler import CowResult
from forebear_generators.cow.share import similarity
from forebear_generators.evaluation.gallery import Named
from forebear_generators.evaluation.keeping import kept_tensors

OnPictures = Callable[[int, bool], None]
"""Hears how many pictures were made or judged, and whether that was done before."""


@dataclass(frozen=True)
class Made:
    """The pictures of a row, and what they took."""

    result: CowResult
    """Of B cases."""
    calls: int
    """For one batch, as for one picture."""
    evaluations: float
    """For one picture, the mean."""
    seconds: tuple[float, ...]
    """Of processor time for one picture, by batch."""
    losses: Tensor
    """Under the right words and wrong ones, float32[B, 1 + W]; [B, 0] of models that are told nothing."""
    further: tuple[Tensor, ...]
    """The first cases' pictures at other seeds, each float32[D, C, H, W]."""

    def preserved(self) -> dict[str, NDArray[np.float64]]:
        """PSNR in dB and SSIM inside the mask, float64[B] each."""
        alike = similarity(self.result)
        return {
            "PSNR": np.array([each.psnr for each in alike]),
            "SSIM": np.array([np.nan if each.ssim is None else each.ssim for each in alike]),
        }


def work(row: Row, config: CowEvaluationConfig) -> int:
    """Pictures of a row to make and to judge."""
    return 2 * row.cases + (config.seeds - 1) * _diverse(row, config)


def _diverse(row: Row, config: CowEvaluationConfig) -> int:
    """Cases whose diversity is measured; none in an ablation."""
    left_out = row.kind == "ablation" or not row.seeded or config.seeds == 1
    return 0 if left_out else min(config.diverse, row.cases)


class Studio:
    """A folder with a file for each batch of pictures, and one for its losses by each judge."""

    def __init__(self, folder: Path, judge: Named, config: CowEvaluationConfig, heard: OnPictures) -> None:
        self._folder, self._judge, self._config, self._heard = folder, judge, config, heard

    def row(self, row: Row, cases: Sequence[Case]) -> Made:
        """The pictures of a row's first cases and their losses, float32[B, 0] where there are no wrong words."""
        batches = self._batches(cases[: row.cases])
        made = [self._pictures(row, batch) for batch in batches]
        losses = [self._losses(row, batch, one["pixels"]) for batch, one in zip(batches, made, strict=True)]
        width = max(each.shape[1] for each in losses)
        padded = [torch.nn.functional.pad(each, (0, width - each.shape[1]), value=torch.nan) for each in losses]
        again = [
            torch.cat([self._pictures(row, batch)["pixels"] for batch in self._batches(seeded)])
            for seeded in further_seeds(cases[: _diverse(row, self._config)], self._config)
        ]
        count = row.cases
        evaluations = sum(int(one["evaluations"]) for one in made)
        pixels, canvas, kept = (torch.cat([one[name] for one in made]) for name in ("pixels", "canvas", "kept"))
        calls = sum(int(one["calls"]) for one in made)
        result = CowResult(pixels, canvas, kept, calls, evaluations, (), ((),) * count, (0,) * count)
        return Made(
            result,
            int(made[0]["calls"]),
            evaluations / count,
            tuple(float(one["seconds"]) for one in made),
            torch.cat(padded),
            tuple(again),
        )

    def _batches(self, cases: Sequence[Case]) -> list[Sequence[Case]]:
        return [cases[first : first + self._config.batch] for first in range(0, len(cases), self._config.batch)]

    def _key(self, row: Row, cases: Sequence[Case]) -> str:
        return fingerprint([list(row.identity), self._config.mask, [case.identity() for case in cases]])

    def _pictures(self, row: Row, cases: Sequence[Case]) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            started = time.process_time()
            made = row.make(cases)
            seconds = (time.process_time() - started) / len(cases)
            found = {"pixels": made.pixels, "canvas": made.canvas, "kept": made.kept}
            costs = {"calls": made.calls, "evaluations": made.evaluations, "seconds": seconds}
            return found | {name: torch.tensor(cost, dtype=torch.float64) for name, cost in costs.items()}

        found, before = kept_tensors(self._folder / f"{self._key(row, cases)}.safetensors", make)
        self._heard(len(cases), before)
        return found

    def _losses(self, row: Row, cases: Sequence[Case], pixels: Tensor) -> Tensor:
        config = self._config
        if not any(case.wrong for case in cases):
            self._heard(len(cases), False)
            return torch.empty(len(cases), 0)
        judged = [self._judge.identity, config.timesteps, config.draws, [case.wrong for case in cases]]
        key = fingerprint([self._key(row, cases), judged])

        def judge() -> dict[str, Tensor]:
            model = self._judge.generator.model
            return {"losses": word_losses(model, pixels, cases, config.timesteps, config.draws)}

        found, before = kept_tensors(self._folder / f"{key}.judged.safetensors", judge)
        self._heard(len(cases), before)
        return found["losses"]
