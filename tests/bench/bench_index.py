"""How long an index takes to build and to answer, how much of the true answer it finds, and in how much memory.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/bench_index.py [--run runs/demo] [--large]

With --run the vectors are nine tenths of the real embeddings of the run (`unit_mean`, last checkpoint), and, where more
are asked, real_i + (real_j - real_k) / 2 of random ones of these. The real embeddings held out are queries too: with
directions of their own, as those of new pictures have them. Without --run vectors are drawn: a mean, 512 directions
whose sizes fall like rank ** -0.5, noise, and lengths that vary by a quarter. Queries are further vectors of the same
kind, none of them in the index. Kind `scan` is `rabitq` without short codes. `cpu` is the time of one thread, `wall`
what a person waits: they differ on a busy machine. With --rounds N every query is asked N times, and beside the median
of all stand those of the quickest and of the slowest round. --large adds a million vectors of 1024 numbers.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from forebear.index import IndexConfig, IndexMetadata, VectorIndex, WeightedCheckpoint, build_index
from forebear.store import Store

BLOCK_ROWS = 2048
BATCH = 32
QUERIES = 96
WIDTH = 100
RANK = 512
HELD_OUT = 10
"""Of the real embeddings, one in so many."""
METADATA = IndexMetadata("bench", "", (WeightedCheckpoint("bench", 1.0),))

Kind = Literal["exact", "rabitq", "scan"]
CONFIGS = {
    "exact": IndexConfig(kind="exact"),
    "rabitq": IndexConfig(kind="rabitq"),
    "scan": IndexConfig(kind="rabitq", short_codes_from=2**62),
}
Maker = Callable[[int, int], NDArray[np.float32]]
"""(first row, rows) -> float32[rows, D]."""


def drawn(dim: int) -> Maker:
    """Low rank and noise, around a mean."""
    chance = torch.Generator().manual_seed(0)
    falling = torch.arange(1, RANK + 1) ** -0.5
    basis = torch.randn(RANK, dim, generator=chance) * (falling / falling.norm() / dim**0.5)[:, None]
    mean = 0.7 * torch.randn(dim, generator=chance) / dim**0.5

    def make(first: int, rows: int) -> NDArray[np.float32]:
        chance = torch.Generator().manual_seed(first + 1)
        noise = torch.randn(rows, dim, generator=chance) * (0.5 / dim**0.5)
        vectors = torch.randn(rows, RANK, generator=chance) @ basis + mean + noise
        return (vectors * torch.exp(0.25 * torch.randn(rows, 1, generator=chance))).numpy()

    return make


def real(run: Path, dim: int) -> tuple[Maker, NDArray[np.float32]]:
    """Real embeddings, folded to `dim` numbers where they have more, then mixtures of them; and those held out."""
    store = Store.open(run / "store")
    vectors = store.vectors(store.plan.checkpoint_names[-1], "unit_mean")
    if vectors.shape[1] > dim:
        signs = np.random.default_rng(0).choice(np.float32([-1, 1]), vectors.shape[1])
        vectors = (vectors * signs).reshape(len(vectors), -1, dim).sum(axis=1)
    vectors = vectors[np.random.default_rng(1).permutation(len(vectors))]
    held, vectors = vectors[: len(vectors) // HELD_OUT], vectors[len(vectors) // HELD_OUT :]
    print(f"{len(vectors):,} real vectors of {dim} numbers, the rest mixed from them; {len(held):,} held out")

    def make(first: int, rows: int) -> NDArray[np.float32]:
        chance = np.random.default_rng(first + 1)
        one, two, three = chance.integers(len(vectors), size=(3, rows))
        mixed = vectors[one] + (vectors[two] - vectors[three]) / 2
        mixed[: max(0, len(vectors) - first)] = vectors[first : first + rows]
        return mixed

    return make, held


def blocks(make: Maker, count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for first in range(0, count, BLOCK_ROWS):
        yield first, make(first, min(BLOCK_ROWS, count - first))


def measure(
    folder: Path, make: Maker, held: NDArray[np.float32] | None, count: int, dim: int, kind: Kind, rounds: int
) -> None:
    """Build and print one line of the table."""
    build = "-"
    if not folder.exists():
        start, cpu = time.perf_counter(), time.process_time()
        ids = [f"sample-{row:010d}" for row in range(count)]
        build_index(folder, blocks(make, count), dim, ids, config=CONFIGS[kind], metadata=METADATA)
        build = f"{time.process_time() - cpu:.0f} / {time.perf_counter() - start:.0f}"
    index = VectorIndex.open(folder, allow_low_recall=True, device="cpu")
    queries = make(count + 1_000_000, QUERIES)
    index.search(queries[:1], WIDTH)
    before = _memory()
    single = [
        _timed(lambda one=one: index.search(queries[one : one + 1], WIDTH)) for one in rounds * list(range(QUERIES))
    ]
    batch = [_timed(lambda at=at: index.search(queries[at : at + BATCH], WIDTH)) for at in range(0, QUERIES, BATCH)]
    wall, thread = (1000 * np.array(values) for values in zip(*single, strict=True))
    medians = np.median(wall.reshape(rounds, QUERIES), axis=1)
    batch_wall, batch_thread = (1000 * np.array(values) for values in zip(*batch, strict=True))
    found = _recall(index, queries) if kind != "exact" else "1 1 1 1"
    new = _recall(index, held) if kind != "exact" and held is not None else "-"
    print(
        f"| {count:,} x {dim} | {kind} | {build} "
        f"| {np.median(wall):.1f} ({medians.min():.1f} to {medians.max():.1f}) / {np.quantile(wall, 0.99):.1f} "
        f"| {np.median(thread):.1f} / {np.quantile(thread, 0.99):.1f} "
        f"| {batch_wall.min():.0f} | {batch_thread.min():.0f} | {found} | {new} | {_stored(index)} "
        f"| {before[0]:.0f} + {before[1]:.0f} |",
        flush=True,
    )


def _recall(index: VectorIndex, queries: NDArray[np.float32]) -> str:
    """@10 and @100 of proponents, then of opponents, against exact answers for queries that are not in the index."""
    hits = np.zeros((2, 2))
    for first in range(0, len(queries), BATCH):
        asked = queries[first : first + BATCH]
        truth = index.scores(asked)
        for way, sign in enumerate((1, -1)):
            best = np.argsort(-sign * truth, axis=1)[:, :WIDTH]
            rows = index.search(asked, WIDTH, opponents=sign < 0).rows
            for mine, exact in zip(rows, best, strict=True):
                hits[way] += [len(np.intersect1d(mine[:width], exact[:width])) / width for width in (10, WIDTH)]
    return " ".join(f"{value:.4f}" for value in (hits / len(queries)).reshape(-1))


def _stored(index: VectorIndex) -> str:
    recall = index.description.recall
    return f"{recall.at_100:.4f} {recall.opponents_at_100:.4f}"


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, thread = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - thread


def _memory() -> tuple[float, float]:
    """MiB of this process's own memory, and of mapped files, resident now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return sizes["RssAnon"], sizes["RssFile"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run with a finished store")
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=["exact", "rabitq"], choices=list(CONFIGS))
    parser.add_argument("--large", action="store_true", help="a million vectors of 1024 numbers too")
    parser.add_argument("--rounds", type=int, default=1, help="how often every single query is asked")
    parser.add_argument("--folder", type=Path, help="where indexes are kept, and taken from when they are there")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases = [(count, options.dim) for count in options.sizes] + ([(1_000_000, 1024)] if options.large else [])
    print(
        "| vectors | kind | build s, cpu / wall | one query ms, p50 (of rounds) / p99 | cpu p50 / p99 | 32 ms, wall "
        "| cpu | recall@10 @100, opponents @10 @100 | of held-out ones | stored @100 | MiB own + mapped |"
    )
    with TemporaryDirectory(prefix="forebear-bench-") as temporary:
        folder = options.folder or Path(temporary)
        for count, dim in cases:
            make, held = real(options.run, dim) if options.run else (drawn(dim), None)
            for kind in options.kinds:
                measure(folder / f"{count}-{dim}-{kind}", make, held, count, dim, kind, options.rounds)


if __name__ == "__main__":
    main()
