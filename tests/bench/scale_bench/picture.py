"""`python picture.py RESULTS.json PICTURE.png`: how costs grow. Needs matplotlib alone."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = {0: "#555555", 1: "#00798c", 2: "#d1495b"}


def curves(ax: Axes, runs: list[dict[str, Any]]) -> None:
    """Pictures done against seconds, as measured."""
    for run in runs:
        name = f"{run['workers']} Ray actor{'s' if run['workers'] > 1 else ''}" if run["workers"] else "in process"
        seconds, done = zip((0.0, 0), *run["curve"], strict=True)
        ax.step(seconds, done, where="post", color=COLOURS[run["workers"]], label=f"{name}: {run['rate']:.1f}/s")
    ax.set(xlabel="seconds since the command", ylabel="pictures embedded", title="Measured")
    ax.legend(fontsize=8)


def driver(ax: Axes, runs: list[dict[str, Any]]) -> None:
    samples = [run["samples"] for run in runs]
    ax.plot(samples, [run["resident"] / 2**20 for run in runs], marker="o", color=COLOURS[1], label="whole process")
    grown = [max(run["memory"] / 2**20, 0.1) for run in runs]
    ax.plot(samples, grown, marker="o", color=COLOURS[2], label="growth during the job")
    ax.axhline(1e9 / 2**20, color="#cccccc", linestyle=":", label="bar: 1 GB")
    ax.set(xscale="log", yscale="log", xlabel="samples", ylabel="MiB", title="Driver's memory (simulated workers)")
    ax.legend(fontsize=8)


def growth(ax: Axes, lines: list[dict[str, Any]], workers: int) -> None:
    samples = [line["samples"] for line in lines]
    ax.plot(samples, [line["time"] / 3600 for line in lines], color=COLOURS[0], label=f"hours on {workers} workers")
    ax.plot(samples, [line["store"] / 2**30 for line in lines], color=COLOURS[1], label="GiB of store")
    ax.plot(samples, [line["index"] / 2**30 for line in lines], color=COLOURS[2], label="GiB of index")
    ax.set(xscale="log", yscale="log", xlabel="samples", title="Planned, at the measured rate")
    ax.legend(fontsize=8)


def main() -> None:
    results_file, picture_file = (Path(argument) for argument in sys.argv[1:])
    results = json.loads(results_file.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    curves(axes[0], results["workers"])
    driver(axes[1], results["simulation"]["runs"])
    growth(axes[2], results["growth"], results["plan_workers"])
    for ax in axes:
        ax.grid(visible=True, color="#eeeeee", zorder=0)
    figure.savefig(picture_file, dpi=130)


if __name__ == "__main__":
    main()
