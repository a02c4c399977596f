"""What each part of the quantisation framework contributes: a generator for each, then all of them evaluated together.

    OMP_NUM_THREADS=1 python tests/bench/bench_quantisation.py --run runs/demo --out generators/ablation
    OMP_NUM_THREADS=1 python tests/bench/bench_quantisation.py --run runs/demo --out generators/ablation \
        --variant w4a8 --iterations 200 --pictures 16 --publish docs/quantisation/demo

Stopped or killed, the same command goes on: each generator is kept in a folder of its own, OUT/VARIANT-PART, and
pictures and attributions in the run. AdaRound takes most of the time.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import publishing
import torch

from forebear.config import parse, read_yaml
from forebear.evaluation.figures import DETAILS, FIGURES, RESULT, Result
from forebear.run import Run
from forebear_generators.evaluation.comparing import run_quantization
from forebear_generators.evaluation.settings import GeneratorsConfig
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import QuantisationConfig

CONFIG = Path(__file__).with_name("evaluation") / "quantisation-ablation.yaml"
PACKAGES = ("torch", "diffusers", "numpy")


def laid_over(settings: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of a part in their place, section by section."""
    return {**settings} | {
        name: laid_over(settings.get(name, {}), value) if isinstance(value, Mapping) else value
        for name, value in part.items()
    }


def ablation(
    chosen: Mapping[str, Any], variants: Sequence[str], parts: Sequence[str], iterations: int | None
) -> dict[str, QuantisationConfig]:
    """By name, VARIANT-PART, the settings of every generator; parts left out still count for those after them."""
    found = {}
    for variant in variants:
        settings = laid_over(chosen["settings"], {"variant": variant})
        if iterations is not None:
            settings = laid_over(settings, {"rounding": {"iterations": iterations}})
        for part, own in chosen["parts"].items():
            settings = laid_over(settings, own)
            if part in parts:
                found[f"{variant}-{part}"] = parse(QuantisationConfig, settings, f"{CONFIG.name}, {part}")
    return found


def page(result: Result, machine: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    columns = list(dict.fromkeys((one.metric, one.variant) for one in result.figures))
    by_cell = {(one.estimator, one.metric, one.variant): one for one in result.figures}
    heads = [", ".join(filter(None, column)) for column in columns]
    lines = [
        "# Parts of quantisation",
        "",
        f"    {publishing.command()}",
        "",
        f"{machine['processor']} ({machine['identity']}), {machine['usable_cores']} cores; 95 % intervals.",
        "",
        f"| generator | {' | '.join(heads)} |",
        "| --- |" + " --- |" * len(heads),
    ]
    for name in dict.fromkeys(one.estimator for one in result.figures):
        cells = []
        for column in columns:
            one = by_cell.get((name, *column))
            interval = "" if one is None or one.low != one.low else f" ({one.low:.4g} to {one.high:.4g})"
            cells.append("" if one is None else f"{one.value:.4g}{interval}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def publish(result: Result, folder: Path, stem: Path) -> None:
    """The page and the JSON, and what the evaluation wrote."""
    machine = publishing.machine(PACKAGES)
    figures = [plain_figure(one) for one in result.figures]
    told = {"command": publishing.command(), "machine": machine, "settings": result.settings, "figures": figures}
    publishing.write(told, stem, page(result, machine))
    for name in (
        RESULT,
        FIGURES,
        DETAILS,
        "temporal.parquet",
        "trajectory.parquet",
        *dict(result.facts["strips"]).values(),
    ):
        shutil.copy(folder / name, stem.parent / f"{stem.name}-{name}")


def plain_figure(figure: Any) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in vars(figure).items()}


def main() -> int:
    chosen = read_yaml(CONFIG)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="Run whose model is quantised")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the generators")
    parser.add_argument("--variant", action="append", help="May be repeated; default: those of the configuration")
    parser.add_argument("--part", action="append", choices=list(chosen["parts"]), help="May be repeated; default: all")
    parser.add_argument("--iterations", type=int, help="Of AdaRound, in place of the configuration's")
    parser.add_argument("--pictures", type=int, help="Of the evaluation, in place of the configuration's")
    parser.add_argument("--name", default="quantisation-ablation", help="Folder in RUN/evaluation")
    parser.add_argument("--publish", type=Path, help="Stem of the JSON, the page and the tables to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(given.run)
    wanted = ablation(
        chosen, given.variant or chosen["variants"], given.part or list(chosen["parts"]), given.iterations
    )
    for name, settings in wanted.items():
        print(f"{name}: {given.out / name}", flush=True)
        quantise(run.model_folder, settings, given.out / name)
    asked = chosen["evaluation"] | ({} if given.pictures is None else {"pictures": given.pictures})
    config = parse(GeneratorsConfig, {**asked, "generators": [given.out / name for name in wanted]}, CONFIG.name)
    result = run_quantization(run, config, given.name)
    print(page(result, publishing.machine(PACKAGES)))
    if given.publish is not None:
        publish(result, run.folder / "evaluation" / given.name, given.publish)
    return 0


if __name__ == "__main__":
    sys.exit(main())
