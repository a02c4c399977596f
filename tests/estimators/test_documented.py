"""docs/estimators.md describes every estimator as it is."""

import re
from pathlib import Path

import pytest

from forebear.estimators import DEFAULT_ESTIMATOR, ESTIMATORS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "how-to" / "estimator.md").read_text(encoding="utf-8")
LINES = {
    cells[0].strip("`"): cells
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 9
}


def test_the_table_holds_every_estimator_and_no_other() -> None:
    assert list(LINES) == list(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_its_line_says_what_it_is(name: str) -> None:
    method, (_, phi, _, curvature, checkpoints, column, measurement, _, _) = ESTIMATORS[name], LINES[name]
    assert curvature == ("none" if method.ridge is None else "ridge")
    assert column.strip("`") == ("" if method.baseline else method.column)
    assert measurement.strip("`") == (method.measurement or "")
    words = {"weighted": "w_c", "alike": "alike", "last": "last alone"}
    assert checkpoints == ("no model" if method.baseline else words[method.checkpoints])
    assert ("at norm 1" in phi) == method.unit_rows
    assert phi.startswith("e ") == method.residual


def test_the_default_is_named_where_it_is_explained() -> None:
    assert DEFAULT_ESTIMATOR in ESTIMATORS
    assert f"**`{DEFAULT_ESTIMATOR}`**" in PAGE.split("\n## Which one when\n")[1].split("\n## ")[0]
    assert f"`{DEFAULT_ESTIMATOR}` (the default)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_of_a_new_one_is_an_estimator() -> None:
    from forebear.estimators import Estimator

    (code,) = re.findall(r"```python\n(Estimator\(.*?)```", GUIDE, re.DOTALL)
    (made,) = eval(f"[{code}]", {"Estimator": Estimator})
    assert made.measurement == "square"
    assert made.name not in ESTIMATORS
