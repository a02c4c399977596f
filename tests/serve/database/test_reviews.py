"""Reviews: opened once, changed by one at a time, found by what they hold, and every change in the log."""

import math
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from forebear_serve.database import (
    AttributionEvidence,
    Change,
    ConflictError,
    Database,
    InvalidEntryError,
    NewReview,
    NotFoundError,
    Review,
    ReviewFilter,
    Reviews,
    Verdict,
)
from forebear_serve.database.review import logged

EVIDENCE = AttributionEvidence('{"dataset": "abc"}', "retrac", -0.25, 3)
FULL = NewReview("demo", "sample", "picture", "look\nat this", {"artist": "Ana", "licence": "CC"}, EVIDENCE)


def at_once(works: list[Callable[[], object]]) -> list[object]:
    """Results, or errors, of works that begin at the same moment in a thread each."""
    gate, results = threading.Barrier(len(works)), [None] * len(works)

    def run(place: int) -> None:
        gate.wait()
        try:
            results[place] = works[place]()
        except Exception as problem:
            results[place] = problem

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_review_comes_back_as_it_was_given(reviews: Reviews) -> None:
    made, is_new = reviews.create(FULL, actor="ana")
    assert is_new
    assert reviews.get(made.id) == made
    assert (made.run, made.sample_id, made.picture_id, made.note) == ("demo", "sample", "picture", "look\nat this")
    assert (made.groups, made.attribution) == (FULL.groups, EVIDENCE)
    assert (made.state, made.verdict, made.version, made.creator, made.reviewer) == ("open", None, 1, "ana", None)
    assert made.created == made.changed
    assert made.created.utcoffset() is not None


def test_a_sample_and_picture_have_one_open_review(reviews: Reviews) -> None:
    first, _ = reviews.create(FULL, actor="ana")
    assert reviews.create(replace(FULL, note="other"), actor="bob") == (first, False)
    assert reviews.create(replace(FULL, picture_id=""), actor="bob")[1]
    assert reviews.create(replace(FULL, run="other"), actor="bob")[1]
    reviews.change(Change(first.id, 1, Verdict.KEEP), actor="bob")
    again, is_new = reviews.create(FULL, actor="ana")
    assert is_new
    assert again.id != first.id
    with pytest.raises(ConflictError, match="another one of its sample is open"):
        reviews.change(Change(first.id, 2, reopen=True), actor="bob")
    assert reviews.get(first.id).verdict == "keep"


def test_creating_at_once_makes_one_review(reviews: Reviews) -> None:
    results = at_once([lambda: reviews.create(FULL, actor="ana") for _ in range(8)])
    assert len({made.id for made, _ in results}) == 1
    assert sorted(is_new for _, is_new in results) == [False] * 7 + [True]
    assert len(reviews.history(results[0][0].id)) == 1


def test_of_changes_at_once_one_wins_and_the_others_hear_of_it(reviews: Reviews) -> None:
    made, _ = reviews.create(FULL, actor="ana")
    results = at_once(
        [
            lambda number=number: reviews.change(Change(made.id, 1, note=f"by {number}"), actor=f"r{number}")
            for number in range(8)
        ]
    )
    won = [one for one in results if isinstance(one, Review)]
    assert len(won) == 1
    assert reviews.get(made.id) == won[0]
    assert won[0].version == 2
    for lost in results:
        assert lost is won[0] or (isinstance(lost, ConflictError) and "(version 2, not 1); read it again" in str(lost))
    assert len(reviews.history(made.id)) == 2


def test_changes_leave_the_rest_as_it_is(reviews: Reviews) -> None:
    made, _ = reviews.create(FULL, actor="ana")
    decided = reviews.change(Change(made.id, 1, Verdict.REMOVE), actor="bob")
    assert (decided.verdict, decided.note, decided.state) == ("remove", made.note, "decided")
    assert (decided.version, decided.creator, decided.reviewer) == (2, "ana", "bob")
    assert decided.changed > made.changed
    noted = reviews.change(Change(made.id, 2, note=""), actor="eve")
    assert (noted.verdict, noted.note, noted.groups) == ("remove", "", made.groups)
    assert reviews.change(Change(made.id, 3, Verdict.REMOVE, ""), actor="eve") == noted  # nothing to do
    opened = reviews.change(Change(made.id, 3, reopen=True), actor="eve")
    assert (opened.state, opened.version) == ("open", 4)


def test_a_bulk_change_is_made_as_a_whole_or_not_at_all(reviews: Reviews) -> None:
    made = [one for one, _ in reviews.create_all([NewReview("demo", str(n)) for n in range(5)], actor="ana")]
    reviews.change(Change(made[3].id, 1, note="meanwhile"), actor="eve")
    wanted = [Change(one.id, 1, Verdict.REMOVE) for one in reversed(made)]
    with pytest.raises(ConflictError, match=f"review {made[3].id} was changed by eve meanwhile"):
        reviews.change_all(wanted, actor="bob")
    assert reviews.count(ReviewFilter(state="decided")) == 0
    wanted = [replace(one, version=2) if one.review_id == made[3].id else one for one in wanted]
    done = reviews.change_all(wanted, actor="bob", request_id="r7")
    assert [one.id for one in done] == [one.id for one in reversed(made)]
    assert reviews.count(ReviewFilter(verdict=Verdict.REMOVE)) == 5
    assert {reviews.history(one.id)[-1].request_id for one in made} == {"r7"}
    with pytest.raises(InvalidEntryError, match="named twice"):
        reviews.change_all([wanted[0], wanted[0]], actor="bob")
    with pytest.raises(NotFoundError, match="no review 999"):
        reviews.change_all([Change(made[0].id, 2, Verdict.KEEP), Change(999, 1)], actor="bob")
    assert reviews.get(made[0].id).verdict == "remove"


def test_several_are_opened_in_their_order_and_each_once(reviews: Reviews) -> None:
    there, _ = reviews.create(NewReview("demo", "b"), actor="ana")
    asked = [NewReview("demo", name, note=str(place)) for place, name in enumerate("cbacd")]
    made = reviews.create_all(asked, actor="bob")
    assert [(one.sample_id, is_new) for one, is_new in made] == [
        ("c", True), ("b", False), ("a", True), ("c", False), ("d", True),
    ]  # fmt: skip
    assert made[1][0] == there
    assert made[3][0] == made[0][0]
    assert made[0][0].note == "0"
    assert [one.sample_id for one in reviews.all()] == ["d", "a", "c", "b"]
    with pytest.raises(InvalidEntryError):
        reviews.create_all([NewReview("demo", "x"), NewReview("demo", "")], actor="bob")
    assert reviews.count() == 4
    for number in (0, 1001):
        with pytest.raises(InvalidEntryError, match="give 1 to 1,000"):
            reviews.create_all([NewReview("demo", "x")] * number, actor="bob")


def test_the_log_holds_every_change_and_cannot_be_changed(database: Database, reviews: Reviews) -> None:
    made, _ = reviews.create(FULL, actor="ana", request_id="r1")
    changed = reviews.change(Change(made.id, 1, Verdict.KEEP, "fine"), actor="bob", request_id="r2")
    first, second = reviews.history(made.id)
    assert (first.actor, first.action, first.before, first.after, first.request_id) == (
        "ana", "create", None, logged(made), "r1",
    )  # fmt: skip
    assert (second.actor, second.before, second.after, second.request_id) == (
        "bob",
        logged(made),
        logged(changed),
        "r2",
    )
    assert first.time <= second.time
    columns = "id, time, actor, action, subject, subject_id, after"
    for statement in (
        "UPDATE audit_log SET actor = 'eve'",
        "DELETE FROM audit_log",
        f"INSERT OR REPLACE INTO audit_log ({columns}) SELECT {columns} FROM audit_log"
        if "sqlite" in database.place
        else "TRUNCATE audit_log",
    ):
        with pytest.raises(SQLAlchemyError, match="the audit log is append-only"), database._engine.begin() as plain:
            plain.execute(text(statement))
    if "sqlite" in database.place:  # nor by another program, with settings of its own
        other = sqlite3.connect(database.place)
        for way in ("REPLACE INTO", "INSERT OR REPLACE INTO"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(f"{way} audit_log ({columns}) SELECT {columns} FROM audit_log")
        other.close()
    assert reviews.history(made.id) == (first, second)
    with pytest.raises(NotFoundError):
        reviews.history(99)


def test_a_change_that_cannot_be_logged_is_not_made(database: Database, reviews: Reviews) -> None:
    made, _ = reviews.create(FULL, actor="ana")
    with database.writing() as session:
        session.execute(text("ALTER TABLE audit_log RENAME TO elsewhere"))
    with pytest.raises(Exception, match="audit_log"):
        reviews.change(Change(made.id, 1, Verdict.KEEP), actor="bob")
    assert reviews.get(made.id) == made


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"sample_id": ""}, "sample_id is empty"),
        ({"sample_id": "a\u2028b"}, r"sample_id holds the character U\+2028"),
        ({"sample_id": "a "}, "sample_id begins or ends with a blank"),
        ({"run": "x" * 201}, "run has 201 characters; give at most 200"),
        ({"note": "x" * 4001}, "note has 4,001 characters"),
        ({"note": "a\0b"}, r"U\+0000"),
        ({"note": "\ud800"}, r"U\+D800"),
        ({"groups": {"": "x"}}, "group name is empty"),
        ({"groups": {"artist": "a\tb"}}, "group artist"),
        ({"attribution": replace(EVIDENCE, score=math.nan)}, "score is nan"),
        ({"attribution": replace(EVIDENCE, rank=0)}, "rank is 0"),
        ({"attribution": replace(EVIDENCE, fingerprint="x" * 16_001)}, "fingerprint has 16,001"),
    ],
)
def test_values_that_cannot_be_kept_are_refused(reviews: Reviews, change: dict[str, object], remedy: str) -> None:
    with pytest.raises(InvalidEntryError, match=remedy):
        reviews.create(replace(FULL, **change), actor="ana")
    assert reviews.count() == 0


def test_questions_that_have_no_answer_are_refused(reviews: Reviews) -> None:
    for limit in (0, 1001):
        with pytest.raises(InvalidEntryError, match="give 1 to 1,000"):
            reviews.list(limit=limit)
    for after in ("", "x", "-1", "1.5", "9" * 30, "\u0663"):
        with pytest.raises(InvalidEntryError, match="not the `next` of a page"):
            reviews.list(after=after)
    for number in (0, -1, 2**70):
        for question in (reviews.get, reviews.history, lambda one: reviews.change(Change(one, 1), actor="ana")):
            with pytest.raises(NotFoundError):
                question(number)
    with pytest.raises(InvalidEntryError, match=r"text holds the character U\+0000"):
        reviews.list(ReviewFilter(text="a\0"))
    with pytest.raises(InvalidEntryError, match="not both"):
        reviews.change(Change(1, 1, Verdict.KEEP, reopen=True), actor="ana")


def test_the_denied_are_those_that_any_review_removes(reviews: Reviews) -> None:
    verdicts = {"a": ("remove", "keep"), "b": ("keep",), "c": ("licence-issue",), "d": ("remove", "remove"), "e": ()}
    for sample, given_verdicts in verdicts.items():
        for place, verdict in enumerate(given_verdicts):
            made, _ = reviews.create(NewReview("demo", sample, f"picture {place}"), actor="ana")
            reviews.change(Change(made.id, 1, Verdict(verdict)), actor="ana")
    reviews.create(NewReview("demo", "e"), actor="ana")
    assert reviews.denied() == ("a", "d")
    assert reviews.denied(licence_issues=True) == ("a", "c", "d")
    assert reviews.denied(run="other") == ()
    (found,) = reviews.list(ReviewFilter(sample_id="a", verdict=Verdict.REMOVE)).reviews
    reviews.change(Change(found.id, 2, Verdict.KEEP), actor="ana")
    assert reviews.denied() == ("d",)


NOTES = st.text(st.sampled_from("aAbB%_\\'é \n"), max_size=4)
NEW = st.builds(
    NewReview,
    run=st.sampled_from(["demo", "other"]),
    sample_id=st.sampled_from(["s1", "s2"]),
    picture_id=st.sampled_from(["", "p1"]),
    note=NOTES.filter(lambda note: note == "" or note.strip() != ""),
    groups=st.dictionaries(st.sampled_from(["artist", "licence"]), st.sampled_from(["Ana", "CC"])),
)
MADE = st.lists(st.tuples(NEW, st.none() | st.sampled_from(Verdict), st.sampled_from(["ana", "bob"])), max_size=12)
FILTERS = st.builds(
    ReviewFilter,
    verdict=st.none() | st.sampled_from(Verdict),
    state=st.sampled_from([None, "open", "decided"]),
    run=st.sampled_from([None, "demo"]),
    sample_id=st.sampled_from([None, "s1"]),
    picture_id=st.sampled_from([None, "", "p1"]),
    reviewer=st.sampled_from([None, "bob"]),
    text=st.none() | NOTES.filter(lambda one: one.strip() != ""),
    group=st.sampled_from([None, ("artist", "Ana"), ("licence", "Ana")]),
)


def fits(review: Review, chosen: ReviewFilter) -> bool:
    """What the filter means, said in Python."""
    lower = str.maketrans("AB", "ab")
    wanted = (
        (chosen.verdict, review.verdict),
        (chosen.state, review.state),
        (chosen.run, review.run),
        (chosen.sample_id, review.sample_id),
        (chosen.picture_id, review.picture_id),
        (chosen.reviewer, review.reviewer),
    )
    return (
        all(asked is None or asked == value for asked, value in wanted)
        and (chosen.text is None or chosen.text.translate(lower) in review.note.translate(lower))
        and (chosen.group is None or review.groups.get(chosen.group[0]) == chosen.group[1])
    )


@pytest.fixture(scope="module")
def emptied(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A database that examples empty for themselves."""
    return Database.open(tmp_path_factory.mktemp("run"))


@settings(max_examples=20)
@given(made=MADE, chosen=FILTERS, limit=st.integers(1, 5))
def test_all_pages_together_are_all_reviews_that_fit_once(
    emptied: Database, made: list, chosen: ReviewFilter, limit: int
) -> None:
    with emptied.writing() as session:
        for table in ("review_groups", "reviews"):
            session.execute(text(f"DELETE FROM {table}"))
    reviews = Reviews(emptied)
    for new, verdict, reviewer in made:
        review, _ = reviews.create(new, actor="ana")
        if verdict is not None:
            reviews.change(Change(review.id, review.version, verdict), actor=reviewer)
    everything = list(reviews.all())
    expected = [review for review in everything if fits(review, chosen)]
    pages, after = [], None
    while True:
        page = reviews.list(chosen, after=after, limit=limit)
        pages.append(page)
        if (after := page.next) is None:
            break
        assert len(page.reviews) == limit
        reviews.create(NewReview("later", str(len(pages))), actor="ana")  # what comes in meanwhile moves nothing
    seen = [review for page in pages for review in page.reviews]
    assert [one for one in seen if one.run != "later"] == expected
    assert [one.id for one in everything] == sorted((one.id for one in everything), reverse=True)
    later = sum(fits(one, chosen) and one.run == "later" for one in reviews.all())
    assert reviews.count(chosen) == len(expected) + later
