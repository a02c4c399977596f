"""Runs the evaluation of COW and writes RUN/evaluation/NAME."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forebear.config import parse, plain
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ConfigError
from forebear.evaluation.figures import Kind, Result, check_name, write_result
from forebear.evaluation.ground_truth import evaluation_folder
from forebear.images import to_pixels
from forebear.progress import progress
from forebear.randomness import keyed_permutation
from forebear.run import Run
from forebear_generators.cow.condition import read_image
from forebear_generators.cow.evaluation import findings
from forebear_generators.cow.evaluation.cases import Case, choose_cases
from forebear_generators.cow.evaluation.findings import Found
from forebear_generators.cow.evaluation.making import Made, Studio, work
from forebear_generators.cow.evaluation.measures import adherence, diversity, jumps, real_jumps
from forebear_generators.cow.evaluation.rows import Row, rows_of
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig
from forebear_generators.cow.placement import Placement
from forebear_generators.evaluation.comparing import named_generators
from forebear_generators.evaluation.gallery import Named
from forebear_generators.generator import Generator

KIND: Kind = "cow"
NO_INPAINTING = (
    "diffusers' inpainting models read the mask and the image as further channels, which this denoiser has not: there "
    "is no such row."
)


def run_cow(run: Run, config: CowEvaluationConfig, name: str = KIND) -> Result:
    """Evaluate and write RUN/evaluation/NAME. Pictures and losses are kept: the same call goes on.

    Raises ConfigError for settings that do not fit the model or a generator, and for a run without training images;
    ModelError when a generator was quantised from another model than the run's.
    """
    check_name(name)
    if "data" not in run.settings():
        raise ConfigError(f"{run.settings_file} names no training images, which are the conditions; add a data section")
    training_set = open_training_set(parse(DataConfig, run.section("data"), str(run.settings_file)))
    model = DiffusionModel.load(run.model_folder)
    full = Named(Generator(model), weights_fingerprint(model.trained_parts()))
    cases = choose_cases(training_set, model, config)
    quantised = named_generators(config.generators, config.backend, model) if config.generators else {}
    rows = rows_of(config, full, quantised, training_set)
    if not rows:
        raise ConfigError("methods, grid and ablations are empty; name at least one method")
    repeated = {row.name for row in rows if [other.name for other in rows].count(row.name) > 1}
    if repeated:
        raise ConfigError(f"{', '.join(sorted(repeated))} occurs twice; leave one out")
    judge = full
    if config.judge_backend != "auto":
        other = Generator.load(run.model_folder, backend=config.judge_backend)
        judge = Named(other, f"{full.identity} by {other.facts['backend']}")
    folder = evaluation_folder(run, name)
    found = _measure(folder, config, judge, rows, cases, _real(training_set, model, config))
    return _write(run, name, config, found, cases, len(training_set), quantised)


def _measure(
    folder: Path,
    config: CowEvaluationConfig,
    judge: Named,
    rows: Sequence[Row],
    cases: Sequence[Case],
    real: Tensor,
) -> list[Found]:
    model = judge.generator.model
    own = _own_images(cases, Placement.of(model, config.of_cow({"inversion": "canvas"})), model.image_channels)
    boundaries: dict[bytes, float] = {}
    with progress("pictures", sum(work(row, config) for row in rows), "pictures") as bar:
        studio = Studio(
            folder / "pictures", judge, config, lambda count, before: (bar.found if before else bar.advance)(count)
        )
        found = []
        for row in rows:
            made = studio.row(row, cases)
            kept = made.result.kept
            for one in kept:
                if (key := one.numpy().tobytes()) not in boundaries:
                    boundaries[key] = float(real_jumps(real, one[None])[0])
            across = (
                jumps(made.result.pixels, kept),
                np.array([boundaries[one.numpy().tobytes()] for one in kept]),
                jumps(own[: row.cases], kept),
            )
            found.append(Found(row, made, made.preserved() | adherence(made.losses), across, _diversity(made)))
    return found


def _diversity(made: Made) -> np.ndarray[Any, np.dtype[np.float64]]:
    if not made.further or not len(made.further[0]):
        return np.empty(0)
    count = len(made.further[0])
    return diversity([made.result.pixels[:count], *made.further], made.result.kept[:count])


def _real(training_set: TrainingSet, model: DiffusionModel, config: CowEvaluationConfig) -> Tensor:
    """Training images chosen by key, float32[R, C, H, W]."""
    samples = training_set.samples
    by_id = sorted(range(len(samples)), key=lambda row: samples[row].id)
    chosen = keyed_permutation(len(by_id), "cow real images", config.seed).tolist()[: config.real]
    pixels = training_set.pixels([by_id[place] for place in chosen], model.image_size, model.image_channels)
    return torch.from_numpy(pixels)


def _own_images(cases: Sequence[Case], where: Placement, channels: int) -> Tensor:
    """The conditions' images in their places with all that is around them, float32[B, C, H, W]; NaN outside."""
    found = torch.full((len(cases), channels, where.canvas, where.canvas), torch.nan)
    images = [to_pixels(read_image(case.condition.image), where.size, channels) for case in cases]
    where.pixels_in(found)[:] = torch.from_numpy(np.stack(images))
    return found


def _write(
    run: Run,
    name: str,
    config: CowEvaluationConfig,
    found: Sequence[Found],
    cases: Sequence[Case],
    samples: int,
    quantised: Mapping[str, Named],
) -> Result:
    folder = evaluation_folder(run, name)
    by_psnr = findings.dominated(found, "PSNR", "margin")
    facts: dict[str, Any] = {
        "rows": "method",
        "samples": samples,
        "queries": len(cases),
        "steps": config.steps,
        "wrong": min(len(case.wrong) for case in cases),
        "settings": {one.row.name: one.row.identity[-1] for one in found},
        "generators": {each: named.generator.facts for each, named in quantised.items()},
        "dominated": by_psnr,
        "charts": findings.charts(found),
        "strips": findings.write_strips(found, folder, config.shown),
        "remarks": _remarks(found, by_psnr, cases, config),
    }
    figures = [figure for one in found for figure in findings.figures(one, found)]
    result = Result(KIND, name, plain(config), tuple(figures), facts)
    write_result(run, result, findings.details(found, cases))
    return result


def _remarks(
    found: Sequence[Found], dominated: Mapping[str, Sequence[str]], cases: Sequence[Case], config: CowEvaluationConfig
) -> list[str]:
    told = "; ".join(case.right[0] or f"class {case.right[1]}" for case in cases[: config.shown])
    wrong = min(len(case.wrong) for case in cases)
    said = [f"N = {config.steps}; right words against {wrong} wrong ones.", f"Shown, from left to right: {told}."]
    if not wrong:
        said = [f"N = {config.steps}; the model is told nothing: how well pictures follow words is not measured."]
    said.append(NO_INPAINTING)
    front = [name for name, better in dominated.items() if not better]
    if front:
        said.append(f"On the front of PSNR and margin: {'; '.join(front)}.")
    baselines = {one.row.name for one in found if one.row.baseline}
    for name, better in dominated.items():
        if name not in baselines and (ahead := [other for other in better if other in baselines]):
            said.append(f"{name} is behind {'; '.join(ahead)} in both.")
    return said
