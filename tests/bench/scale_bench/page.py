"""The results as JSON, as a Markdown page and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import publishing

PACKAGES = ("forebear", "ray", "torch", "pyarrow", "numpy")

NAMES = ("0: in this process", "1 Ray actor", "2 Ray actors")

PAGE = """# What large jobs cost: workers, Ray, storage, the driver

Written by `tests/bench/bench_scale.py` (`make bench-scale`); the same figures are in [`{stem}.json`]({stem}.json). What
an index costs to build and to ask is in [index.md](index.md).

```
{command}
```

{machine}

![Cost growth]({stem}.png)

## Workers, and what Ray costs

{pictures} pictures of {dataset}, a UNet of {parameters:,} parameters, {timesteps} timesteps, k = {dim}, shards of
{shard_rows}; every worker has one thread. Each line is the run with the median rate of {rounds}, and every run a
process of its own. **Rate** is that of the second half of the pictures, when all workers have begun. **Whole call** is
all of `embed()`: importing libraries, opening model and images, starting and stopping Ray, and the work; a process
forked from the driver embeds while Ray starts ([jobs.md](jobs.md)).

{workers}

| what | measured | bar |
| --- | --- | --- |
| two actors over one, rate | {efficiency:.2f} x | at least 1.8 x |
| two actors over one, whole call | {efficiency_whole:.2f} x | |
| one actor against in-process, rate | {overhead:+.1%} time | |
| one actor against in-process, whole call of {base_seconds:.0f} s | {overhead_whole:+.1%} time | at most +10 % |
| of it beside the rate, once for a job | {start_up:.1f} s | |

## Storage

A shard of {rows:,} rows ({shard_mib:.0f} MiB), real embeddings repeated; one thread, files in the page cache when read.

| | GB/s |
| --- | --- |
| write: to half precision, checks, Parquet with page checksums, SHA-256, sync, rename | {write:.2f} |
| verify: read and SHA-256 | {verify:.2f} |
| read one column as float32 (bytes of the halves) | {read:.2f} |

## The driver

The real scheduler with {sim_workers:,} simulated workers of {sim_rate:g} pictures a second, shards of {sim_rows}, each
machine lost every {sim_hours:g} hours; a process of its own for each line. Bar: 100 million samples under 1 GB.

{driver}

## Growth

By the arithmetic of `forebear plan`, with the rate measured here with one actor, for {plan_workers} such workers.

{growth}
"""


def write(results: Mapping[str, Any], stem: Path) -> None:
    publishing.write(results, stem, _page(results, stem.name))


def draw(stem: Path, other: Path) -> bool:
    """The picture, drawn by this Python or by `other`; False when neither has matplotlib."""
    return publishing.draw(Path(__file__).with_name("picture.py"), stem, other)


def _page(results: Mapping[str, Any], stem: str) -> str:
    job, storage, simulation = results["job"], results["storage"], results["simulation"]
    return PAGE.format(
        stem=stem,
        command=results["command"],
        machine=_machine(results["machine"], results["load"]),
        **{key: job[key] for key in ("dataset", "parameters", "timesteps", "dim", "shard_rows", "rounds")},
        pictures=f"{job['pictures']:,}",
        workers=_workers(results["workers"]),
        **results["ratios"],
        rows=storage["rows"],
        shard_mib=storage["shard_bytes"] / 2**20,
        **{name: storage[name] / 1e9 for name in ("write", "verify", "read")},
        **{f"sim_{name}": simulation[name] for name in ("workers", "rate", "rows", "hours")},
        driver=_driver(simulation["runs"]),
        plan_workers=results["plan_workers"],
        growth=_growth(results["growth"]),
    )


def _machine(about: Mapping[str, Any], load: Sequence[float]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{about['processor']}, {about['cores']} cores ({about['usable_cores']} usable). Python {about['python']}, "
        f"{versions}. Load average {load[0]:.1f} before and {load[1]:.1f} after."
    )


def _workers(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [["workers", "pictures/s", "of all runs", "whole call", "of it beyond all pictures at the rate"]]
    for run in runs:
        name = (
            f"{run['workers']} Ray actor{'s' if run['workers'] > 1 else ''}" if run["workers"] else "0: in this process"
        )
        rates = ", ".join(f"{rate:.2f}" for rate in run["rates"])
        rows.append([name, f"{run['rate']:.2f}", rates, f"{run['seconds']:.1f} s", f"{run['start_up']:.1f} s"])
    return _table(rows)


def _driver(runs: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "samples",
        "shards",
        "memory grew by",
        "process",
        "decisions/s made",
        "needed",
        "machines lost",
        "tried again",
    ]
    body = [
        [
            f"{run['samples']:,}",
            f"{run['counts']['done']:,}",
            f"{run['memory'] / 2**20:.1f} MiB",
            f"{run['resident'] / 2**20:.0f} MiB",
            f"{run['decisions_per_second']:,.0f}",
            f"{run['needed_per_second']:,.0f}",
            f"{run['machines_lost']:,}",
            f"{run['counts']['retried']:,}",
        ]
        for run in runs
    ]
    return _table([head, *body])


def _growth(lines: Sequence[Mapping[str, Any]]) -> str:
    body = [
        [
            f"{line['samples']:,}",
            f"{line['time'] / 3600:,.2f} h",
            f"{line['CPU-hours']:,.1f} h",
            f"{line['store'] / 2**30:,.2f} GiB",
            f"{line['index'] / 2**30:,.2f} GiB",
        ]
        for line in lines
    ]
    return _table([["samples", "time", "CPU-hours", "store", "index"], *body])


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])
