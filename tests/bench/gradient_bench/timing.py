"""Processor time of interleaved runs, as ratios to the training step's."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from forebear.progress import progress
from gradient_bench.variants import Work


@dataclass(frozen=True)
class Cost:
    """Of one variant: medians over rounds."""

    ratio: float
    """Speed as a multiple of the training step's: the median of the ratios within each round."""
    low: float
    high: float
    """The quartiles of those ratios."""
    samples_per_second: float
    """Per second of processor time."""


def interleave(works: Mapping[str, Work], rounds: int, samples: int, label: str) -> dict[str, Cost]:
    """Run every work once a round; the first is the yardstick, and a first round that warms up is not counted.

    Other processes slow all works of a round alike, and process time leaves out the time that they take for themselves.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with progress(label, (rounds + 1) * len(works), "runs") as bar:
        for number in range(rounds + 1):
            for name, work in works.items():
                start = time.process_time()
                work()
                if number:
                    seconds[name].append(time.process_time() - start)
                bar.advance(1, name)
    yardstick = seconds[next(iter(works))]
    return {name: cost(found, yardstick, samples) for name, found in seconds.items()}


def cost(seconds: Sequence[float], yardstick: Sequence[float], samples: int) -> Cost:
    ratios = [step / own for own, step in zip(seconds, yardstick, strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Cost(median(ratios), low, high, samples / median(seconds))
