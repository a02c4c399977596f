"""What holds for every source."""

import pytest

from forebear.data import DataConfig, Sample, TrainingSet, open_training_set
from forebear.data.digits import DigitsSource
from forebear.errors import DataError


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return open_training_set(DataConfig("digits", limit=30))


def test_rows_and_ids_name_each_other(digits: TrainingSet) -> None:
    assert [digits.row(sample.id) for sample in digits.samples] == list(range(30))
    with pytest.raises(DataError, match="no sample nonsense"):
        digits.row("nonsense")


def test_an_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(DataError, match="occur twice"):
        TrainingSet(DigitsSource(), [Sample("a", "0"), Sample("a", "1")])


def test_a_subset_keeps_ids_and_pictures(digits: TrainingSet) -> None:
    low = digits.where(lambda sample: sample.label in (0, 1))
    assert 0 < len(low) < 30
    for row, sample in enumerate(low.samples):
        assert low.picture(row).tobytes() == digits.picture(digits.row(sample.id)).tobytes()


def test_the_fingerprint_sees_captions_labels_and_order_but_not_groups(digits: TrainingSet) -> None:
    source, samples = DigitsSource(), list(digits.samples)
    first = samples[0]

    def with_first(**change: object) -> str:
        values = {"caption": first.caption, "label": first.label, "groups": first.groups} | change
        return TrainingSet(source, [Sample(first.id, first.locator, **values), *samples[1:]]).fingerprint

    assert with_first() == digits.fingerprint
    assert with_first(groups={"other": "x"}) == digits.fingerprint
    assert with_first(caption="other") != digits.fingerprint
    assert with_first(label=9) != digits.fingerprint
    assert TrainingSet(source, samples[::-1]).fingerprint != digits.fingerprint


def test_an_unknown_group_value_is_named_with_those_there_are() -> None:
    with pytest.raises(DataError, match="group 'class' has no value 'ten'; its values are: eight, five"):
        open_training_set(DataConfig("digits", where={"class": ("ten",)}))
    with pytest.raises(DataError, match="this group does not exist"):
        open_training_set(DataConfig("digits", where={"artist": ("x",)}))
