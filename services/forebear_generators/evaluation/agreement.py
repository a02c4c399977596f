"""Whether a quantised generator's picture has the same ancestors as full precision's of the same seed."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from forebear.evaluation.evaluated_run import Asked, EvaluatedRun
from forebear.evaluation.lds import spearman_rows
from forebear.evaluation.metrics import top_rows
from forebear_generators.generator import Request

Floats = NDArray[np.float64]


def attributions(evaluated: EvaluatedRun, estimator: str, pixels: Tensor, request: Request) -> Floats:
    """Exact scores of every training image for each of B pictures, float64[B, N].

    By the run's full-precision checkpoints, whichever generator made the pictures. Their embeddings are kept in
    RUN/evaluation/queries.
    """
    asked = [
        Asked(f"seed-{seed}", each.numpy(), prompt, label)
        for seed, each, prompt, label in zip(request.seeds, pixels, request.prompts, request.labels, strict=True)
    ]
    return evaluated.scores(estimator, evaluated.embed(asked, [estimator]))


def agreement(wanted: Floats, found: Floats, top: int) -> tuple[Floats, Floats]:
    """Spearman over all samples, and the share of the `top` highest that both have, of scores [B, N]: two float64[B].

    Raises ConfigError when there are fewer samples than `top`.
    """
    first, second = (top_rows(scores, top) for scores in (wanted, found))
    shared = [len(np.intersect1d(*pair)) / top for pair in zip(first, second, strict=True)]
    return spearman_rows(wanted, found), np.array(shared)
