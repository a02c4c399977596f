"""What stands out in a training set: outliers, generally influential images, duplicates, groups.

Everything comes from the store, without the model. An audit of many samples takes minutes, once: it is kept in the run
and goes on while nobody waits for it. A change of the list of removed samples begins anew.
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.auditing import AuditConfig, reference_rows
from forebear.attribution.decoded import DecodedPictures
from forebear.attribution.live import LiveRun
from forebear.attribution.memorisation import SAME
from forebear.attribution.nearest import MEASURES, PixelMeasure, nearest
from forebear.attribution.opening import open_whole
from forebear.estimators import estimator
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.influence import given
from forebear.evaluation.isolation import isolation, nearest_by_cosine, received
from forebear.evaluation.metrics import gini, lorenz
from forebear.evaluation.specificity import LORENZ_POINTS, store_norms
from forebear.files import fingerprint, fingerprint_of_items, whole_file
from forebear.run import Run
from forebear_serve.audit_schemas import (
    Concentration,
    Duplicate,
    DuplicatePage,
    GroupAudit,
    GroupsAudit,
    Influential,
    InfluentialPage,
    Nearness,
    Norms,
    Outlier,
    OutlierPage,
    OutlierScore,
)
from forebear_serve.engine.catalogue import sample_info
from forebear_serve.problems import invalid, unavailable
from forebear_serve.settings import Limits

FOLDER, FORMAT = "audits", 1
"""Where results are kept in the run, and the version of how they are computed."""
NEIGHBOURS = 0.05
"""Isolation asks for the neighbour with this share of the samples nearer, as the evaluation of outliers does."""
INFLUENTIAL = 0.05
"""Share of samples that count as generally influential."""
PATIENCE, AGAIN_SECONDS = 0.8, 10
"""Part of a request's time for which it waits for an audit, and when to ask again after that."""
PICTURES_AT_ONCE = 1024

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


class Audits:
    """One audit is computed at a time; removed samples are in none."""

    def __init__(self, run: Path, default_estimator: str, limits: Limits) -> None:
        opened = Run(run)
        self._known = _Known(LiveRun.of(opened, *open_whole(opened)))
        self._default, self._limits = default_estimator, limits
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="audit")

    def check(self) -> None:
        """Whether the store can still be read: raises when not."""
        known = self._current()
        known.live.store.norms(known.live.store.plan.checkpoint_names[-1])

    def outliers(self, name: str | None, score: OutlierScore, after: int, limit: int) -> OutlierPage:
        """From rank `after` + 1 on. Raises ConfigError for an estimator that the store does not serve."""
        name = name or self._default
        kind = "isolation" if score is OutlierScore.ISOLATION else "received"
        known, arrays = self._arrays(kind, name)
        values: Floats = arrays[score.value]
        strange = -values if score is OutlierScore.SUPPORT else values
        rows, following = self._ranked(strange, after, limit)
        found = tuple(
            Outlier(rank=after + place, value=values[row], sample=sample_info(known.live, row))
            for place, row in enumerate(rows, 1)
        )
        return OutlierPage(estimator=name, score=score, outliers=found, total=len(values), next=following)

    def influential(self, name: str | None, after: int, limit: int) -> InfluentialPage:
        """From rank `after` + 1 on."""
        name = name or self._default
        known, arrays = self._arrays("given", name)
        rows, following = self._ranked(arrays["size"], after, limit)
        found = tuple(
            Influential(
                rank=after + place,
                influence=arrays["size"][row],
                share=arrays["share"][row],
                sample=sample_info(known.live, row),
            )
            for place, row in enumerate(rows, 1)
        )
        references, total = len(known.references), len(arrays["size"])
        return InfluentialPage(estimator=name, references=references, influential=found, total=total, next=following)

    def duplicates(self, measure: Nearness, name: str | None, after: int, limit: int) -> DuplicatePage:
        """Pairs from rank `after` + 1 on. An estimator is for the measure `gradient`; raises Problem 422 otherwise."""
        is_gradient = measure is Nearness.GRADIENT
        if name is not None and not is_gradient:
            raise invalid(f"the measure {measure} has no estimator; leave it out, or ask for the measure gradient")
        used = (name or self._default) if is_gradient else None
        known, arrays = self._arrays(measure.value, used)
        pairs, values = _pairs(arrays["rows"], arrays["values"])
        places, following = self._ranked(values if is_gradient else -values, after, limit)
        found = tuple(
            Duplicate(
                rank=after + place,
                value=values[pair],
                same=not is_gradient and bool(values[pair] <= SAME),
                first=sample_info(known.live, int(pairs[pair, 0])),
                second=sample_info(known.live, int(pairs[pair, 1])),
            )
            for place, pair in enumerate(places, 1)
        )
        return DuplicatePage(measure=measure, estimator=used, duplicates=found, total=len(pairs), next=following)

    def concentration(self, name: str | None) -> Concentration:
        """How unevenly the samples share the references' positive influence."""
        name = name or self._default
        known, arrays = self._arrays("given", name)
        curve = lorenz(arrays["share"])
        points = np.interp(np.linspace(0, 1, LORENZ_POINTS), np.linspace(0, 1, len(curve)), curve)
        return Concentration(
            estimator=name,
            references=len(known.references),
            samples=len(arrays["share"]),
            gini=gini(arrays["share"]) if arrays["share"].any() else 0.0,
            lorenz=tuple(points.tolist()),
        )

    def norms(self) -> Norms:
        """Quartiles of the training gradients' norms, by checkpoint and timestep."""
        known = self._current()
        return Norms.model_validate({"checkpoints": self._waited(known, "norms", lambda: store_norms(known.evaluated))})

    def groups(self, column: str | None, name: str | None, limit: int) -> tuple[GroupsAudit, ...]:
        """Of each group column, or one. Raises Problem 422 for one that is not there."""
        name = name or self._default
        known, own = self._arrays("received", name)
        known, arrays = self._arrays("given", name)
        names = known.live.training_set.group_names
        if column is not None and column not in names:
            raise invalid(f"there is no group column {column[:80]}; choose of {', '.join(names) or 'none'}")
        count = len(arrays["size"])
        top, _ = self._ranked(arrays["size"], 0, math.ceil(INFLUENTIAL * count))
        marked = np.zeros(count)
        marked[top] = 1.0
        facts = {"self": own["self"], "size": arrays["size"], "share": arrays["share"], "influential": marked}
        return tuple(_group(known.live, one, facts, limit) for one in names if column in (None, one))

    def _ranked(self, values: Floats, after: int, limit: int) -> tuple[list[int], int | None]:
        """Places of the values from the (`after` + 1)-th highest on, and what asks for the next ones."""
        order = np.argsort(-values, kind="stable")[after : after + limit]
        following = after + len(order)
        return order.tolist(), following if len(order) and following < len(values) else None

    def _current(self) -> "_Known":
        with self._lock:
            live = self._known.live.current()
            if live is not self._known.live:
                self._known = _Known(live)
            return self._known

    def _arrays(self, kind: str, name: str | None) -> tuple["_Known", Arrays]:
        known = self._current()
        if name is not None:
            estimator(name)  # an unknown one is refused before anything waits
            known.evaluated.estimators([name])
        arrays: Arrays = self._waited(known, f"{kind}-{name}", lambda: known.arrays(kind, name))
        return known, arrays

    def _waited(self, known: "_Known", key: str, work: Callable[[], Any]) -> Any:
        """What the work gives, done once; raises Problem 503 when it takes longer than a request may."""
        with self._lock:
            if key not in known.results:
                known.results[key] = self._worker.submit(work)
            result = known.results[key]
        try:
            return result.result(self._limits.seconds * PATIENCE)
        except TimeoutError:
            if result.done():
                raise
            raise unavailable("this audit is being computed and goes on; ask again", AGAIN_SECONDS) from None
        finally:
            if result.done() and result.exception() is not None:
                with self._lock:
                    known.results.pop(key, None)  # asked again, it is tried again


class _Known:
    """Results while the list of removed samples stays as it is."""

    def __init__(self, live: LiveRun) -> None:
        self.live = live
        self.evaluated = EvaluatedRun(live.run, live.store, live.training_set)
        self.results: dict[str, Future[Any]] = {}
        audit = AuditConfig()
        self.references = np.array(reference_rows(len(live.store), audit.references, audit.seed), np.int64)
        self._samples = fingerprint_of_items(live.store.ids())

    def arrays(self, kind: str, name: str | None) -> Arrays:
        """From the run, or computed and kept there; one file for each kind and estimator, the last one's."""
        file = self.live.run.folder / FOLDER / f"{kind}{f'-{name}' if name else ''}.npz"
        key = fingerprint([FORMAT, self.live.store.plan.hash, self._samples, kind, name])
        known = _read(file, key)
        if known is not None:
            return known
        arrays = self._computed(kind, name)
        kept: dict[str, Any] = {"key": np.array(key), **arrays}
        with suppress(OSError), whole_file(file) as part, part.open("wb") as handle:  # a disk may be read-only
            np.savez(handle, **kept)
        return arrays

    def _computed(self, kind: str, name: str | None) -> Arrays:
        if kind in MEASURES:
            return self._nearest_pictures("pixel" if kind == "pixel" else "shifted")
        if name is None:
            raise ValueError(f"{kind} needs an estimator")
        if kind == "received":
            own, support = received(self.evaluated, name)
            return {"self": own, "support": support}
        if kind == "isolation":
            return {"isolation": isolation(self.evaluated, name, NEIGHBOURS)}
        if kind == "given":
            found = given(self.evaluated, name, self.references)
            return {"size": found.size, "share": found.share}
        rows, cosines = nearest_by_cosine(self.evaluated, name)
        return {"rows": rows, "values": cosines}

    def _nearest_pictures(self, measure: PixelMeasure) -> Arrays:
        channels, size, _ = self.evaluated.sides.picture_shape
        pictures = DecodedPictures.of(self.live.run, self.live.training_set, channels, size)
        found = []
        for first in range(0, len(pictures), PICTURES_AT_ONCE):
            queries = pictures.fine[first : first + PICTURES_AT_ONCE].astype(np.float32) / 127.5 - 1.0
            itself = np.arange(first, first + len(queries))
            found.append(nearest(pictures, queries, measure, itself=itself))
        return {
            "rows": np.concatenate([one.rows for one in found]),
            "values": np.concatenate([one.distances for one in found]),
        }


def _read(file: Path, key: str) -> Arrays | None:
    """The arrays in the file; None when there are none, they are of another key, or the file is damaged."""
    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = dict(loaded)
        return arrays if str(arrays.pop("key")) == key else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _pairs(rows: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Of N samples and their nearest, each pair once: places int64[P, 2], rising, and values float64[P]."""
    mine = np.flatnonzero(rows >= 0)
    pairs = np.sort(np.stack([mine, rows[mine]], axis=1), axis=1)
    found, places = np.unique(pairs, axis=0, return_index=True)
    return found, values[mine][places]


def _group(live: LiveRun, column: str, facts: dict[str, Floats], limit: int) -> GroupsAudit:
    """A column's values, the largest first; each of `facts` is float64[N]."""
    held: Sequence[str] = [value or "" for value in live.training_set.samples.group(column).to_pylist()]
    names, codes, counts = np.unique(np.array(held, object), return_inverse=True, return_counts=True)
    sums = {fact: np.bincount(codes, values, len(names)) for fact, values in facts.items()}
    order = np.lexsort((np.arange(len(names)), -counts))[:limit]
    values = tuple(
        GroupAudit(
            value=names[place],
            samples=counts[place],
            self_influence=sums["self"][place] / counts[place],
            influence=sums["size"][place] / counts[place],
            share=sums["share"][place],
            influential=sums["influential"][place] / counts[place],
        )
        for place in order
    )
    return GroupsAudit(name=column, values=values, distinct=len(names))
