"""Random halves: sizes, strata, and independence from everything but their number."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forebear.data import Quarantined, Sample, TrainingSet
from forebear.errors import ConfigError, StoreError
from forebear.evaluation.subsets import Subsets, draw_subsets, read_subsets, write_subsets


class Nothing:
    """A source whose pictures nobody looks at."""

    def scan(self) -> tuple[list[Sample], list[Quarantined]]:
        return [], []

    def picture(self, sample: Sample, size: int) -> Image.Image:
        raise AssertionError


def samples(labels: list[int | None], artists: list[str] | None = None) -> list[Sample]:
    artists = artists or [""] * len(labels)
    return [
        Sample(f"id{row:03d}", "", label=label, groups={"artist": artist} if artist else {})
        for row, (label, artist) in enumerate(zip(labels, artists, strict=True))
    ]


def training_set(*arguments: list) -> TrainingSet:  # type: ignore[type-arg]
    return TrainingSet(Nothing(), samples(*arguments))


MIXED = [0] * 31 + [1] * 20 + [2] * 7 + [3] * 3


@pytest.mark.parametrize("fraction", [0.5, 0.3])
def test_every_part_has_its_size_and_its_share_of_every_class(fraction: float) -> None:
    subsets = draw_subsets(training_set(MIXED), 40, fraction, seed=3)
    assert set(subsets.members.sum(1)) == {round(fraction * len(MIXED))}
    for label in range(4):
        inside = subsets.members[:, np.array(MIXED) == label].sum(1)
        assert np.abs(inside - fraction * MIXED.count(label)).max() < 1
    # Odd strata share their odd ones by chance: over the parts they come out even.
    assert np.abs(subsets.members.mean(0) - fraction).max() < 0.35
    assert len({row.tobytes() for row in subsets.members}) == 40


def test_a_group_column_is_stratified_in_place_of_the_labels() -> None:
    artists = ["ada", "bob"] * 15
    subsets = draw_subsets(training_set([0] * 15 + [1] * 15, artists), 20, 0.5, seed=0, stratify="artist")
    for artist in ("ada", "bob"):
        inside = subsets.members[:, np.array(artists) == artist].sum(1)
        assert set(inside) <= {7, 8}
    assert len(set(subsets.members[:, :15].sum(1))) > 1  # and the labels are not


def test_without_labels_the_parts_are_plainly_random() -> None:
    half = draw_subsets(training_set([None] * 30 + [1] * 30), 20, 0.5, seed=0).members
    assert set(half.sum(1)) == {30}
    assert len(set(half[:, :30].sum(1))) > 2


def test_a_part_depends_on_its_number_and_the_seed_alone() -> None:
    whole = training_set(MIXED)
    subsets = draw_subsets(whole, 6, 0.5, seed=1)
    assert np.array_equal(draw_subsets(whole, 3, 0.5, seed=1).members, subsets.members[:3])
    order = np.random.default_rng(0).permutation(len(MIXED))
    shuffled = draw_subsets(TrainingSet(Nothing(), [whole.samples[row] for row in order]), 6, 0.5, seed=1)
    assert [sorted(shuffled.of(m)) for m in range(6)] == [sorted(subsets.of(m)) for m in range(6)]
    assert np.array_equal(shuffled.in_order(subsets.ids), subsets.members)
    assert not np.array_equal(draw_subsets(whole, 6, 0.5, seed=2).members, subsets.members)


def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    subsets = draw_subsets(training_set(MIXED), 5, 0.5, seed=1)
    write_subsets(tmp_path / "subsets.parquet", subsets)
    found = read_subsets(tmp_path / "subsets.parquet")
    assert found.ids == subsets.ids
    assert np.array_equal(found.members, subsets.members)
    (tmp_path / "subsets.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"subsets\.parquet cannot be read"):
        read_subsets(tmp_path / "subsets.parquet")


def test_impossible_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no sample has the group 'artist'; choose among: none"):
        draw_subsets(training_set(MIXED), 2, 0.5, seed=0, stratify="artist")
    with pytest.raises(ConfigError, match=r"fraction 0\.01 of 10 samples is 0"):
        draw_subsets(training_set([0] * 10), 2, 0.01, seed=0)


def test_scores_of_another_training_set_are_refused() -> None:
    subsets = Subsets(("a", "b"), np.array([[True, False]]))
    with pytest.raises(StoreError, match="different training sets"):
        subsets.in_order(["a", "c"])
