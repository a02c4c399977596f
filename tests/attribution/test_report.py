"""The page: whole, self-contained, and safe with whatever a caption says."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from forebear.attribution import Attribution, Attributor, ReportEntry, write_report
from forebear.attribution.report_views import group_tables, overlap, region_columns
from forebear.errors import ConfigError


@pytest.fixture(scope="module")
def answers(attributor: Attributor) -> tuple[Attribution, ...]:
    return attributor.attribute_all(attributor.training_set.picture(5), label=3, top_k=3)


@pytest.fixture(scope="module")
def text(attributor: Attributor, answers: tuple[Attribution, ...], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    hostile = replace(answers[1].proponents[0], caption="<script>alert(1)</script> \" onload='x'")
    second = replace(answers[1], proponents=(hostile, *answers[1].proponents[1:]))
    picture = attributor.training_set.picture(5)
    entries = [ReportEntry(picture, "digit five", answers), ReportEntry(picture, "<b>again</b>", [answers[0], second])]
    attributor.report(path, entries)
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed(text: str, html_page) -> None:
    assert text.startswith("<!doctype html>")
    page = html_page(text)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_asks_the_network_for_nothing(text: str, html_page) -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link", text)
    for attributes in html_page(text).all("img"):
        assert attributes["src"].startswith("data:image/png;base64,")
    assert all(attributes["href"].startswith("#") for attributes in html_page(text).all("a"))


def test_page_names_every_influence(text: str, answers: tuple[Attribution, ...]) -> None:
    for answer in answers:
        assert answer.estimator in text
        for one in (*answer.proponents, *answer.opponents):
            assert one.sample_id in text
            assert f"{one.score:+.3g}" in text
            assert f"{one.percentile:.1f} %" in text
            assert one.caption in text


def test_page_says_sign_and_fingerprints(text: str, answers: tuple[Attribution, ...]) -> None:
    said = answers[0].fingerprint
    assert answers[0].sign.replace("'", "&#39;") in text
    for value in (said.store_plan, said.dataset, said.forebear_version, *(one.weights for one in said.checkpoints)):
        assert value in text


def test_captions_cannot_become_markup(text: str, html_page) -> None:
    page = html_page(text)
    assert "&lt;script&gt;" in text
    assert "<b>again</b>" not in text
    assert not any("onload" in attributes for _, attributes in page.tags)


def test_every_picture_has_words(text: str, answers: tuple[Attribution, ...], html_page) -> None:
    pictures = html_page(text).all("img")
    nearest = {one.row for one in answers[0].memorisation.nearest}
    assert len(pictures) == 2 * (1 + 1 + len(nearest)) + (3 + 2) * 2 * 3
    assert all(attributes["alt"] for attributes in pictures)


def test_near_copy_is_told_first_with_both_pictures(text: str, answers: tuple[Attribution, ...], html_page) -> None:
    found = answers[0].memorisation
    assert found.near_copy
    assert text.index("Near copy of a training image") < text.index("Proponents")
    for one in found.nearest:
        assert f"{one.measure}: {'cosine' if one.similarity else 'distance'} {one.value:.3g}" in text
    words = [attributes["alt"] for attributes in html_page(text).all("img")]
    assert "The query again: digit five" in words
    assert f"Nearest training image {found.nearest[0].caption}" in words


def test_picture_that_is_no_copy_is_not_called_one(attributor: Attributor, answers, tmp_path: Path) -> None:
    innocent = replace(
        answers[0].memorisation,
        near_copy=False,
        nearest=tuple(replace(one, near_copy=False) for one in answers[0].memorisation.nearest),
    )
    answer = replace(answers[0], memorisation=innocent)
    attributor.report(tmp_path / "r.html", [ReportEntry(Image.new("L", (8, 8)), "x", [answer])])
    page = (tmp_path / "r.html").read_text()
    assert "Not a near copy of a training image" in page
    assert "<strong>near copy</strong>" not in page


def test_groups_say_share_interval_expectation_and_p(text: str, answers: tuple[Attribution, ...]) -> None:
    plain = " ".join(text.split())
    for group in answers[0].group_totals["class"][:6]:
        low, high = group.share_interval
        assert f"{100 * group.positive_share:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)" in plain
        assert f"expected {100 * group.data_share:.1f} %; {group.ratio:.1f}x its share of the data" in plain
        assert f"{group.total_interval[0]:+.3g} to<br>{group.total_interval[1]:+.3g}" in plain
        assert f"adjusted<br>{group.adjusted_p_value:.2g}" in plain
    assert "1,999 shuffles" in plain
    assert "1,000 bootstrap samples of the query's 3 timesteps" in plain


def test_bars_stay_within_their_length(answers: tuple[Attribution, ...]) -> None:
    (table,) = group_tables(answers[0])
    assert table.more == max(0, len(answers[0].group_totals["class"]) - 6)
    for bar in table.bars:
        assert 0 <= bar.interval[0] <= bar.interval[1] <= 100 + 1e-9
        assert 0 <= min(bar.share, bar.expected) <= max(bar.share, bar.expected) <= 100 + 1e-9
        assert bar.share * table.end == pytest.approx(100 * bar.group.positive_share)


def test_percentiles_against_the_null_are_said(text: str, answers: tuple[Attribution, ...]) -> None:
    for one in answers[0].proponents:
        assert f"above {one.null_percentile:.1f} % of random queries" in text
    assert "24 training images, chosen by seed 0" in text


def test_regions_stand_beside_the_whole_picture(attributor: Attributor, tmp_path: Path, html_page) -> None:
    picture = attributor.training_set.picture(5)
    answers = attributor.attribute_all(picture, label=3, top_k=4, regions=[(0, 0, 8, 4), (0, 4, 8, 8)])
    entry = ReportEntry(picture, "five", answers)
    whole, upper, lower = region_columns(entry)
    assert [column.title for column in (whole, upper, lower)] == ["whole picture", "box 0,0,8,4", "box 0,4,8,8"]
    assert len({column.picture for column in (whole, upper, lower)}) == 3
    shared = {one.row for one in answers[0].proponents} & {one.row for one in answers[2].proponents}
    assert overlap(upper, whole) == (len(shared), 4)
    attributor.report(tmp_path / "r.html", [entry])
    text = (tmp_path / "r.html").read_text()
    page = html_page(text)
    assert page.open == []
    assert f"{len(shared)} of 4 proponents are the whole picture's too" in text
    assert sum("outlined" in attributes["alt"] for attributes in page.all("img")) == 2
    for answer in answers:
        assert all(one.sample_id in text for one in (*answer.proponents, *answer.opponents))


def test_answer_about_a_region_alone_is_shown(attributor: Attributor, tmp_path: Path) -> None:
    picture = attributor.training_set.picture(5)
    answer = attributor.attribute(picture, label=3, top_k=2, mask=(0, 0, 8, 4), audit=None)
    attributor.report(tmp_path / "r.html", [ReportEntry(picture, "five", [answer])])
    text = (tmp_path / "r.html").read_text()
    assert "with the region box 0,0,8,4 outlined" in text
    assert "Percentiles" not in text


def test_headings_do_not_skip_a_level(text: str, html_page) -> None:
    levels = [int(tag[1]) for tag, _ in html_page(text).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_licence_and_author_are_on_the_card(attributor: Attributor, answers, tmp_path: Path) -> None:
    first = answers[0].proponents[0]
    credited = replace(first, groups={**first.groups, "licence": "CC BY 4.0", "author": "Ada"})
    answer = replace(answers[0], proponents=(credited,))
    write_report(
        tmp_path / "report.html", [ReportEntry(Image.new("L", (300, 500)), "x", [answer])], attributor.training_set
    )
    assert "Ada, CC BY 4.0" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("shift", "words"),
    [(1, "No training image has a negative score"), (-1, "No training image has a positive score")],
)
def test_page_says_when_every_score_has_one_sign(
    attributor: Attributor, answers, shift: int, words: str, tmp_path: Path
) -> None:
    def shifted(influences):
        return tuple(replace(one, score=shift * (1 + abs(one.score))) for one in influences)

    answer = replace(answers[0], proponents=shifted(answers[0].proponents), opponents=shifted(answers[0].opponents))
    attributor.report(tmp_path / "report.html", [ReportEntry(Image.new("L", (8, 8)), "x", [answer])])
    assert words in (tmp_path / "report.html").read_text()


def test_report_without_answers_is_refused(attributor: Attributor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        attributor.report(tmp_path / "report.html", [])
    assert not (tmp_path / "report.html").exists()


def test_answers_about_other_images_are_refused(attributor: Attributor, answers, tmp_path: Path) -> None:
    fewer = attributor.training_set.where(lambda sample: sample.label != 0)
    with pytest.raises(ConfigError, match="other training images"):
        write_report(tmp_path / "r.html", [ReportEntry(Image.new("L", (8, 8)), "x", answers)], fewer)
