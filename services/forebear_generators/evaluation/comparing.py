"""Runs the evaluation of quantised generators and writes RUN/evaluation/NAME."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forebear.config import plain
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ConfigError
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.figures import Result, check_name, write_result
from forebear.evaluation.ground_truth import evaluation_folder
from forebear.files import whole_file
from forebear.progress import progress
from forebear.run import Run
from forebear_generators.evaluation import findings
from forebear_generators.evaluation.agreement import agreement, attributions
from forebear_generators.evaluation.asking import other_seeds, shared_request
from forebear_generators.evaluation.findings import FULL, OTHER_SEEDS, Findings
from forebear_generators.evaluation.gallery import Gallery, Named
from forebear_generators.evaluation.measures import psnr, ssim
from forebear_generators.evaluation.picture_features import picture_features
from forebear_generators.evaluation.settings import GeneratorsConfig
from forebear_generators.evaluation.sizes import generator_bytes, model_bytes
from forebear_generators.evaluation.speed import step_seconds
from forebear_generators.evaluation.temporal_errors import temporal_errors
from forebear_generators.generator import Generator, Request
from forebear_generators.quantisation.files import is_generator, read_description


def run_quantization(run: Run, config: GeneratorsConfig, name: str = "quantization") -> Result:
    """Evaluate and write RUN/evaluation/NAME. Pictures and embedded queries are kept: the same call goes on.

    Raises ConfigError for folders that are no quantised generators, or for different samplers; ModelError when one was
    quantised from another model than the run's; and what EvaluatedRun raises when the run has a store.
    """
    check_name(name)
    folders = _named_folders(config.generators)
    run.settings()  # refuses what is no run
    model = DiffusionModel.load(run.model_folder)
    full = Named(Generator(model), weights_fingerprint(model.trained_parts()))
    opened = {each: _open(folder, config.backend, model) for each, folder in folders.items()}
    generators = {each: named.generator for each, named in opened.items()}
    request = shared_request(run, model, list(generators.values()), config)
    evaluated = _evaluated(run, config)
    everything = _pictures(evaluation_folder(run, name) / "pictures", full, opened, request, config)
    first, _, *others = everything
    _describe(run, folders, first, others, full.generator, generators)
    for one in others:
        one.temporal = temporal_errors(model, generators[one.name].model, _times(folders[one.name]), request.labels)
    if config.timing_rounds:
        rows = request.rows(0, config.batch)
        timed = step_seconds({FULL: full.generator, **generators}, rows, config.timing_rounds)
        for one in (first, *others):
            one.seconds = timed[one.name]
    if evaluated is not None:
        _compare_attributions(evaluated, everything, request, config)
    return _write(run, name, config, everything, request, evaluated)


def named_generators(folders: Sequence[Path], backend: str, source: DiffusionModel) -> dict[str, Named]:
    """Quantised generators of `source` by their folders' names; raises ConfigError and ModelError."""
    return {name: _open(folder, backend, source) for name, folder in _named_folders(folders).items()}


def _named_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """By the folders' own names; raises ConfigError."""
    if not folders:
        raise ConfigError(
            "no generator is named; give at least one --generator, a folder that `forebear quantize` wrote"
        )
    found: dict[str, Path] = {}
    for folder in folders:
        if not is_generator(folder):
            raise ConfigError(f"{folder} holds no quantised generator; make one with `forebear quantize`")
        name = folder.resolve().name
        if name in found or name in (FULL, OTHER_SEEDS):
            raise ConfigError(
                f"two generators are named {name!r}; rename the folder of one, as the table names them so"
            )
        found[name] = folder
    return found


def _open(folder: Path, backend: str, source: DiffusionModel) -> Named:
    generator = Generator.load(folder, backend=backend, source=source)
    _, checksum = read_description(folder)
    return Named(generator, f"{checksum} by {generator.facts['backend']}")


def _times(folder: Path) -> tuple[float, ...]:
    return read_description(folder)[0].structure.times


def _evaluated(run: Run, config: GeneratorsConfig) -> EvaluatedRun | None:
    """The run's attributions; None when they are not asked for or there is no store."""
    if not config.attribution or not run.store_folder.exists():
        return None
    evaluated = EvaluatedRun.open(run)
    evaluated.estimators([config.estimator])  # refuses one that the store does not serve, before anything is made
    if config.top > len(evaluated.training_set):
        raise ConfigError(
            f"top is {config.top}, the run has {len(evaluated.training_set)} training images; choose fewer"
        )
    return evaluated


def _pictures(
    folder: Path, full: Named, opened: Mapping[str, Named], request: Request, config: GeneratorsConfig
) -> list[Findings]:
    """Full precision at the seeds and at other seeds, then every generator: pictures and how far they are apart."""
    batches = -(-config.pictures // config.batch)
    with progress("pictures", batches * request.steps * (len(opened) + 2), "steps") as bar:
        gallery = Gallery(
            folder, config.batch, full, lambda steps, before: (bar.found if before else bar.advance)(steps)
        )
        wanted = gallery.full_precision(request)
        others = gallery.full_precision(other_seeds(request))
        made = {name: gallery.of(named, request) for name, named in opened.items()}
    everything = [
        Findings(name, pixels, picture_features(pixels, config.frechet_features))
        for name, pixels in ((FULL, wanted), (OTHER_SEEDS, others), *((name, one.pixels) for name, one in made.items()))
    ]
    for one in everything[1:]:
        one.pictures = {"PSNR, dB": psnr(wanted, one.pixels), "SSIM": ssim(wanted, one.pixels)}
    for one in everything[2:]:
        one.deviation = made[one.name].deviation.double().numpy()
    return everything


def _describe(
    run: Run,
    folders: Mapping[str, Path],
    first: Findings,
    others: Sequence[Findings],
    full: Generator,
    generators: Mapping[str, Generator],
) -> None:
    on_disk, loaded = model_bytes(run.model_folder, full.model)
    first.facts = {"variant": full.variant, "backend": full.facts["backend"], "on disk": on_disk, "loaded": loaded}
    for one in others:
        generator = generators[one.name]
        on_disk, loaded = generator_bytes(folders[one.name], generator)
        one.facts = {"variant": generator.variant, "on disk": on_disk, "loaded": loaded}
        one.facts |= {each: generator.facts.get(each, "") for each in ("backend", "reason", "storage_only")}


def _compare_attributions(
    evaluated: EvaluatedRun, everything: Sequence[Findings], request: Request, config: GeneratorsConfig
) -> None:
    scores = [attributions(evaluated, config.estimator, one.pixels, request) for one in everything]
    for one, found in zip(everything[1:], scores[1:], strict=True):
        spearman, shared = agreement(scores[0], found, config.top)
        one.pictures |= {"Spearman": spearman, f"top-{config.top} overlap": shared}


def _write(
    run: Run,
    name: str,
    config: GeneratorsConfig,
    everything: Sequence[Findings],
    request: Request,
    evaluated: EvaluatedRun | None,
) -> Result:
    first, baseline, *_ = everything
    folder = evaluation_folder(run, name)
    facts: dict[str, Any] = {
        "rows": "generator",
        "samples": 0 if evaluated is None else len(evaluated.training_set),
        "queries": len(request.seeds),
        "sampler": request.sampler,
        "steps": request.steps,
        "generators": findings.by_name(everything),
        "charts": findings.charts(everything),
        "strips": findings.write_strips(everything, folder, config.shown),
        "remarks": _remarks(everything, config, evaluated),
    }
    found = [figure for one in everything for figure in findings.figures(one, first, baseline.features)]
    _write_table(folder / "temporal.parquet", findings.temporal_table(everything))
    _write_table(folder / "trajectory.parquet", findings.trajectory_table(everything, request))
    result = Result("quantization", name, plain(config), tuple(found), facts)
    write_result(run, result, findings.details(everything, request))
    return result


def _write_table(path: Path, table: pa.Table) -> None:
    with whole_file(path) as part:
        pq.write_table(table, part)


def _remarks(everything: Sequence[Findings], config: GeneratorsConfig, evaluated: EvaluatedRun | None) -> list[str]:
    said = []
    for one in everything:
        notes = [one.facts[each] for each in ("reason", "storage_only") if one.facts.get(each)]
        if one.facts:
            said.append("; ".join([f"{one.name}: {one.facts['variant']} by {one.facts['backend']}", *notes]) + ".")
    if evaluated is not None:
        said.append(f"Attributions are {config.estimator}'s, by the run's full-precision checkpoints.")
    elif config.attribution:
        said.append("The run has no store, so attributions were not compared: `forebear embed` makes one.")
    return said
