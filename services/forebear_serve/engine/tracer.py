"""Traces pictures to training images: careful or fast, from a picture that is there or one still being made."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.attribution import Attribution, Attributor, AuditConfig, EmbeddedQuery, QueryConfig
from forebear.attribution.region import Mask
from forebear.errors import ConfigError
from forebear.estimators import ESTIMATORS, estimator
from forebear_serve.engine.pictures import decoded_upload
from forebear_serve.problems import invalid
from forebear_serve.schemas import AttributeOptions, EstimatorInfo, IndexInfo, Mode, Region, Timings, Traced
from forebear_serve.settings import AttributorSettings, Limits

GROUP_VALUES = 200
"""Of a group column, the values with the highest totals that an answer lists."""


@dataclass(frozen=True)
class TraceQuery:
    """A picture and what is asked about it."""

    pixels: NDArray[np.float32] | Image.Image
    """float32[C, H, W] in [-1, 1] as the model made it, or a picture of any size."""
    prompt: str = ""
    label: int | None = None
    options: AttributeOptions = field(default_factory=AttributeOptions)

    def key(self) -> str:
        """Of everything that decides its embedding."""
        pixels = self.pixels if isinstance(self.pixels, np.ndarray) else np.asarray(self.pixels)
        measured = self.options.model_dump_json(include={"estimators", "mode", "region", "timesteps"})
        told = f"{pixels.dtype}{pixels.shape}\0{self.prompt}\0{self.label}\0{measured}".encode()
        return hashlib.blake2b(told + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


class Tracer:
    """A run, open for questions; one picture is embedded at a time."""

    def __init__(self, run: Path, settings: AttributorSettings, limits: Limits) -> None:
        """Opens the default estimator's index and calibration, so that no request waits for them.

        Raises what `Attributor.open` raises, and ConfigError when the run has no index for that estimator.
        """
        self._attributor = Attributor.open(run, [settings.estimator])
        self._settings, self._limits = settings, limits
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
        started = time.perf_counter()
        names = self.asked(query.options)
        exact = query.options.mode is Mode.EXACT
        with self._lock:
            waited = time.perf_counter()
            embedded = self._whole(query, names, early)
            embedded_at = time.perf_counter()
            copies = None if query.options.region else self._attributor.examine_copies(embedded)
            audit = AuditConfig() if exact else None
            answers = [self._attributor.score(embedded, name, query.options.top_k, audit, copies) for name in names]
        done = time.perf_counter()
        stages = {"wait": waited - started, "embed": embedded_at - waited, "score": done - embedded_at}
        if early is not None:
            stages["embed_early"] = early.seconds
        return Traced(
            attributions=tuple(_shortened(answer, query.options.groups) for answer in answers),
            mode=query.options.mode,
            preliminary=embedded.record.preliminary,
            timings=Timings(total=done - started, stages=stages),
        )

    def _whole(self, query: TraceQuery, names: Sequence[str], early: EmbeddedQuery | None) -> EmbeddedQuery:
        if early is not None:
            later = [one for one in self._attributor.store.plan.checkpoint_names if one not in early.checkpoints]
            return early.completed(self._embed(query, names, later))
        key = query.key()
        found = self._embedded.pop(key, None) or self._embed(query, names, None)
        self._embedded[key] = found  # the last used is the last to go
        while len(self._embedded) > self._settings.cache:
            self._embedded.popitem(last=False)
        return found

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
        """At how many timesteps; estimators that compare equal timesteps keep to the store's own."""
        count = self._settings.exact_timesteps if options.mode is Mode.EXACT else self._settings.fast_timesteps
        own = self._attributor.store.plan.timesteps
        if count is None or count == len(own) or any(ESTIMATORS[name].equal_timesteps for name in names):
            return QueryConfig()
        return QueryConfig(count=count)

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
