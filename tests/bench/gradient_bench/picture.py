"""`python picture.py RESULTS.json PICTURE.png`: fidelity against speed. Needs matplotlib alone."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

COLOURS = {"fast": "#d1495b", "default": "#00798c", "exact": "#edae49", "other library": "#555555"}
LINES = {
    "torch.func vmap(grad)": "vmap(grad): whole gradients",
    "training step": "training step",
    "activations-only backward": "activations-only backward",
    "forward": "forward",
}
SPEEDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4)
SPEARMANS = (0.9998, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.95)


def points(ax: Axes, variants: dict[str, Any]) -> None:
    """Only those whose fidelity was measured; the label is k, and the name of a library that is not Forebear."""
    for name, row in variants.items():
        if "own" not in row:
            continue
        known = name.startswith("forebear ")
        head, *rest = name.removeprefix("forebear ").split(", ")
        colour = COLOURS[head if known else "other library"]
        place = (row["ratio"], 1 - row["own"]["cosine_spearman"])
        filled = known and rest[-1] == "bfloat16"
        ax.plot(*place, marker="o", markersize=8, color=colour, markerfacecolor=colour if filled else "white")
        label = rest[0].removeprefix("k=") if known else f"{head}, k={row['dim']}"
        ax.annotate(label, place, (7, 4), textcoords="offset points", fontsize=7, color=colour)


def panel(ax: Axes, name: str, model: dict[str, Any], peers: dict[str, Any]) -> None:
    for variant, label in LINES.items():
        ratio = model["variants"][variant]["ratio"]
        ax.axvline(ratio, color="#cccccc", linewidth=0.9, linestyle=":", zorder=0)
        across = ax.get_xaxis_transform()
        ax.text(ratio, 0.02, label, rotation=90, ha="right", fontsize=7, color="#888888", transform=across, zorder=0)
    points(ax, model["variants"])
    points(ax, peers)
    ax.set(xscale="log", yscale="log", xlabel="speed (training step = 1)", ylabel="Spearman of cosines (log of 1 − ρ)")
    ax.set_ylim(ax.get_ylim()[1] * 1.6, ax.get_ylim()[0] / 1.3)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    ax.set_xticks([speed for speed in SPEEDS if left <= speed <= right], minor=False)
    heights = [rho for rho in SPEARMANS if top <= 1 - rho <= bottom]
    ax.set_yticks([1 - rho for rho in heights], [f"{rho:g}" for rho in heights])
    ax.xaxis.set_major_formatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(mpl.ticker.NullLocator())
    ax.grid(visible=True, axis="y", color="#eeeeee", zorder=0)
    ax.set_title(f"{name}: {model['parameters'] / 1e6:.2f} M parameters", fontsize=10)


def main() -> None:
    results_file, picture_file = (Path(argument) for argument in sys.argv[1:])
    results = json.loads(results_file.read_text(encoding="utf-8"))
    models = sorted(results["models"].items(), key=lambda item: int(item[1]["parameters"]))
    peers = results.get("peers", {"model": "", "variants": {}})
    figure, axes = plt.subplots(1, len(models), figsize=(6.5 * len(models), 5), squeeze=False, layout="constrained")
    for ax, (name, model) in zip(axes[0], models, strict=True):
        panel(ax, name, model, peers["variants"] if name == peers["model"] else {})
    marks = [Line2D([], [], marker="o", linestyle="none", color=colour, label=mode) for mode, colour in COLOURS.items()]
    axes[0][0].legend(handles=marks, loc="upper left", fontsize=8, framealpha=1)
    title = "Forebear's gradient engine on one thread (filled: bfloat16, open: float32; labels: k)"
    figure.suptitle(title, fontsize=11)
    figure.savefig(picture_file, dpi=130)


if __name__ == "__main__":
    main()
