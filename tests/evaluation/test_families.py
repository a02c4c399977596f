"""Families: who counts as a relative, and what chance gives."""

import numpy as np
import pytest

from forebear.data import DataConfig, open_training_set
from forebear.errors import ConfigError
from forebear.evaluation.families import EXPECTED, FamiliesConfig, relatives, run_families
from forebear.run import Run


def test_digits_of_a_class_are_relatives(evaluation_run: Run) -> None:
    config = FamiliesConfig(queries=5, top=3, groups=("class",), steps=2, estimators=("tracin",))
    found = run_families(evaluation_run, config, "families-test")
    names = {one.estimator for one in found.figures}
    assert names == {"tracin", "pixel", "random", EXPECTED}
    assert all(0 <= one.value <= 1 and one.count == 5 for one in found.figures)
    again = run_families(evaluation_run, config, "families-test")
    assert again.figures == found.figures


def test_groups_that_nobody_has(evaluation_run: Run) -> None:
    with pytest.raises(ConfigError, match="class"):
        run_families(evaluation_run, FamiliesConfig(queries=2))


def test_openmoji_relatives_share_a_family_or_a_subgroup_that_is_known() -> None:
    training_set = open_training_set(DataConfig("openmoji", limit=600))
    samples = training_set.samples
    unknown = ("", "unknown")
    rows = [0, 17, 300, 599]
    found = relatives(training_set, rows, ("family", "subgroup"), unknown)
    for row, line in zip(rows, found, strict=True):
        for other, related in enumerate(line):
            same = [
                samples[row].groups[name] == samples[other].groups[name] and samples[row].groups[name] not in unknown
                for name in ("family", "subgroup")
            ]
            assert related == any(same)
    assert found[np.arange(4), rows].all()
