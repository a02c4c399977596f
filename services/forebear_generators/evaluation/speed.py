"""Processor seconds of one step of the denoiser, generators taking turns in one process."""

import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from forebear.diffusion.sampling import starting_noise
from forebear.progress import progress
from forebear_generators.generator import Generator, Request
from forebear_generators.samplers import moves

Floats = NDArray[np.float64]


@torch.no_grad()
def step_seconds(generators: Mapping[str, Generator], request: Request, rounds: int) -> dict[str, Floats]:
    """Seconds of processor time, over all threads, of a batch of the request's rows: float64[rounds] by generator.

    Each is timed once a round, at the middle step of the request's sampler, after one step that is not timed.
    """
    found: dict[str, list[float]] = {name: [] for name in generators}
    with progress("timing", rounds, "rounds") as bar:
        for measured in range(rounds + 1):
            for name, generator in generators.items():
                model = generator.model
                condition = model.condition(request.prompts, request.labels)
                move = moves(model, request.sampler, request.steps)[request.steps // 2]
                x, times = starting_noise(model, request.seeds), move.time.repeat(len(request.seeds))
                started = time.process_time()
                model.denoise(x, times, condition)
                if measured:
                    found[name].append(time.process_time() - started)
            bar.advance(1 if measured else 0)
    return {name: np.array(seconds) for name, seconds in found.items()}
