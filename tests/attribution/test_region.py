"""A part of the picture, or some noise levels: masks, boxes, bands, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forebear.attribution import Attributor, QueryConfig
from forebear.attribution.noise_level import within
from forebear.attribution.region import marked, parse_box, region_of
from forebear.errors import ConfigError, DataError
from forebear.images import to_pixels

WIDE = Image.new("RGB", (16, 8), "white")
"""Its centred square is columns 4 to 12."""


def test_box_is_cropped_as_the_picture_is() -> None:
    region = region_of((0, 2, 8, 8), WIDE, 8)
    wanted = np.zeros((8, 8), np.float32)
    wanted[2:, :4] = 1
    np.testing.assert_array_equal(region.mask, wanted)
    assert (region.record.label, region.record.box) == ("box 0,2,8,8", (0, 2, 8, 8))
    assert region.record.share == 24 / 64


def test_mask_lies_on_the_pixels_that_the_model_sees() -> None:
    drawn = np.zeros((48, 80), np.uint8)
    drawn[16:40, 30:61] = 255
    picture = Image.fromarray(drawn)
    region = region_of(drawn / 255.0, picture, 12)
    seen = (to_pixels(picture, 12, 1)[0] + 1) / 2
    assert np.abs(region.mask - seen).max() < 0.3  # bicubic against averaging
    assert np.corrcoef(region.mask.ravel(), seen.ravel())[0, 1] > 0.99


def test_mask_of_the_models_size_is_taken_as_it_is() -> None:
    weights = np.linspace(0, 1, 64).reshape(8, 8)
    np.testing.assert_array_equal(region_of(weights, WIDE, 8).mask, weights.astype(np.float32))
    np.testing.assert_array_equal(region_of(weights > 0.5, WIDE, 8).mask, weights > 0.5)


def test_picture_of_a_mask(tmp_path: Path) -> None:
    drawn = Image.new("L", (16, 8))
    drawn.paste(255, (4, 0, 8, 4))
    drawn.save(tmp_path / "corner.png")
    region = region_of(tmp_path / "corner.png", WIDE, 8)
    np.testing.assert_array_equal(region.mask[:4, :4], 1)
    assert region.mask.sum() == 16
    assert (region.record.label, region.record.box) == ("corner.png", None)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (np.ones((7, 8)), ConfigError, "8 x 7 pixels; make it 16 x 8.*or 8 x 8"),
        (np.zeros((8, 8)), ConfigError, "empty"),
        (np.full((8, 8), np.nan), ConfigError, r"\[0, 1\]"),
        (np.full((8, 8), 255.0), ConfigError, "divide"),
        (np.ones((8, 8), np.uint8), ConfigError, "uint8"),
        (np.ones((1, 8, 8)), ConfigError, r"float\[height, width\]"),
        ((0, 0, 4, 8), ConfigError, "empty in the centred square"),
        ((4, 0, 4, 8), ConfigError, "not inside the picture of 16 x 8"),
        ((0, 0, 17, 8), ConfigError, "not inside the picture"),
        ((-1, 0, 4, 8), ConfigError, "not inside the picture"),
        ((0, 0, 4), ConfigError, "four whole numbers"),
        ((0.0, 0.0, 0.5, 0.5), ConfigError, "four whole numbers"),
        ("no/such.png", DataError, "does not exist"),
    ],
)
def test_bad_regions_are_refused(mask, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        region_of(mask, WIDE, 8)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,x", "1;2;3;4", "0,0,1.5,2"])
def test_text_that_is_no_box(text: str) -> None:
    with pytest.raises(ConfigError, match="no region"):
        parse_box(text)


def test_marked_picture_shows_the_region_and_veils_the_rest() -> None:
    picture = Image.new("RGB", (16, 8), (0, 0, 255))
    shown = np.asarray(marked(picture, region_of((4, 0, 8, 8), picture, 8).record, 64)).astype(int)
    assert shown.shape == (64, 64, 3)
    np.testing.assert_array_equal(shown[4:60, 4:28], np.broadcast_to([0, 0, 255], (56, 24, 3)))
    assert (shown[:, 40:, 2] < 200).all()
    assert (shown[:, 40:, 0] > 80).all()


def test_region_and_the_rest_add_up_to_the_picture(attributor: Attributor) -> None:
    picture = attributor.training_set.picture(6)
    weights = np.random.default_rng(0).uniform(size=(8, 8))
    whole, part, rest = (
        attributor.embed_query(picture, label=3, mask=mask, estimators=["tracin", "dtrak"])
        for mask in (None, weights, 1 - weights)
    )
    for place, one in enumerate(whole.embeddings):
        for name in ("mean", "square_mean"):
            added = part.embeddings[place].vectors[name] + rest.embeddings[place].vectors[name]
            np.testing.assert_allclose(added, one.vectors[name], rtol=1e-3, atol=1e-4 * np.abs(added).max())
        added = part.embeddings[place].losses + rest.embeddings[place].losses
        np.testing.assert_allclose(added, one.losses, rtol=1e-5)


def test_regions_have_answers_of_their_own(attributor: Attributor) -> None:
    picture = attributor.training_set.picture(6)
    boxes = [(0, 0, 8, 4), (0, 4, 8, 8)]
    answers = attributor.attribute_all(picture, label=3, first="retrac", top_k=24, regions=boxes)
    assert [one.estimator for one in answers] == ["retrac", "tracin", "retrac", "retrac"]
    assert [one.query.region and one.query.region.box for one in answers] == [None, None, *boxes]
    scores = [[one.score for one in answer.proponents] for answer in (answers[0], *answers[2:])]
    assert scores[0] != scores[1] != scores[2]
    alone = attributor.attribute(picture, label=3, estimator="retrac", top_k=24, mask=boxes[1])
    assert alone.proponents == answers[3].proponents


@pytest.mark.parametrize("estimator", ["retrac", "retrac-matched"])
def test_band_is_the_stores_timesteps_within_it(attributor: Attributor, estimator: str) -> None:
    picture = attributor.training_set.picture(6)
    first, second, _ = sorted(attributor.store.plan.timesteps)
    answer = attributor.attribute(picture, label=3, estimator=estimator, band=(0, second))
    assert sorted(answer.query.timesteps) == [first, second]
    assert answer.query.band == (0, second)
    wanted = attributor.attribute(picture, label=3, estimator=estimator, query=QueryConfig(timesteps=(first, second)))
    assert [one.row for one in answer.proponents] == [one.row for one in wanted.proponents]


def test_band_restricts_the_papers_timesteps_too(attributor: Attributor) -> None:
    query = within(QueryConfig(paper=True), (900, 999), attributor.store.plan, 1000)
    assert all(900 <= timestep <= 999 for timestep in query.timesteps)
    assert (len(query.timesteps), query.draws) == (10, 16)


def test_band_with_open_ends(attributor: Attributor) -> None:
    assert attributor.band(first=300) == (300, 999)
    assert attributor.band(last=300) == (0, 300)


@pytest.mark.parametrize(
    ("band", "words"),
    [
        ((0, 1), "no timestep of the query lies between 0 and 1"),
        ((500, 400), "lower one first"),
        ((0, 1000), "0 to 999"),
    ],
)
def test_empty_bands_are_refused(attributor: Attributor, band: tuple[int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        attributor.attribute(attributor.training_set.picture(6), label=3, band=band)
