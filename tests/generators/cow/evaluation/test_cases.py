"""Which conditions are chosen, what of them is kept, and which words judge them."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.data.sample import Sample
from forebear.diffusion.building import ModelConfig, build_model
from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear_generators.cow.evaluation.cases import choose_cases, further_seeds, kept_part
from forebear_generators.cow.evaluation.settings import CowEvaluationConfig


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return open_training_set(DataConfig(source="digits", limit=30))


@pytest.fixture(scope="module")
def model(tiny_model: dict[str, object]) -> DiffusionModel:
    return build_model(ModelConfig(**tiny_model), (), 10, 0)  # type: ignore[arg-type]


def test_the_subject_is_all_but_the_background_around_it() -> None:
    pixels = np.ones((3, 9, 9), np.float32)
    pixels[:, 2:7, 2:7] = -1.0
    pixels[:, 4, 4] = 1.0  # white within the drawing is not background
    kept = kept_part(pixels, "subject")
    expected = np.zeros((9, 9), np.float32)
    expected[2:7, 2:7] = 1.0
    np.testing.assert_array_equal(kept, expected)
    assert kept_part(np.ones((3, 4, 4), np.float32), "subject").all()
    assert kept_part(pixels, "left").sum() == 9 * 4
    assert kept_part(np.zeros((3, 8, 8), np.float32), "centre")[2:6, 2:6].sum() == 16


def test_cases_are_told_apart(digits: TrainingSet, model: DiffusionModel) -> None:
    config = CowEvaluationConfig(conditions=40, wrong=4)  # more than there are images: they come again
    cases = choose_cases(digits, model, config)
    assert len(cases) == 40
    assert len({case.sample for case in cases}) == 30
    own = {sample.id: ("", sample.label) for sample in digits.samples}
    for place, case in enumerate(cases):
        assert len(set(case.wrong)) == 4
        assert not {case.right, own[case.sample]} & set(case.wrong)
        assert case.right != own[case.sample]
        assert digits.samples[case.target].label == case.condition.label
        assert case.condition.seed == place
    seeds = [[case.condition.seed for case in several] for several in further_seeds(cases[:2], config)]
    assert seeds == [[40, 41], [80, 81]]
    assert further_seeds([], config) == []


def test_the_order_of_the_training_set_does_not_matter(digits: TrainingSet, model: DiffusionModel) -> None:
    config = CowEvaluationConfig(conditions=5)
    backwards = digits.with_samples(digits.samples.of_rows(np.arange(len(digits))[::-1].copy()))
    first, second = (choose_cases(each, model, config) for each in (digits, backwards))
    assert [case.identity() for case in first] == [case.identity() for case in second]


class Bare:
    """A source of drawings: `blot` has one dark pixel, which no mask of half the size holds."""

    def scan(self) -> object:
        raise NotImplementedError

    def picture(self, sample: Sample, size: int) -> Image.Image:
        levels = np.full((8, 8, 3), 255, np.uint8)
        levels[2 : 3 if sample.locator == "blot" else 6, 2 : 3 if sample.locator == "blot" else 6] = 0
        return Image.fromarray(levels)


def test_images_of_which_nothing_is_left_are_passed_over(model: DiffusionModel) -> None:
    samples = [Sample(f"{number}", "blot" if number % 2 else "square", label=number) for number in range(8)]
    config = CowEvaluationConfig(conditions=6)
    cases = choose_cases(TrainingSet(Bare(), samples), model, config)  # type: ignore[arg-type]
    assert {int(case.sample) % 2 for case in cases} == {0}
    with pytest.raises(ConfigError, match="mask is empty"):
        choose_cases(TrainingSet(Bare(), samples[1::2]), model, config)  # type: ignore[arg-type]


def test_of_two_classes_the_conditions_own_is_the_wrong_one(digits: TrainingSet, model: DiffusionModel) -> None:
    pair = digits.of_rows(np.array([row for row, sample in enumerate(digits.samples) if sample.label in (3, 8)]))
    own = {sample.id: ("", sample.label) for sample in pair.samples}
    for case in choose_cases(pair, model, CowEvaluationConfig(conditions=4)):
        assert case.wrong == (own[case.sample],) != (case.right,)
    with pytest.raises(ConfigError, match="the same caption or label"):
        choose_cases(pair.of_rows(np.array([0, 0])), model, CowEvaluationConfig(conditions=2))


def test_a_model_that_is_told_nothing_has_no_wrong_words(digits: TrainingSet, tiny_model: dict[str, Any]) -> None:
    unconditional = build_model(ModelConfig(**tiny_model | {"conditioning": "none"}), (), 0, 0)
    for case in choose_cases(digits, unconditional, CowEvaluationConfig(conditions=4)):
        assert (case.right, case.wrong) == (("", None), ())
        assert digits.samples[case.target].id != case.sample
