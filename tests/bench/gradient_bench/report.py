"""The results as JSON, as a Markdown page and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import publishing

PACKAGES = ("forebear", "torch", "diffusers", "numpy")

INTRODUCTION = """# What a per-sample gradient costs, and what its projection keeps

Written by `tests/bench/bench_gradients.py`; the same figures are in [`{stem}.json`]({stem}.json).

```
{command}
```

{machine}

**Speed** is a multiple of the plain float32 training step's (forward and backward with weight gradients, no optimiser):
the median over {rounds} rounds of the ratio of processor times within a round, with its quartiles; one process, one
thread, all variants in turn. **Samples/s** is per second of one core. **Memory** is the peak above the loaded model, in
a process of its own, as a multiple of the training step's. bfloat16 is measured on processors that multiply in it.

Fidelity compares inner products and cosines over all pairs of {pictures} training pictures at one timestep with those
of whole gradients that autograd gave sample by sample: means over timesteps and {seeds} projection seeds. **Error** is
the root mean square of a cosine's, **top 5** the share of a picture's five nearest that is right, **norm** the standard
deviation of estimated / true norm. Cosines are those of the projections themselves; the column **by reported norms**
divides their inner products by the norms that the engine reports instead. All is measured twice: with a noise for each
picture, and with one noise for all, as `forebear embed` does unless told otherwise.

![Fidelity against speed]({stem}.png)
"""

PEERS = """
## Peers, on the model {name}

Run in an environment and a process of their own, {rows} rows at a time, with the same weights; speed is a multiple of
the training step's in that process ({versions}). CPU default is the projector that TRAKer, or dattri's TracIn, takes
by itself on a CPU: dense normal, k = 2048 and 512. Whole gradients where nothing is projected. The slowest ran once.
Fidelity with a noise for each picture, one seed. Measured on {measured}{kept}.
"""


def write(results: Mapping[str, Any], stem: Path) -> None:
    publishing.write(results, stem, _page(results, stem.name))


def draw(stem: Path, other: Path) -> bool:
    """The picture, drawn by this Python or by `other`; False when neither has matplotlib."""
    return publishing.draw(Path(__file__).with_name("picture.py"), stem, other)


def _page(results: Mapping[str, Any], stem: str) -> str:
    models = results["models"]
    parts = [
        INTRODUCTION.format(
            stem=stem,
            command=results["command"],
            machine=_machine_line(results["machine"], results["load"]),
            rounds=_listed(models, "rounds"),
            pictures=_listed(models, "pictures"),
            seeds=_listed(models, "seeds"),
        )
    ]
    for name, model in models.items():
        parts.append(
            f"\n## Model {name}: {model['parameters']:,} parameters\n\n{model['rows']} rows at a time; mean loss "
            f"{model['loss']:.3f} at the timesteps of the fidelity.\n\n{_costs(model['variants'])}"
        )
        for noise, title in (("own", "a noise for each picture"), ("shared", "one noise for all pictures")):
            pairs = zip(model["cosine_mean"][noise], model["cosine_spread"][noise], strict=True)
            cosines = (f"{mean:.3f} ± {spread:.3f}" for mean, spread in pairs)
            at = ", ".join(f"{found} at t = {t}" for t, found in zip(model["timesteps"], cosines, strict=True))
            parts.append(f"\nFidelity with {title}; true cosines {at}.\n\n{_fidelities(model['variants'], noise)}")
    if "peers" in results:
        peers = results["peers"]
        versions = ", ".join(f"{name} {number}" for name, number in peers["versions"].items())
        parts.append(
            PEERS.format(
                name=peers["model"],
                rows=peers["rows"],
                versions=versions,
                measured=peers["measured"],
                kept=", and kept since: the run of this page left the peers out" if peers["kept"] else "",
            )
        )
        parts.append(f"\n{_costs(peers['variants'])}\n{_fidelities(peers['variants'], 'own')}")
    return "".join(parts)


def _machine_line(about: Mapping[str, Any], load: list[float]) -> str:
    has = [flag for flag, there in about["flags"].items() if there]
    lacks = [flag for flag, there in about["flags"].items() if not there]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{about['processor']} ({about['identity']}), {about['cores']} cores; has {', '.join(has)}"
        f"{'; lacks ' + ', '.join(lacks) if lacks else ''}. Python {about['python']}, {versions}. "
        f"Load average {load[0]:.1f} before and {load[1]:.1f} after."
    )


def _listed(models: Mapping[str, Any], key: str) -> str:
    values = {str(model[key]): name for name, model in models.items()}
    return " and ".join(f"{value} ({name})" if len(values) > 1 else value for value, name in values.items())


def _costs(variants: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [["variant", "speed", "quartiles", "samples/s", "memory"]]
    for name, row in variants.items():
        if "error" in row:
            rows.append([name, row["error"].replace("|", " ").replace("\n", " "), "", "", ""])
            continue
        quartiles = f"{_number(row['low'])}–{_number(row['high'])}"
        memory = f"{row['memory']:.2f}" if "memory" in row else ""
        rows.append([name, _number(row["ratio"]), quartiles, f"{row['samples_per_second']:.3g}", memory])
    return _table(rows)


COLUMNS = {
    "inner_spearman": "Spearman, inner products",
    "cosine_spearman": "Spearman, cosines",
    "scaled_spearman": "by reported norms",
    "inner_pearson": "Pearson, inner products",
    "cosine_pearson": "Pearson, cosines",
    "cosine_error": "error",
    "top": "top 5",
}


def _fidelities(variants: Mapping[str, Mapping[str, Any]], noise: str) -> str:
    measured = {name: row[noise] for name, row in variants.items() if noise in row}
    if not measured:
        return ""
    timesteps = list(next(iter(measured.values()))["cosine_spearman_by_timestep"])
    rows = [["variant", *COLUMNS.values(), "norm", *(f"Spearman, cosines, t = {t}" for t in timesteps)]]
    for name, row in measured.items():
        cells = [f"{row[column]:.3f}" for column in COLUMNS]
        by_timestep = [f"{row['cosine_spearman_by_timestep'][t]:.3f}" for t in timesteps]
        rows.append([name, *cells, f"{row['norm_error']:.2%}", *by_timestep])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body]) + "\n"


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
