"""Near copies: nearest pictures against brute force, thresholds against the training set's own neighbours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forebear.attribution import Attributor, AuditConfig, QueryConfig
from forebear.attribution.decoded import DecodedPictures, pooled, to_levels
from forebear.attribution.memorisation import CopyDetector
from forebear.attribution.nearest import nearest, views
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.images import to_picture
from forebear.run import Run


def pictures_of(pixels: np.ndarray) -> DecodedPictures:
    return DecodedPictures(to_levels(pixels), to_levels(pooled(pixels, 16)))


def noise(count: int, size: int, seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, channels, size, size)).astype(np.float32)


@pytest.fixture
def brute():
    """Distances of every query and picture, from the definition: float64[Q, N]."""

    def distances(stored: np.ndarray, queries: np.ndarray, shifted: bool) -> np.ndarray:
        levels = to_levels(queries).astype(np.float64) / 255
        theirs = stored.astype(np.float64) / 255
        found = np.full((len(queries), len(stored)), np.inf)
        for flip in (False, True) if shifted else (False,):
            for down in (-1, 0, 1) if shifted else (0,):
                for right in (-1, 0, 1) if shifted else (0,):
                    size = levels.shape[-1]
                    vertical = np.clip(np.arange(size) + down, 0, size - 1)
                    across = np.clip(np.arange(size) + right, 0, size - 1)
                    seen = (levels[..., ::-1] if flip else levels)[:, :, vertical][..., across]
                    gaps = np.sqrt(((seen[:, None] - theirs) ** 2).mean(axis=(2, 3, 4)))
                    found = np.minimum(found, gaps)
        return found

    return distances


@pytest.mark.parametrize("measure", ["pixel", "shifted"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3)])
def test_nearest_is_that_of_all_pairs(brute, measure: str, size: int, channels: int) -> None:
    stored, queries = noise(40, size, 0, channels), noise(7, size, 1, channels)
    queries[3] = stored[11]
    found = nearest(pictures_of(stored), queries, measure)
    distances = brute(to_levels(stored), queries, measure == "shifted")
    np.testing.assert_array_equal(found.rows, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distances, distances.min(axis=1), atol=1e-7)
    assert (found.rows[3], found.distances[3]) == (11, 0.0)


def test_itself_is_left_out(brute) -> None:
    stored = noise(30, 8, 2, 1)
    rows = np.array([4, 9, 29])
    found = nearest(pictures_of(stored), stored[rows], "pixel", itself=rows)
    distances = brute(to_levels(stored), stored[rows], shifted=False)
    distances[np.arange(3), rows] = np.inf
    np.testing.assert_array_equal(found.rows, distances.argmin(axis=1))
    alone = nearest(pictures_of(stored[:1]), stored[:1], "pixel", itself=np.array([0]))
    assert (alone.rows.tolist(), alone.distances.tolist()) == ([-1], [np.inf])


def test_blocks_and_large_pictures_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, queries = noise(40, 32, 3), noise(5, 32, 4)
    whole = nearest(pictures_of(stored), queries, "shifted")
    monkeypatch.setattr("forebear.attribution.nearest.BLOCK_ROWS", 7)
    monkeypatch.setattr("forebear.attribution.nearest.VIEWS_AT_ONCE", 1)
    parts = nearest(pictures_of(stored), queries, "shifted")
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_array_equal(parts.distances, whole.distances)


def test_mirrored_and_moved_pictures_are_found() -> None:
    stored = noise(60, 32, 5)
    pictures = pictures_of(stored)
    mirrored = nearest(pictures, stored[[7]][..., ::-1].copy(), "shifted")
    assert mirrored.rows.tolist() == [7]
    assert mirrored.distances[0] < 1 / 255
    moved = np.roll(stored[[7]], (2, -2), axis=(2, 3))  # a coarse pixel: two of these
    found = nearest(pictures, moved, "shifted")
    assert found.rows.tolist() == [7]
    assert found.distances[0] < 0.7 * nearest(pictures, moved, "pixel").distances[0]
    assert views(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 18, 3, 8, 8)


def test_pictures_are_decoded_once_and_kept(attributor: Attributor, tmp_path: Path) -> None:
    run = Run(tmp_path)
    first = DecodedPictures.of(run, attributor.training_set, 1, 8)
    np.testing.assert_array_equal(first.fine, to_levels(attributor.training_set.pixels(range(24), 8, 1)))
    written = (tmp_path / "calibration" / "pixels.npy").stat().st_mtime_ns
    again = DecodedPictures.of(run, attributor.training_set, 1, 8)
    np.testing.assert_array_equal(again.coarse, first.coarse)
    assert (tmp_path / "calibration" / "pixels.npy").stat().st_mtime_ns == written
    fewer = attributor.training_set.where(lambda sample: sample.label != 0)
    assert len(DecodedPictures.of(run, fewer, 1, 8)) == len(fewer)


def test_too_many_pixels_are_halved(attributor: Attributor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebear.attribution.decoded.MAX_BYTES", 24 * 16 * 16 + 1)
    found = DecodedPictures.of(Run(tmp_path), attributor.training_set, 1, 64)
    assert found.fine.shape == (24, 1, 16, 16)
    whole = attributor.training_set.pixels(range(24), 64, 1)
    wanted = to_levels(whole.reshape(24, 1, 16, 4, 16, 4).mean(axis=(3, 5)))
    assert np.abs(found.fine.astype(int) - wanted).max() <= 1  # halves are rounded either way


def test_training_image_is_a_near_copy_by_every_measure(attributor: Attributor) -> None:
    sample = attributor.training_set.samples[5]
    found = attributor.attribute(attributor.training_set.picture(5), label=sample.label).memorisation
    assert found.near_copy
    assert [one.measure for one in found.nearest] == ["pixel", "shifted", "retrac-matched"]
    assert [one.row for one in found.nearest] == [5, 5, 5]
    assert all(one.sample_id == sample.id and one.references == 24 for one in found.nearest)
    assert all(one.near_copy and one.closer_than == 100 for one in found.nearest[:2])
    assert [one.value for one in found.nearest[:2]] == [0, 0]
    assert found.nearest[2].value == pytest.approx(1, abs=0.3)


def test_threshold_is_the_quantile_of_the_training_images_own_neighbours(attributor: Attributor, brute) -> None:
    audit = AuditConfig(copy_quantile=0.25)
    levels = to_levels(attributor.training_set.pixels(range(24), 8, 1))
    distances = brute(levels, levels.astype(np.float32) / 127.5 - 1, shifted=False)
    np.fill_diagonal(distances, np.inf)
    own = distances.min(axis=1)
    query = attributor.training_set.pixels([2], 8, 1)[0] * 0.6
    found = attributor.attribute(query, label=3, audit=audit).memorisation.nearest[0]
    assert found.threshold == pytest.approx(np.quantile(own, 0.25), abs=1e-6)
    gap = brute(levels, query[None], shifted=False)[0]
    assert (found.row, found.value) == (int(gap.argmin()), pytest.approx(gap.min(), abs=1e-6))
    assert found.closer_than == pytest.approx(100 * np.mean(own > gap.min()))
    assert found.near_copy == (found.value < found.threshold)


def test_other_picture_is_no_near_copy(attributor: Attributor) -> None:
    found = attributor.attribute(Image.fromarray(np.eye(8, dtype=np.uint8) * 255), label=3).memorisation
    assert not found.nearest[0].near_copy
    assert not found.nearest[1].near_copy
    assert found.references == 24


@pytest.fixture
def with_copies(tmp_path: Path) -> TrainingSet:
    """Twelve pictures of noise, and the first three again."""
    pixels = noise(12, 16, 6)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place, one in enumerate([*pixels, *pixels[:3]]):
        to_picture(one).save(folder / f"{place:02}.png")
    return open_training_set(DataConfig(str(folder)))


def test_copies_in_the_training_set_do_not_make_copies_ordinary(with_copies: TrainingSet, tmp_path: Path) -> None:
    detector = CopyDetector(Run(tmp_path / "run"), with_copies, 3, 16, AuditConfig())
    copied, single = with_copies.pixels([0, 7], 16)
    found = detector.examine(copied)
    assert (found.references, found.nearest[0].references) == (15, 9)
    assert found.nearest[0].near_copy
    assert found.nearest[0].threshold > 0.3
    blurred = detector.examine(np.clip(single + 0.05 * noise(1, 16, 8)[0], -1, 1))
    assert blurred.near_copy
    other = np.sign(noise(1, 16, 9)[0])  # farther from all of them than they are from each other
    assert not detector.examine(other).near_copy


def test_single_training_image_has_no_ordinary_neighbours(with_copies: TrainingSet, tmp_path: Path) -> None:
    first = with_copies.samples[0].id
    detector = CopyDetector(Run(tmp_path), with_copies.where(lambda one: one.id == first), 3, 16, AuditConfig())
    same, other = (detector.examine(pixels) for pixels in with_copies.pixels([0, 7], 16))
    assert same.near_copy
    assert not other.near_copy
    assert [(one.threshold, one.closer_than, one.references) for one in other.nearest] == [(None, None, 0)] * 2


@pytest.mark.parametrize("change", ["mask", "band", "seed"])
def test_gradients_only_tell_copies_of_pictures_measured_as_the_samples_were(attributor, change: str) -> None:
    asked = {
        "mask": {"mask": (0, 0, 4, 8)},
        "band": {"band": (0, attributor.store.plan.timesteps[0])},
        "seed": {"query": QueryConfig(seed=9)},
    }[change]
    found = attributor.attribute(attributor.training_set.picture(5), label=3, **asked).memorisation
    assert [one.measure for one in found.nearest] == ["pixel", "shifted"]
