"""Pictures that are traced together: each gets its own answer, or its own error, as if it were alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from forebear.attribution.answer import QueryRecord
from forebear.errors import ConfigError, DataError, ModelError
from forebear_serve.engine.events import TraceQuery
from forebear_serve.engine.tracer import Tracer
from forebear_serve.schemas import AttributeOptions, Mode, Region, Traced
from forebear_serve.settings import AttributorSettings, ServeSettings

ROUNDING = 1e-4
"""Of scores, relative to the largest: matrix libraries add in another order for another number of rows."""
FAST, EXACT = AttributeOptions(top_k=24), AttributeOptions(top_k=24, mode=Mode.EXACT)
BOXED = AttributeOptions(top_k=24, region=Region(box=(0, 0, 4, 8)))


def query(seed: int, options: AttributeOptions = FAST, label: int | None = 1) -> TraceQuery:
    pixels = np.random.default_rng(seed).uniform(-1, 1, (1, 8, 8)).astype(np.float32)
    return TraceQuery(pixels, "", label, options)


def scores(traced: Traced | Exception) -> dict[str, float]:
    assert isinstance(traced, Traced), traced
    return {one.sample_id: one.score for one in traced.attributions[0].proponents}


@pytest.fixture(scope="module")
def tracer(settings: ServeSettings) -> Tracer:
    return Tracer(settings.run, settings.attributor, settings.limits)


@examples(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([FAST, EXACT, BOXED])), min_size=2, max_size=5))
def test_company_changes_no_answer(tracer: Tracer, asked: list[tuple[int, AttributeOptions]]) -> None:
    queries = [query(seed, options) for seed, options in asked]
    tracer._embedded.clear()
    together = tracer.trace_all(queries)
    tracer._embedded.clear()
    for one, answer in zip(queries, together, strict=True):
        mine, his = scores(answer), scores(tracer.trace(one))
        scale = max(map(abs, his.values()))
        assert mine.keys() == his.keys()
        assert max(abs(mine[name] - his[name]) for name in mine) <= ROUNDING * scale


def test_a_bad_picture_fails_alone(tracer: Tracer) -> None:
    tracer._embedded.clear()
    spoilt = query(7)
    spoilt.pixels[0, 0, 0] = np.nan
    bad = (query(8, label=99), spoilt, query(9, AttributeOptions(top_k=1000)))
    answers = tracer.trace_all([query(1), bad[0], query(2), bad[1], bad[2]])
    assert [type(one) for one in answers] == [Traced, ModelError, Traced, DataError, ConfigError]
    assert scores(answers[0]) == scores(tracer.trace(query(1)))
    with pytest.raises(ModelError, match="came with 99"):
        tracer.trace(bad[0])


def test_pictures_that_wait_are_embedded_together_and_times_are_told(tracer: Tracer) -> None:
    tracer._embedded.clear()
    batches: list[int] = []
    embed = tracer._attributor.embed_queries

    def counted(pictures: Sequence[Any], *args: Any, **options: Any) -> Any:
        batches.append(len(pictures))
        return embed(pictures, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracer._attributor, "embed_queries", counted)
        answers = tracer.trace_all([query(1), query(2), query(1), query(3, EXACT), query(4, EXACT), query(5, BOXED)])
        tracer.trace_all([query(1), query(2)])
    assert batches == [2, 2]  # the same picture once, a region alone, and those that are known not again
    for one in answers:
        assert isinstance(one, Traced)
        stages = one.timings.stages
        assert sum(stages.values()) == pytest.approx(one.timings.total)
        assert min(stages.values()) >= -1e-6


def test_fast_measures_a_part_of_what_exact_does(settings: ServeSettings) -> None:
    def measured(options: AttributeOptions, **changed: Any) -> QueryRecord:
        attributor = replace(settings.attributor, **{"exact_timesteps": 8, "fast_timesteps": 2} | changed)
        return Tracer(settings.run, attributor, settings.limits).trace(query(1, options)).attributions[0].query

    exact, fast = measured(EXACT), measured(FAST)
    assert fast.timesteps == (exact.timesteps[2], exact.timesteps[6])
    # The tiny model has no attention there; patterns that match nothing are passed over.
    given = AttributorSettings().fast_parameters
    assert fast.parameters == tuple(one for one in given if "to_" not in one and "attentions" not in one)
    assert exact.parameters == ()
    assert measured(FAST, fast_parameters=("transformer_blocks.*",)).parameters == ()  # of another kind of model
    assert measured(FAST, fast_parameters=("transformer_blocks.*", "!conv_out.*")).parameters == ()
    assert measured(FAST, fast_timesteps=None).timesteps != fast.timesteps
    matched = AttributeOptions(top_k=24, estimators=("retrac-matched",))
    assert measured(matched).parameters == ()  # it compares timesteps one by one, as the store has them
