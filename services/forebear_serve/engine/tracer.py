"""Traces pictures to training images: careful or fast, from a picture that is there or one still being made."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from forebear.attribution import Attribution, Attributor, AuditConfig, EmbeddedQuery, QueryConfig
from forebear.attribution.region import Mask
from forebear.diffusion.noise import stratified_timesteps
from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS, estimator
from forebear_serve.engine.events import TraceQuery
from forebear_serve.engine.pictures import decoded_upload
from forebear_serve.problems import invalid
from forebear_serve.schemas import AttributeOptions, EstimatorInfo, IndexInfo, Mode, Region, Timings, Traced
from forebear_serve.settings import AttributorSettings, Limits

GROUP_VALUES = 200
"""Of a group column, the values with the highest totals that an answer lists."""


class Tracer:
    """A run, open for questions; one picture, or one batch of them, is embedded at a time."""

    def __init__(self, run: Path, settings: AttributorSettings, limits: Limits) -> None:
        """Opens checkpoints, the default estimator's index and its calibration, so that no request waits for them.

        Raises what `Attributor.open` and `Attributor.load` raise, and ConfigError when the run has no index for that
        estimator.
        """
        self._attributor = Attributor.open(run, [settings.estimator], threads=settings.threads)
        self._settings, self._limits = settings, limits
        self._attributor.load()
        self._fast = self._fast_query()
        self._attributor.load(self._fast)
        self._attributor.prepare([settings.estimator])
        self._lock = threading.Lock()
        self._embedded: OrderedDict[str, EmbeddedQuery] = OrderedDict()
        names = self._attributor.store.plan.checkpoint_names
        self.early = tuple(names[: int(settings.early_checkpoints * len(names))])
        """Checkpoints that mode `fast` may measure before the picture is final."""

    def check(self) -> None:
        """Whether the store and the default index can still be read: raises when not."""
        index = self._attributor.index(self._settings.estimator)
        index.search(index.vectors([0]), 1)

    def estimators(self) -> tuple[EstimatorInfo, ...]:
        return tuple(
            EstimatorInfo(
                name=name,
                description=ESTIMATORS[name].description,
                default=name == self._settings.estimator,
                baseline=ESTIMATORS[name].baseline,
            )
            for name in self._attributor.estimators
        )

    def info(self) -> IndexInfo:
        store, plan = self._attributor.store, self._attributor.store.plan
        indexes = {}
        for name in self._attributor.estimators:
            description = self._attributor.index(name).description
            recall = description.recall
            indexes[name] = {"kind": description.kind, "vectors": len(self._attributor.index(name))} | (
                {} if recall is None else {"recall": {"at_10": recall.at_10, "at_100": recall.at_100}}
            )
        fingerprint = self._attributor.fingerprint
        return IndexInfo(
            run=fingerprint.run,
            samples=len(store),
            removed=store.removed,
            sign=store.manifest.sign,
            store_plan=plan.hash,
            dataset=plan.dataset,
            checkpoints=plan.checkpoint_names,
            timesteps=plan.timesteps,
            measurement=plan.measurement,
            version=fingerprint.forebear_version,
            indexes=indexes,
        )

    def asked(self, options: AttributeOptions) -> tuple[str, ...]:
        """The estimators of a request; raises ConfigError for one that this run cannot answer by, and for top_k."""
        if options.top_k > self._limits.top_k:
            raise ConfigError(f"top_k is {options.top_k}; this server lists at most {self._limits.top_k}")
        names = options.estimators or (self._settings.estimator,)
        for name in names:
            estimator(name)
            if name not in self._attributor.estimators:
                raise ConfigError(
                    f"there is no index for {name}; choose one of {', '.join(self._attributor.estimators)}"
                )
        return tuple(dict.fromkeys(names))

    def embed_early(self, query: TraceQuery) -> EmbeddedQuery | None:
        """A picture that is still being made, at the first checkpoints; None where mode or settings leave none."""
        names = self.asked(query.options)
        if query.options.mode is not Mode.FAST or not self.early or all(ESTIMATORS[name].baseline for name in names):
            return None
        with self._lock:
            return self._embed(query, names, self.early)

    def trace(self, query: TraceQuery, early: EmbeddedQuery | None = None) -> Traced:
        """The ancestors of a picture by each estimator; `early` is what `embed_early` made of an earlier sight."""
        return self._traced(query, time.perf_counter(), early=early)

    def trace_all(self, queries: Sequence[TraceQuery]) -> list[Traced | Exception]:
        """Of each picture what `trace` gives, or what it raises; those that are measured alike are embedded together.

        Together they take less time; scores differ from those of a picture alone by rounding.
        """
        started = time.perf_counter()
        with self._lock:
            together = self._embedded_together(queries)
        answers: list[Traced | Exception] = []
        for query in queries:
            try:
                answers.append(self._traced(query, started, whole=together.get(query.key())))
            except Exception as error:
                answers.append(error)
        return answers

    def _traced(
        self,
        query: TraceQuery,
        started: float,
        *,
        early: EmbeddedQuery | None = None,
        whole: EmbeddedQuery | None = None,
    ) -> Traced:
        names = self.asked(query.options)
        with self._lock:
            begun = time.perf_counter()
            embedded = whole or self._whole(query, names, early)
            embedded_at = time.perf_counter()
            copies = None if query.options.region else self._attributor.examine_copies(embedded)
            audit = AuditConfig() if query.options.mode is Mode.EXACT else None
            answers = [self._attributor.score(embedded, name, query.options.top_k, audit, copies) for name in names]
        done = time.perf_counter()
        embed = embedded_at - begun if whole is None else whole.seconds
        stages = {"wait": embedded_at - started - embed, "embed": embed, "score": done - embedded_at}
        if early is not None:
            stages["embed_early"] = early.seconds
        return Traced(
            attributions=tuple(_shortened(answer, query.options.groups) for answer in answers),
            mode=query.options.mode,
            preliminary=embedded.record.preliminary,
            timings=Timings(total=done - started, stages=stages),
        )

    def _embedded_together(self, queries: Sequence[TraceQuery]) -> dict[str, EmbeddedQuery]:
        """By key, those that are not known yet and that others are measured like; regions are measured alone."""
        alike: dict[tuple[object, ...], dict[str, TraceQuery]] = {}
        for query in queries:
            options, key = query.options, query.key()
            if options.region is None and key not in self._embedded:
                alike.setdefault((options.estimators, options.mode, options.timesteps), {})[key] = query
        found: dict[str, EmbeddedQuery] = {}
        for group in alike.values():
            if len(group) > 1:
                with suppress(
                    Exception
                ):  # whatever is wrong with one: each is embedded alone then, and fails for itself
                    found |= zip(group, self._embed_group(list(group.values())), strict=True)
        for key, embedded in found.items():
            self._keep(key, embedded)
        return found

    def _embed_group(self, queries: Sequence[TraceQuery]) -> tuple[EmbeddedQuery, ...]:
        options = queries[0].options
        names = self.asked(options)
        return self._attributor.embed_queries(
            [(query.pixels, query.prompt, query.label) for query in queries],
            self._measured(options, names),
            band=options.timesteps,
            estimators=names,
            by_timestep=options.mode is Mode.EXACT,
        )

    def _whole(self, query: TraceQuery, names: Sequence[str], early: EmbeddedQuery | None) -> EmbeddedQuery:
        if early is not None:
            later = [one for one in self._attributor.store.plan.checkpoint_names if one not in early.checkpoints]
            return early.completed(self._embed(query, names, later))
        key = query.key()
        found = self._embedded.pop(key, None) or self._embed(query, names, None)
        self._keep(key, found)
        return found

    def _keep(self, key: str, embedded: EmbeddedQuery) -> None:
        self._embedded[key] = embedded  # the last used is the last to go
        while len(self._embedded) > self._settings.cache:
            self._embedded.popitem(last=False)

    def _embed(self, query: TraceQuery, names: Sequence[str], checkpoints: Sequence[str] | None) -> EmbeddedQuery:
        options = query.options
        return self._attributor.embed_query(
            query.pixels,
            query.prompt,
            query.label,
            self._measured(options, names),
            mask=None if options.region is None else self._mask(options.region),
            band=options.timesteps,
            estimators=names,
            by_timestep=options.mode is Mode.EXACT,
            checkpoints=checkpoints,
        )

    def _measured(self, options: AttributeOptions, names: Sequence[str]) -> QueryConfig:
        """How a query is measured; estimators that compare equal timesteps keep to the store's own."""
        if any(ESTIMATORS[name].equal_timesteps for name in names):
            return QueryConfig()
        return self._fast if options.mode is Mode.FAST else self._exact

    @property
    def _exact(self) -> QueryConfig:
        count = self._settings.exact_timesteps
        own = self._attributor.store.plan.timesteps
        return QueryConfig() if count in {None, len(own)} else QueryConfig(count=count)

    def _fast_query(self) -> QueryConfig:
        """As `exact`, at fewer timesteps and of fewer parameters: noise that both meet makes their answers alike."""
        parameters = tuple(one for one in self._settings.fast_parameters if self._attributor.measures_apart(one))
        if all(one.startswith("!") for one in parameters):
            parameters = ()
        every = self._attributor.timesteps(self._exact)
        count = self._settings.fast_timesteps
        if count is None or count >= len(every):
            return QueryConfig(parameters=parameters)
        places = stratified_timesteps(count, len(every))
        return QueryConfig(timesteps=tuple(every[place] for place in places), parameters=parameters)

    def _mask(self, region: Region) -> Mask:
        if region.box is not None:
            return region.box
        if region.mask is None:
            raise invalid("the region has neither a box nor a mask; give one of them")
        grey = decoded_upload(region.mask, self._limits.upload_bytes, self._limits.pixels).convert("L")
        return np.asarray(grey, np.float32) / 255.0


def _shortened(answer: Attribution, columns: Sequence[str] | None) -> Attribution:
    """The answer with the group columns that were asked for, each cut to its highest totals."""
    unknown = set(columns or ()) - set(answer.group_totals)
    if unknown:
        raise ConfigError(
            f"there is no group column {min(unknown)}; choose of {', '.join(answer.group_totals) or 'none'}"
        )
    totals = {
        name: values[:GROUP_VALUES]
        for name, values in answer.group_totals.items()
        if columns is None or name in columns
    }
    return replace(answer, group_totals=totals)
