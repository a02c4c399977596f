"""What the generators of an evaluation are asked for: prompts, labels and seeds."""

from collections.abc import Sequence
from dataclasses import replace

from forebear.config import parse
from forebear.data import DataConfig, open_training_set
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear.randomness import keyed_permutation
from forebear.run import Run
from forebear_generators.evaluation.settings import GeneratorsConfig
from forebear_generators.generator import Generator, Request


def shared_request(
    run: Run, model: DiffusionModel, generators: Sequence[Generator], config: GeneratorsConfig
) -> Request:
    """The request that all generators and full precision get.

    Raises ConfigError when the generators are not for one sampler and number of steps, or when nothing says what a
    conditional model is to show; what opening the training set raises.
    """
    made_for = {(each.sampler, each.steps) for each in generators}
    if len(made_for) > 1:
        told = ", ".join(f"{sampler} with {steps} steps" for sampler, steps in sorted(made_for))
        raise ConfigError(f"the generators are made for {told}; evaluate those of each under a --name of their own")
    ((sampler, steps),) = made_for
    count = config.pictures
    prompts, labels = _conditions(run, model, config)
    return Request(prompts, labels, tuple(range(config.seed, config.seed + count)), sampler, steps, config.guidance)


def other_seeds(request: Request) -> Request:
    """The same prompts and labels with as many seeds after the request's own: what chance alone changes."""
    return replace(request, seeds=tuple(seed + len(request.seeds) for seed in request.seeds))


def _conditions(
    run: Run, model: DiffusionModel, config: GeneratorsConfig
) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    count = config.pictures
    if config.prompts or config.labels or model.conditioner.kind == "unconditional":
        prompts, labels = config.prompts or ("",), config.labels or (None,)
        return (
            tuple(prompts[place % len(prompts)] for place in range(count)),
            tuple(labels[place % len(labels)] for place in range(count)),
        )
    if "data" not in run.settings():
        raise ConfigError(f"{run.settings_file} names no training images to take captions from; give prompts or labels")
    samples = open_training_set(parse(DataConfig, run.section("data"), str(run.settings_file))).samples
    by_id = sorted(range(len(samples)), key=lambda row: samples[row].id)
    order = keyed_permutation(len(samples), "quantization prompts", config.seed).tolist()
    chosen = [samples[by_id[order[place % len(order)]]] for place in range(count)]
    return tuple(each.caption for each in chosen), tuple(each.label for each in chosen)
