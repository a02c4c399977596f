"""Random parts of a training set, by sample id, each a function of its number alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.data import TrainingSet
from forebear.errors import ConfigError, StoreError
from forebear.files import whole_file
from forebear.randomness import keyed_permutation

SCHEMA = pa.schema([("sample_id", pa.string()), ("subsets", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Subsets:
    """M parts of a training set of N samples."""

    ids: tuple[str, ...]
    """Of the whole training set, in its order: the columns of `members`."""
    members: NDArray[np.bool_]
    """bool[M, N]."""

    def of(self, subset: int) -> list[str]:
        """The sample ids of one part."""
        return [self.ids[row] for row in np.flatnonzero(self.members[subset])]

    def in_order(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """`members` with its columns in the order of `ids`, for scores in that order.

        Raises StoreError when they are not the ids of the same training set.
        """
        if sorted(ids) != sorted(self.ids):
            raise StoreError("scores and subsets are of different training sets; use the run that the subsets are of")
        column = {sample_id: place for place, sample_id in enumerate(self.ids)}
        return self.members[:, [column[sample_id] for sample_id in ids]]


def draw_subsets(
    training_set: TrainingSet, count: int, fraction: float, seed: int, stratify: str | None = None
) -> Subsets:
    """`count` random parts, each of round(fraction x N) samples and stratified.

    Strata are the values of the group `stratify`, or the class labels when all samples have one; a stratum's share of a
    part differs from its share of the set by less than one sample. A part does not depend on how many are drawn, nor on
    the order of the training set. Raises ConfigError when no sample has the group, or a part is empty or the whole.
    """
    strata = _strata(training_set, stratify)
    total = len(training_set)
    size = round(fraction * total)
    if not 0 < size < total:
        raise ConfigError(f"fraction {fraction:g} of {total} samples is {size}; choose one that leaves some in and out")
    members = np.zeros((count, total), np.bool_)
    for subset in range(count):
        for name, share in _shares({name: len(rows) for name, rows in strata.items()}, size, seed, subset).items():
            order = keyed_permutation(len(strata[name]), "subset", seed, subset, name)
            members[subset, strata[name][order[:share]]] = True
    return Subsets(tuple(sample.id for sample in training_set.samples), members)


def _strata(training_set: TrainingSet, stratify: str | None) -> dict[str, NDArray[np.int64]]:
    """Rows by stratum, each in the order of their ids."""
    samples = training_set.samples
    if stratify is not None:
        if stratify not in training_set.group_names:
            offered = ", ".join(training_set.group_names) or "none"
            raise ConfigError(f"stratify: no sample has the group {stratify!r}; choose among: {offered}")
        names = [sample.groups.get(stratify, "") for sample in samples]
    elif all(sample.label is not None for sample in samples):
        names = [str(sample.label) for sample in samples]
    else:
        names = [""] * len(samples)
    strata: dict[str, list[int]] = {name: [] for name in sorted(set(names))}
    for row in sorted(range(len(samples)), key=lambda row: samples[row].id):
        strata[names[row]].append(row)
    return {name: np.array(rows, np.int64) for name, rows in strata.items()}


def _shares(sizes: dict[str, int], size: int, seed: int, subset: int) -> dict[str, int]:
    """How many of each stratum: rounded down, and the rest dealt by largest remainder, equal ones by chance."""
    total = sum(sizes.values())
    shares = {name: size * count // total for name, count in sizes.items()}
    chance = dict(zip(sizes, keyed_permutation(len(sizes), "subset-rest", seed, subset).tolist(), strict=True))
    order = sorted(sizes, key=lambda name: (-(size * sizes[name] % total), chance[name]))
    for name in order[: size - sum(shares.values())]:
        shares[name] += 1
    return shares


def write_subsets(path: Path, subsets: Subsets) -> None:
    """One row for each sample of the training set, in its order, with the numbers of the parts that it is in."""
    inside = [np.flatnonzero(column).astype(np.int32) for column in subsets.members.T]
    with whole_file(path) as part:
        pq.write_table(pa.table([list(subsets.ids), inside], schema=SCHEMA), part)


def read_subsets(path: Path) -> Subsets:
    """Raises StoreError when the file is missing or damaged."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowException, OSError) as broken:
        raise StoreError(f"{path} cannot be read ({broken}); run the evaluation again, which draws it anew") from None
    inside = table["subsets"].to_pylist()
    members = np.zeros((max(max(numbers, default=-1) for numbers in inside) + 1, len(inside)), np.bool_)
    for column, numbers in enumerate(inside):
        members[numbers, column] = True
    return Subsets(tuple(table["sample_id"].to_pylist()), members)
