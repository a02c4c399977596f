"""What each part of the quantisation framework contributes: a generator for each, then all of them evaluated together.

    OMP_NUM_THREADS=1 python tests/bench/bench_quantisation.py --run runs/demo --out generators/ablation
    OMP_NUM_THREADS=1 python tests/bench/bench_quantisation.py --run runs/demo --out generators/ablation \
        --variant w4a8 --iterations 200 --pictures 16 --publish docs/quantisation-ablation

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
from forebear.evaluation.figures import Figure, Result, read_result
from forebear.run import Run
from forebear_generators.evaluation.comparing import run_quantization
from forebear_generators.evaluation.findings import FULL, OTHER_SEEDS
from forebear_generators.evaluation.settings import GeneratorsConfig
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import QuantisationConfig

CONFIG = Path(__file__).with_name("evaluation") / "quantisation-ablation.yaml"
SHARED = "work"
"""Of pictures, roundings and ranges, in the folder of the generators, while they are made."""
COLUMNS = {
    ("PSNR, dB", ""): "PSNR, dB",
    ("SSIM", ""): "SSIM",
    ("deviation, last step", ""): "deviation",
    ("temporal features", "relative error"): "error of temporal features",
    ("temporal features", "mismatches"): "mismatches, %",
    ("Spearman", ""): "Spearman",
    ("top-10 overlap", ""): "top-10 overlap",
    ("share of bytes", "on disk"): "share on disk",
}
"""Figures on the page, by metric and variant, and their heads."""
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


def make(model: Path, wanted: Mapping[str, QuantisationConfig], out: Path) -> None:
    """The generators that are not there; they share calibration pictures, and roundings and ranges where they can."""
    for name, settings in wanted.items():
        print(f"{name}: {out / name}", flush=True)
        quantise(model, settings, out / name, work=out / SHARED)
    shutil.rmtree(out / SHARED, ignore_errors=True)


def page(results: Mapping[str, Result], machine: Mapping[str, Any]) -> str:
    """A chapter for each evaluation, and in it a table for each variant, as Markdown."""
    lines = [
        "# Parts of quantisation",
        "",
        f"    {publishing.command()}",
        "",
        f"{machine['processor']} ({machine['identity']}), {machine['usable_cores']} cores.",
        "Medians over pictures with 95 % intervals; all other figures are in the JSON beside this page.",
    ]
    for title, result in results.items():
        lines += ["", f"## {title}", "", f"{result.facts.get('queries')} pictures, {result.facts.get('steps')} steps."]
        names = dict.fromkeys(one.estimator for one in result.figures)
        references = [name for name in names if name in (FULL, OTHER_SEEDS)]
        variants = dict.fromkeys(name.partition("-")[0] for name in names if name not in references)
        for variant in variants:
            of_variant = [name for name in names if name.partition("-")[0] == variant]
            lines += ["", *_table(result, [*references, *of_variant])]
    return "\n".join(lines) + "\n"


def _table(result: Result, names: Sequence[str]) -> list[str]:
    """A row for each generator; columns that nothing was measured for are left out."""
    by_cell = {(one.estimator, one.metric, one.variant): one for one in result.figures}
    columns = {key: head for key, head in COLUMNS.items() if any((name, *key) in by_cell for name in names)}
    lines = [f"| | {' | '.join(columns.values())} |", "| --- |" + " --- |" * len(columns)]
    for name in names:
        cells = [shown(by_cell.get((name, *key)), head) for key, head in columns.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def shown(one: Figure | None, head: str) -> str:
    """A figure to the digits that its column wants, with its interval."""
    if one is None:
        return ""
    digits = 1 if head.endswith(("dB", "%")) else 4 if head.startswith("error") else 3
    scale = 100.0 if head.endswith("%") else 1.0
    value, low, high = (f"{scale * each:.{digits}f}" for each in (one.value, one.low, one.high))
    return value if isnan(one.low) else f"{value} ({low} to {high})"


def publish(results: Mapping[str, Result], stem: Path) -> None:
    """The page and the JSON."""
    machine = publishing.machine(PACKAGES)
    evaluations = {
        title: {"settings": one.settings, "figures": [plain_figure(each) for each in one.figures]}
        for title, one in results.items()
    }
    told = {"command": publishing.command(), "machine": machine, "evaluations": evaluations}
    publishing.write(told, stem, page(results, machine))


def plain_figure(figure: Any) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in vars(figure).items()}


def parser(chosen: Mapping[str, Any]) -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--run", type=Path, help="Run whose model is quantised; without one, only --also is read")
    asked.add_argument("--out", type=Path, default=Path("generators/ablation"), help="Folder of the generators")
    asked.add_argument("--variant", action="append", help="May be repeated; default: those of the configuration")
    asked.add_argument("--part", action="append", choices=list(chosen["parts"]), help="May be repeated; default: all")
    asked.add_argument("--iterations", type=int, help="Of AdaRound, in place of the configuration's")
    asked.add_argument("--steps", type=int, help="Of the sampler, in place of the configuration's")
    asked.add_argument("--pictures", type=int, help="Of the evaluation, in place of the configuration's")
    asked.add_argument("--name", default="quantisation-ablation", help="Folder in RUN/evaluation")
    asked.add_argument("--title", help="Of the chapter on the page; default: the run's folder")
    asked.add_argument(
        "--also", action="append", default=[], metavar="TITLE=FOLDER", help="Another evaluation, for the same page"
    )
    asked.add_argument("--publish", type=Path, help="Stem of the JSON and the page to write")
    return asked


def evaluated(given: argparse.Namespace, chosen: Mapping[str, Any]) -> Result:
    """Makes the generators that were asked for, and evaluates them together."""
    run = Run(given.run)
    variants, parts = given.variant or chosen["variants"], given.part or list(chosen["parts"])
    steps = {} if given.steps is None else {"steps": given.steps}
    wanted = ablation(laid_over(chosen, {"settings": steps}), variants, parts, given.iterations)
    make(run.model_folder, wanted, given.out)
    asked = chosen["evaluation"] | ({} if given.pictures is None else {"pictures": given.pictures})
    config = parse(GeneratorsConfig, {**asked, "generators": [given.out / name for name in wanted]}, CONFIG.name)
    return run_quantization(run, config, given.name)


def main() -> int:
    chosen = read_yaml(CONFIG)
    given = parser(chosen).parse_args()
    torch.set_num_threads(1)
    results = {} if given.run is None else {given.title or given.run.name: evaluated(given, chosen)}
    results |= {title: read_result(Path(folder)) for title, _, folder in (one.partition("=") for one in given.also)}
    print(page(results, publishing.machine(PACKAGES)))
    if given.publish is not None:
        publish(results, given.publish)
    return 0


if __name__ == "__main__":
    sys.exit(main())
