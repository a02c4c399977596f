"""A query in, an answer out: ranks, percentiles, group totals, and what is refused."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from forebear.attribution import Attribution, Attributor, QueryConfig, StoreScorer
from forebear.errors import ConfigError, DataError, ForebearError, ModelError, SearchIndexError, StoreError
from forebear.estimators import DEFAULT_ESTIMATOR, ESTIMATORS
from forebear.files import read_json, write_json
from forebear.index import IndexConfig
from forebear.jobs import build_indexes
from forebear.run import Run

ROW = 5


@pytest.fixture(scope="module")
def embedded(attributor: Attributor):
    sample = attributor.training_set.samples[ROW]
    return attributor.embed_query(attributor.training_set.picture(ROW), sample.caption, sample.label)


@pytest.fixture(scope="module", params=[name for name in ESTIMATORS if name != "embedding"])
def answer(request: pytest.FixtureRequest, attributor: Attributor, embedded) -> Attribution:
    return attributor.score(embedded, request.param, top_k=6)


@pytest.fixture(scope="module")
def scores(attributor: Attributor, embedded, answer: Attribution) -> np.ndarray:
    """All scores of the same answer, from the stored vectors themselves: float64[N]. test_scoring.py checks these."""
    scorer = StoreScorer(attributor.run, attributor.store, attributor.training_set)
    return scorer.scores(answer.estimator, [embedded])[0]


@pytest.mark.parametrize("row", range(0, 24, 2))
def test_training_image_finds_itself(attributor: Attributor, row: int) -> None:
    sample = attributor.training_set.samples[row]
    picture = attributor.training_set.picture(row)
    answer = attributor.attribute(picture, sample.caption, sample.label, estimator="retrac-matched", top_k=1)
    assert answer.proponents[0].sample_id == sample.id
    assert answer.proponents[0].percentile == pytest.approx(100 * 23 / 24)
    # At equal timesteps and noise every cosine is 1, so the score is the sum of the weights, but for the projection.
    weights = sum(checkpoint.weight for checkpoint in answer.fingerprint.checkpoints)
    assert answer.proponents[0].score == pytest.approx(weights, rel=0.3)


def test_proponents_are_highest_and_opponents_lowest(answer: Attribution, scores: np.ndarray) -> None:
    close = {"rel": 1e-3, "abs": 1e-3 * np.abs(scores).max()}
    assert [one.score for one in answer.proponents] == pytest.approx(np.sort(scores)[::-1][:6].tolist(), **close)
    assert [one.score for one in answer.opponents] == pytest.approx(np.sort(scores)[:6].tolist(), **close)
    for one in (*answer.proponents, *answer.opponents):
        assert one.score == pytest.approx(scores[one.row], **close)
    assert [one.rank for one in answer.proponents] == [one.rank for one in answer.opponents] == [1, 2, 3, 4, 5, 6]


def test_influences_carry_their_sample(attributor: Attributor, answer: Attribution) -> None:
    for one in (*answer.proponents, *answer.opponents):
        sample = attributor.training_set.samples[one.row]
        assert (one.sample_id, one.caption, one.groups) == (sample.id, sample.caption, sample.groups)


def test_percentile_is_the_share_of_lower_scores(attributor: Attributor, embedded, answer: Attribution) -> None:
    every = attributor.score(embedded, answer.estimator, top_k=1000)
    assert len(every.proponents) == len(every.opponents) == 24
    values = np.array([one.score for one in every.proponents])
    for one in every.proponents:
        assert one.percentile == 100 * (values < one.score).sum() / 24
    assert every.proponents == tuple(sorted(every.proponents, key=lambda one: (-one.score, one.row)))
    assert [one.row for one in every.opponents] == [one.row for one in reversed(every.proponents)]


def test_group_totals_are_sums_over_all_samples(attributor: Attributor, embedded, answer: Attribution) -> None:
    every = attributor.score(embedded, answer.estimator, top_k=24).proponents
    positive = sum(max(one.score, 0) for one in every)
    totals = answer.group_totals["class"]
    assert sum(group.samples for group in totals) == 24
    assert [group.total for group in totals] == sorted((group.total for group in totals), reverse=True)
    for group in totals:
        mine = [one.score for one in every if one.groups["class"] == group.value]
        assert group.total == pytest.approx(sum(mine))
        assert group.positive_share == pytest.approx(sum(max(score, 0) for score in mine) / positive)
        assert group.data_share == len(mine) / 24


def test_answer_survives_pickle_and_json(answer: Attribution) -> None:
    assert pickle.loads(pickle.dumps(answer)) == answer
    read = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert read["proponents"][0]["sample_id"] == answer.proponents[0].sample_id
    assert read["sign"] == "a positive score means that training on the sample lowered the query's loss"
    heading, *rows = answer.table()
    assert len(rows) == 12
    assert {len(row) for row in rows} == {len(heading)}


def test_query_record_says_how_it_was_measured(attributor: Attributor, answer: Attribution) -> None:
    assert answer.query.timesteps == attributor.store.plan.timesteps
    assert (answer.query.draws, answer.query.seed) == (1, 0)
    # A training image meets the noise that the store met: the losses are the store's own.
    for name, losses in answer.query.losses.items():
        assert losses == pytest.approx(attributor.store.losses(name)[ROW].tolist(), rel=1e-5)
    assert answer.fingerprint.store_plan == attributor.store.plan.hash
    assert set(answer.seconds) == {"embed", "score", "audit"}


def test_attribute_all_compares_tracin_and_retrac(attributor: Attributor) -> None:
    picture = attributor.training_set.picture(ROW)
    answers = attributor.attribute_all(picture, label=3, first="cosine", top_k=2)
    assert [one.estimator for one in answers] == ["cosine", "tracin", "retrac"]
    alone = attributor.attribute(picture, label=3, estimator="tracin", top_k=2)
    assert answers[1].proponents == alone.proponents


def test_path_picture_and_array_are_one_query(attributor: Attributor, embedded, tmp_path: Path) -> None:
    picture = attributor.training_set.picture(ROW)
    picture.save(tmp_path / "query.png")
    label = attributor.training_set.samples[ROW].label
    array = attributor.training_set.pixels([ROW], 8, 1)[0]
    for image in (tmp_path / "query.png", str(tmp_path / "query.png"), array):
        again = attributor.embed_query(image, label=label).embeddings
        for one, other in zip(again, embedded.embeddings, strict=True):
            np.testing.assert_array_equal(one.unit_matched, other.unit_matched)


def test_paper_query_measures_100_timesteps_with_16_draws(attributor: Attributor) -> None:
    plan = attributor.store.plan
    query = QueryConfig(paper=True)
    timesteps = query.chosen_timesteps(plan, 1000)
    assert timesteps == tuple(np.linspace(1, 999, 100).astype(int).tolist())
    assert query.chosen_draws(plan) == 16


def test_recorded_store_gets_the_papers_timesteps_and_no_matched_answer(recorded_run: Run) -> None:
    attributor = Attributor.open(recorded_run.folder)
    assert len(QueryConfig().chosen_timesteps(attributor.store.plan, 1000)) == 100
    picture = attributor.training_set.picture(0)
    with pytest.raises(ConfigError, match=r"retrac-matched.*equal timesteps"):
        attributor.attribute(picture, label=1, estimator="retrac-matched", query=QueryConfig(timesteps=(500,)))


def test_restricted_timesteps_of_the_store_serve_every_estimator(attributor: Attributor) -> None:
    query = QueryConfig(timesteps=attributor.store.plan.timesteps[:1])
    picture = attributor.training_set.picture(ROW)
    label = attributor.training_set.samples[ROW].label
    answer = attributor.attribute(picture, label=label, estimator="retrac-matched", top_k=1, query=query)
    assert answer.proponents[0].row == ROW


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"estimator": "oracle"}, ConfigError, "oracle.*tracin"),
        ({"top_k": 0}, ConfigError, "top_k is 0"),
        ({"label": None}, ModelError, "label"),
        ({"query": QueryConfig(timesteps=(1000,))}, ConfigError, "between 0 and 999"),
        ({"image": "no/such.png"}, DataError, "does not exist"),
        ({"image": "."}, DataError, "cannot be read"),
        ({"image": np.zeros((2, 8, 8), np.float32)}, DataError, "1 or 3 channels"),
        ({"image": np.zeros((1, 8, 8), np.uint8)}, DataError, "uint8"),
        ({"image": np.full((1, 8, 8), 255.0)}, DataError, "divide"),
        ({"image": np.full((1, 8, 8), np.nan)}, DataError, r"\[-1, 1\]"),
    ],
)
def test_bad_queries_are_refused(attributor: Attributor, arguments: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        attributor.attribute(**{"image": Image.new("L", (8, 8)), "label": 3, **arguments})


def test_file_that_is_no_picture(attributor: Attributor, tmp_path: Path) -> None:
    (tmp_path / "query.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"query\.png cannot be used.*PNG"):
        attributor.attribute(tmp_path / "query.png", label=3)


@pytest.mark.parametrize(
    "settings",
    [{"paper": True, "draws": 2}, {"paper": True, "timesteps": (1,)}, {"timesteps": ()}, {"timesteps": (1, 1)}],
)
def test_contradictory_query_settings(settings: dict) -> None:
    with pytest.raises(ConfigError):
        QueryConfig(**settings)


def test_missing_index_says_how_to_build_it(writable_run: Run) -> None:
    shutil.rmtree(writable_run.index_folder("cosine"))
    attributor = Attributor.open(writable_run.folder)
    assert "cosine" not in attributor.estimators
    with pytest.raises(SearchIndexError, match=r"forebear index .*--estimator cosine"):
        attributor.attribute(Image.new("L", (8, 8)), label=3, estimator="cosine")
    with pytest.raises(SearchIndexError, match="forebear index"):
        Attributor.open(writable_run.folder, ["cosine"])
    shutil.rmtree(writable_run.folder / "index")
    with pytest.raises(SearchIndexError, match=r"has no index.*forebear index"):
        Attributor.open(writable_run.folder)


def test_default_estimator_answers_where_none_is_named(attributor: Attributor) -> None:
    picture = attributor.training_set.picture(ROW)
    assert attributor.attribute(picture, label=3, top_k=2, audit=None).estimator == DEFAULT_ESTIMATOR
    answers = attributor.attribute_all(picture, label=3, top_k=2, audit=None)
    assert [one.estimator for one in answers] == [DEFAULT_ESTIMATOR, "tracin", "retrac"]


def test_missing_curvature_says_how_to_build_it_before_anything_is_measured(writable_run: Run) -> None:
    shutil.rmtree(writable_run.folder / "curvature" / "unit_mean")
    with pytest.raises(SearchIndexError, match=r"forebear index --run .* --estimator retrac-ridge`"):
        # A model of classes without a label could not be measured.
        Attributor.open(writable_run.folder).attribute(Image.new("L", (8, 8)))
    build_indexes(writable_run, [DEFAULT_ESTIMATOR], IndexConfig())
    answer = Attributor.open(writable_run.folder).attribute(Image.new("L", (8, 8)), label=3, audit=None)
    assert answer.estimator == DEFAULT_ESTIMATOR


def test_index_of_other_weights_is_refused(writable_run: Run) -> None:
    path = writable_run.store_folder / "manifest.json"
    manifest = read_json(path, ForebearError, "")
    manifest["weights"] = {name: 2 * weight for name, weight in manifest["weights"].items()}
    write_json(path, manifest)
    with pytest.raises(SearchIndexError, match=r"weights.*forebear index"):
        Attributor.open(writable_run.folder, ["retrac"])
    build_indexes(writable_run, ["retrac"], IndexConfig())
    assert Attributor.open(writable_run.folder, ["retrac"]).estimators


def test_index_of_another_estimator_is_refused(writable_run: Run) -> None:
    shutil.rmtree(writable_run.index_folder("cosine"))
    shutil.copytree(writable_run.index_folder("tracin"), writable_run.index_folder("cosine"))
    with pytest.raises(SearchIndexError, match="'tracin', not of 'cosine'"):
        Attributor.open(writable_run.folder, ["cosine"])


def test_other_model_weights_are_refused(writable_run: Run) -> None:
    path = writable_run.model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "conv_in.bias": tensors["conv_in.bias"] + torch.tensor(1.0)}, path)
    with pytest.raises(StoreError, match=r"weights of checkpoint .*forebear embed"):
        Attributor.open(writable_run.folder).attribute(Image.new("L", (8, 8)), label=3)


def test_other_training_images_are_refused(writable_run: Run) -> None:
    text = writable_run.settings_file.read_text()
    writable_run.settings_file.write_text(text.replace("limit: 24", "limit: 23"))
    with pytest.raises(StoreError, match=r"training images.*forebear embed"):
        Attributor.open(writable_run.folder)


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        Attributor.open(tmp_path)


def test_unknown_estimator_is_refused_before_anything_is_built(digits_run: Run) -> None:
    with pytest.raises(ConfigError, match="oracle"):
        build_indexes(digits_run, ["oracle"], IndexConfig())


def test_query_embedded_in_parts_is_the_query_embedded_at_once(attributor: Attributor, embedded) -> None:
    first, *others = embedded.checkpoints
    picture = attributor.training_set.picture(ROW)
    sample = attributor.training_set.samples[ROW]
    early = attributor.embed_query(picture, sample.caption, sample.label, checkpoints=[first])
    late = attributor.embed_query(picture, sample.caption, sample.label, checkpoints=others)
    whole = early.completed(late)
    assert whole.record.preliminary == (first,)
    assert replace(whole.record, preliminary=()) == embedded.record
    for name in ("tracin", "retrac-ridge", "pixel"):
        np.testing.assert_array_equal(
            [one.score for one in attributor.score(whole, name, 24, None).proponents],
            [one.score for one in attributor.score(embedded, name, 24, None).proponents],
        )


def test_parts_of_a_query_that_do_not_fit_are_refused(attributor: Attributor, embedded) -> None:
    first, *others = embedded.checkpoints
    picture = attributor.training_set.picture(ROW)
    early = attributor.embed_query(picture, label=1, checkpoints=[first])
    with pytest.raises(ConfigError, match="embed it at the others too"):
        attributor.score(early, "retrac")
    with pytest.raises(ConfigError, match="each checkpoint once"):
        early.completed(early)
    with pytest.raises(ConfigError, match="in different ways"):
        early.completed(attributor.embed_query(picture, label=2, checkpoints=others))
    with pytest.raises(ConfigError, match="no checkpoint step-9; it has step-"):
        attributor.embed_query(picture, label=1, checkpoints=["step-9"])


def test_gradients_of_some_parameters_are_a_part_of_the_whole(attributor: Attributor, embedded) -> None:
    sample = attributor.training_set.samples[ROW]

    def mean(*parameters: str) -> np.ndarray:
        found = attributor.embed_query(
            attributor.training_set.picture(ROW), sample.caption, sample.label, QueryConfig(parameters=parameters)
        )
        assert found.record.parameters == parameters
        return found.embeddings[-1].mean

    near, far = mean("up_blocks.*", "conv_out.*"), mean("!up_blocks.*", "!conv_out.*")
    assert np.linalg.norm(near) > 0
    assert np.linalg.norm(far) > 0
    np.testing.assert_allclose(near + far, embedded.embeddings[-1].mean, atol=1e-5 * np.linalg.norm(near + far))


def test_gradients_of_some_parameters_tell_no_near_copies(attributor: Attributor) -> None:
    sample = attributor.training_set.samples[ROW]
    found = [
        attributor.attribute(attributor.training_set.picture(ROW), label=sample.label, query=query).memorisation
        for query in (QueryConfig(), QueryConfig(parameters=("up_blocks.*",)))
    ]
    assert all(one is not None for one in found)
    whole, part = ({one.measure for one in copies.nearest} for copies in found if copies is not None)
    assert whole - part == {"retrac-matched"}


def test_parameters_that_are_not_there_are_refused(attributor: Attributor) -> None:
    with pytest.raises(ConfigError, match="no parameter matches the pattern 'nowhere"):
        attributor.embed_query(attributor.training_set.picture(ROW), query=QueryConfig(parameters=("nowhere.*",)))
    assert attributor.measures_apart("conv_out.*")
    assert attributor.measures_apart("!conv_out.*")
    assert not attributor.measures_apart("nowhere.*")
    assert not attributor.measures_apart("!nowhere.*")


@pytest.mark.parametrize("load", [0.0, 1e9])
def test_checkpoints_measured_together_give_the_same_bits(
    digits_run: Run, monkeypatch: pytest.MonkeyPatch, load: float
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    apart, together = (Attributor.open(digits_run.folder, threads=threads) for threads in (1, 3))
    pictures = [(apart.training_set.picture(ROW), "", 1)]
    assert len(apart.store.plan.checkpoints) > 1
    for by_timestep in (False, True):
        one, other = (each.embed_queries(pictures, by_timestep=by_timestep) for each in (apart, together))
        for expected, found in zip(one, other, strict=True):
            assert found.record == expected.record
            for column in expected.embeddings[0].vectors:
                for mine, theirs in zip(found.embeddings, expected.embeddings, strict=True):
                    np.testing.assert_array_equal(mine.column(column), theirs.column(column))


def test_what_fails_at_checkpoints_measured_together_is_told(digits_run: Run) -> None:
    together = Attributor.open(digits_run.folder, threads=3)
    with pytest.raises(ConfigError, match="timestep"):
        together.embed_query(together.training_set.picture(ROW), label=1, query=QueryConfig(timesteps=(10**6,)))


def test_a_store_that_moved_is_missed_clearly_and_nothing_is_lost(writable_run: Run, tmp_path: Path) -> None:
    picture = Image.new("L", (8, 8))
    before = Attributor.open(writable_run.folder).attribute(picture, label=3).proponents
    writable_run.store_folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"forebear embed"):
        Attributor.open(writable_run.folder)
    (tmp_path / "elsewhere").rename(writable_run.store_folder)
    moved = writable_run.folder.rename(writable_run.folder.with_name("moved"))  # the whole run may move
    assert Attributor.open(moved).attribute(picture, label=3).proponents == before


def test_whole_gradients_have_no_part(recorded_run: Run) -> None:
    whole = Attributor.open(recorded_run.folder)
    assert not whole.measures_apart("conv_out.*")
    with pytest.raises(ConfigError, match="whole gradients"):
        whole.embed_query(
            whole.training_set.picture(ROW), label=1, query=QueryConfig(timesteps=(9,), parameters=("conv_out.*",))
        )
