"""Memory and processor time of a large training set's samples: objects in a tuple against columns in mapped files.

Each way runs in a process of its own. `python tests/bench/bench_catalogue.py --samples 1000000`
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forebear.data import Sample, TrainingSet
from forebear.data.catalogue import read_catalogue, write_catalogue
from forebear.data.digits import DigitsSource

PROBES = 2_000


def made_up(count: int) -> Iterator[Sample]:
    """Samples as a scan of captioned pictures gives them, with two groups."""
    for number in range(count):
        identity = hashlib.blake2b(number.to_bytes(8), digest_size=10).hexdigest()
        caption = f"a made-up picture number {number} of something worth a caption"
        groups = {"artist": f"artist {hash((number, 1)) % 10_000}", "licence": f"licence {number % 5}"}
        yield Sample(
            identity, f"{number // 5_000}:{number % 5_000 // 100}:{number % 100}", caption, number % 1_000, groups
        )


def memory() -> dict[str, int]:
    """Bytes of this process in memory: its own, and pages of mapped files, which the kernel can drop at any time."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def as_objects(count: int, _: Path) -> tuple[tuple[Sample, ...], dict[str, int]]:
    """How the samples were held before: a tuple of them, and a dictionary from id to row."""
    samples = tuple(made_up(count))
    return samples, {sample.id: row for row, sample in enumerate(samples)}


def as_columns(_: int, folder: Path) -> tuple[Any, Any]:
    training_set = TrainingSet(DigitsSource(), read_catalogue(folder).samples)
    return training_set.samples, training_set.rows


def measured(way: str, count: int, folder: Path) -> dict[str, float]:
    import gc

    gc.collect()
    before, start = memory(), time.process_time()
    samples, rows = {"objects": as_objects, "columns": as_columns}[way](count, folder)
    opened = time.process_time() - start
    gc.collect()
    after = memory()
    chosen = np.random.default_rng(0).integers(0, count, PROBES).tolist()
    ids = [samples[row].id for row in chosen]
    found = {
        "open_seconds": opened,
        "bytes_per_sample": (after["RssAnon"] - before["RssAnon"]) / count,
        "row_microseconds": 1e6 * seconds(lambda: [samples[row] for row in chosen]) / PROBES,
        "id_microseconds": 1e6 * seconds(lambda: [rows[identity] for identity in ids]) / PROBES,
        "pass_seconds": seconds(lambda: sum(1 for _ in samples)),
    }
    gc.collect()
    used = memory()
    found["bytes_per_sample_used"] = (used["RssAnon"] - before["RssAnon"]) / count
    found["mapped_bytes_per_sample_used"] = (used["RssFile"] - before["RssFile"]) / count
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--way", choices=("objects", "columns", "write"))
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.way == "write":
        before = memory()["RssAnon"]
        took = seconds(lambda: write_catalogue(chosen.folder, made_up(chosen.samples)))
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
        size = sum(path.stat().st_size for path in chosen.folder.iterdir())
        print(
            json.dumps(
                {
                    "seconds": took,
                    "disk_bytes_per_sample": size / chosen.samples,
                    "peak_rss_bytes_above_start": peak - before,
                }
            )
        )
    elif chosen.way:
        print(json.dumps(measured(chosen.way, chosen.samples, chosen.folder)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for way in ("write", "objects", "columns"):
                command = [sys.executable, __file__, "--samples", str(chosen.samples), "--way", way, "--folder", folder]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"{way:8}", "  ".join(f"{name} {value:,.3f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
