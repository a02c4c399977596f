"""Makes a quantised generator of a model: calibration data, roundings, ranges, kept features, files; it can go on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forebear.config import plain
from forebear.diffusion.model import DiffusionModel, weights_fingerprint
from forebear.errors import ConfigError
from forebear.files import fingerprint
from forebear.progress import Listener, progress
from forebear.randomness import keyed_integers
from forebear_generators.quantisation.attention import round_attention
from forebear_generators.quantisation.calibration import CalibrationData, Observer, SeenInputs, calibration_request
from forebear_generators.quantisation.files import (
    Description,
    is_generator,
    read_description,
    refuse_lora,
    write_generator,
)
from forebear_generators.quantisation.layers import Clock, layer_bytes
from forebear_generators.quantisation.layout import Layout, lay_out, widened
from forebear_generators.quantisation.maintenance import Cache, choose, places, unread
from forebear_generators.quantisation.network import (
    QuantisedDenoiser,
    Structure,
    cache_tensors,
    float_tensors,
    layer_tensors,
    put_in,
)
from forebear_generators.quantisation.reconstruction import (
    Inputs,
    Rounded,
    inputs_of,
    learners,
    outputs_of,
    reconstruct_unit,
    settle,
)
from forebear_generators.quantisation.settings import QuantisationConfig
from forebear_generators.quantisation.temporal import (
    TemporalBlock,
    feature_errors,
    mismatch_rate,
    relative_feature_errors,
)
from forebear_generators.quantisation.temporal_rounding import Grid, Rows, TemporalRounding, features_by_step
from forebear_generators.quantisation.unit_feedback import round_unit
from forebear_generators.quantisation.widths import DESCRIBED, chosen, extra_bytes, felt
from forebear_generators.quantisation.workspace import Workspace
from forebear_generators.samplers import moves, times

INPUT = "input of "
"""Begins the names of input grids in the workspace."""
FELT_ON = 4
"""Calibration pictures on which it is measured how much each layer's rounding is felt."""


def quantise(
    folder: Path, config: QuantisationConfig, out: Path, listeners: Sequence[Listener] = (), work: Path | None = None
) -> Description:
    """Quantise the model in `folder` and write the generator to `out`; the same call goes on after an interruption.

    Needs about twice the memory of the model, and the calibration rows of one block. In a folder `work`, calibration
    pictures, roundings and ranges are kept for calls with settings that lead to the same ones (`drawn_plan`,
    `work_plan`); without one they are removed at the end. Raises ModelError for a kind of model that cannot be
    quantised, ConfigError for impossible settings.
    """
    refuse_lora(folder)
    model = DiffusionModel.load(folder)
    TemporalBlock(model.denoiser)  # refuses other kinds of models before anything is computed
    source = weights_fingerprint(model.trained_parts())
    if is_generator(out):
        there, _ = read_description(out)
        if (there.source, there.config) == (source, config):
            return there
        raise ConfigError(
            f"{out} holds a generator of another model or other settings; give another --out, or remove it"
        )
    plans = [{"config": plan(config), "source": source} for plan in (work_plan, drawn_plan)]
    folders = [out if work is None else work / fingerprint(plan) for plan in plans]
    workspace = Workspace(folders[0], plans[0])
    drawn = workspace if work is None else Workspace(folders[1], plans[1])
    quantisation = Quantisation(model, config, workspace, drawn, listeners)
    quantisation.draw()
    quantisation.round_weights()
    structure, tensors, report = quantisation.finish(quantisation.watch())
    description = Description(structure, config, source, report)
    write_generator(out, folder, description, tensors)
    if work is None:
        workspace.remove()
    return description


def work_plan(config: QuantisationConfig) -> dict[str, Any]:
    """The settings that decide roundings and ranges: all but how temporal features are kept."""
    settings: dict[str, Any] = plain(config)
    without = {"maintenance", "cache", "granularity"}
    if config.activation_bits is None:
        without.add("per_step")
    if config.weight_bits == 8:
        without |= {"wide", "share"}
    for section in ("temporal", "weights"):
        settings[section] = {name: each for name, each in settings[section].items() if name not in without}
    return settings


def drawn_plan(config: QuantisationConfig) -> dict[str, Any]:
    """The settings that decide the calibration pictures."""
    settings: dict[str, Any] = plain(config)
    calibration = {name: each for name, each in settings["calibration"].items() if name != "every"}
    return {"calibration": calibration} | {name: settings[name] for name in ("sampler", "steps", "guidance")}


class Quantisation:
    """The steps of quantising one model, each of which is taken from the workspace where it is there."""

    def __init__(
        self,
        model: DiffusionModel,
        config: QuantisationConfig,
        workspace: Workspace,
        drawn: Workspace | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Calibration pictures are in the workspace `drawn`, or with everything else."""
        self.model, self.config, self._workspace, self._listeners = model, config, workspace, listeners
        self._drawn = workspace if drawn is None else drawn
        self.clock = Clock(tuple(times(moves(model, config.sampler, config.steps))))
        self.full_precision: nn.Module = model.denoiser.requires_grad_(False)
        self.inner = copy.deepcopy(self.full_precision)
        if config.activations.softmax == "uint8":
            round_attention(self.inner)
        self.layout: Layout = lay_out(
            DiffusionModel(self.inner, model.scheduler, model.codec, model.conditioner), config
        )
        self.student = DiffusionModel(
            QuantisedDenoiser(self.inner, self.clock), model.scheduler, model.codec, model.conditioner
        )
        """The model while its layers become integers, one after the other, in `inner`."""
        self.block = TemporalBlock(self.inner)
        self.rows = self._feature_rows()
        self.rounded: dict[str, Rounded] = {}
        self._temporal_grids: dict[str, Grid] = {}

    def draw(self) -> None:
        """Calibration trajectories of the full-precision model."""
        found = self._drawn.load("trajectories")
        if found is None:
            size = self.config.calibration.batch
            batches = -(-self.config.calibration.pictures // size)
            with progress(
                "calibration pictures", batches * self.config.steps, "steps", listeners=self._listeners
            ) as bar:
                data = CalibrationData.draw(self.model, self.config, lambda _: bar.advance())
            self._drawn.save("trajectories", {"latents": data.latents})
            self.data = data
        else:
            request = calibration_request(self.model, self.config)
            self.data = CalibrationData(request, self.clock.times, found["latents"])

    def round_weights(self) -> None:
        """The temporal block on its own, then every other unit behind the quantised ones before it."""
        units = self.layout.units
        with progress("rounding weights", len(units) + 1, "blocks", listeners=self._listeners) as bar:
            self._round_temporal(bar.tick)
            self._widen(bar.tick)
            bar.advance(note="temporal block")
            for place, unit in enumerate(units):
                self._round(unit, f"unit-{place:04d}", bar.tick)
                bar.advance(note=unit)

    def _round_temporal(self, tick: Callable[[], None]) -> None:
        full = TemporalBlock(self.full_precision)
        rounding = TemporalRounding(self.block, full, self.layout.temporal(), self.rows, self.clock, self.config)
        found = self._workspace.load("temporal")
        if found is None:
            rounded, grids = rounding.run(tick)
            self._workspace.save("temporal", _flat(rounded) | _flat_grids(grids))
        else:
            rounded, grids = _unflat(found), _unflat_grids(found)
            rounding.restore(rounded, grids)
        self.rounded |= rounded
        self._temporal_grids = grids

    def _widen(self, tick: Callable[[], None]) -> None:
        """Plan 8 bits for the layers of a 4-bit variant that predictions feel most, within the bytes it may have."""
        config, plans = self.config, [plan for plan in self.layout.layers if plan.role != "temporal"]
        if config.weight_bits == 8 or not config.weights.share:
            return
        found = self._workspace.load("widths")
        if found is None:
            steps = range(0, config.steps, config.calibration.every)
            few = self.data.first(FELT_ON)
            errors = felt(self.inner, plans, lambda: few.passes(self.student, steps, FELT_ON), config.weights, tick)
            extra = [extra_bytes(plan, self.inner.get_submodule(plan.name).weight.numel()) for plan in plans]  # type: ignore[operator]
            places = chosen(errors, extra, self._bytes_left())
            found = {"wide": torch.tensor(places, dtype=torch.int64), "errors": errors}
            self._workspace.save("widths", found)
        wide = {plans[place].name for place in found["wide"].tolist()}
        layers = (widened(plan, config.weights) if plan.name in wide else plan for plan in self.layout.layers)
        self.layout = replace(self.layout, layers=tuple(layers))

    def _bytes_left(self) -> float:
        """How much larger the generator may become: by what it would be with weights of no codes but 0."""
        rounded, grids = {}, {}
        for plan in self.layout.layers:
            weight: Any = self.inner.get_submodule(plan.name).weight
            none = torch.zeros(len(weight))
            rounded[plan.name] = Rounded(torch.zeros(weight.shape, dtype=torch.int16), none, none.to(torch.int32))
            if plan.integer_inputs:
                steps = torch.zeros(self.config.steps if self.config.temporal.per_step == "all" else 1)
                grids[plan.name] = (steps, steps.to(torch.int32))
        structure, _, report = self._put_together(rounded, grids | self._temporal_grids)
        described = report["bytes"] + DESCRIBED * len(structure.layers)
        return float(self.config.weights.share * report["bytes_full_precision"] - described)

    def _round(self, unit: str, step: str, tick: Callable[[], None]) -> None:
        config, plans = self.config, self.layout.of_unit(unit)
        found = self._workspace.load(step)
        if found is None and config.rounding.method == "feedback":
            both, inputs = (self.inner, self.full_precision), self._inputs(unit)
            rounded = round_unit(*both, unit, plans, inputs, config.weights, self.clock)
            self.rounded |= rounded
            self._workspace.save(step, _flat(rounded))
            return
        learn = config.rounding.method == "adaround"
        wanted = self._wanted(unit) if found is None and learn else None
        learned = learners(self.inner, plans, config.weights)
        if found is None:
            if wanted is not None:
                module = self.inner.get_submodule(unit)
                reconstruct_unit(module, unit, learned, *wanted, config.rounding, config.calibration.seed, tick)
            with torch.no_grad():
                rounded = {name: each.rounded(config.rounding.method) for name, each in learned.items()}
            self._workspace.save(step, _flat(rounded))
        else:
            rounded = _unflat(found)
        self.rounded |= rounded
        settle(self.inner, learned, rounded, self.clock)

    def _wanted(self, unit: str) -> tuple[Inputs, Tensor]:
        """What a unit's rounding is learned from: its inputs behind the quantised ones, its full-precision outputs."""
        steps = range(0, self.config.steps, self.config.calibration.every)
        size = self.config.calibration.batch
        inputs = inputs_of(self.inner, unit, self.data.passes(self.student, steps, size), self.clock)
        # A shortcut that was split is one layer of the full-precision denoiser, and never a unit of its own.
        outputs = outputs_of(self.full_precision, unit, self.data.passes(self.model, steps, size))
        return inputs, outputs

    def _inputs(self, unit: str) -> tuple[Inputs, Inputs]:
        """A unit's inputs behind the quantised ones, and in full precision."""
        steps = range(0, self.config.steps, self.config.calibration.every)
        size = self.config.calibration.batch
        return (
            inputs_of(self.inner, unit, self.data.passes(self.student, steps, size), self.clock),
            inputs_of(self.full_precision, unit, self.data.passes(self.model, steps, size)),
        )

    def _feature_rows(self) -> Rows:
        chosen = torch.tensor(self.clock.times)
        if bool((chosen == chosen.round()).all()):
            chosen = chosen.long()
        labels = self._labels()
        if labels is None:
            return Rows(chosen, None, len(chosen))
        return Rows(chosen.repeat_interleave(len(labels)), labels.repeat(len(chosen)), len(chosen))

    def _labels(self) -> Tensor | None:
        """Every class, or as many as the cache takes, drawn by the key, where there are more."""
        classes = int(getattr(self.model.conditioner, "classes", 0))
        if not classes:
            return None
        most = self.config.temporal.cache_classes
        if not self._cacheable:
            return torch.from_numpy(keyed_integers(classes, (most,), "temporal", self.config.calibration.seed))
        return torch.arange(classes)

    @property
    def _cacheable(self) -> bool:
        conditioner = self.model.conditioner
        # A class of guidance is one more.
        classes = int(getattr(conditioner, "classes", 0)) + (getattr(conditioner, "guidance_class", None) is not None)
        return classes <= self.config.temporal.cache_classes

    def watch(self) -> dict[str, SeenInputs]:
        """The inputs of every other layer with integer inputs, at every step, behind the rounded weights."""
        names = [plan.name for plan in self.layout.layers if plan.integer_inputs and plan.role != "temporal"]
        found = self._workspace.load("inputs") if names else {}
        parts = ("least", "most", "values")
        if found is not None:
            return {name: SeenInputs(*(found[f"{name}.{part}"] for part in parts)) for name in names}
        steps = self.config.steps
        observer = Observer({name: self.inner.get_submodule(name) for name in names}, steps)
        with progress("activation ranges", steps, "steps", listeners=self._listeners) as bar:
            for step in range(steps):
                observer.watch(step, list(self.data.passes(self.student, [step], self.config.calibration.batch)))
                bar.advance()
        seen = observer.seen
        self._workspace.save(
            "inputs", {f"{name}.{part}": getattr(each, part) for name, each in seen.items() for part in parts}
        )
        return seen

    def grids(self, seen: dict[str, SeenInputs]) -> dict[str, Grid]:
        """Scale and zero point of every integer input, [S] where there is a range for each step."""
        per_step, estimate = self.config.temporal.per_step == "all", self.config.activations.estimate
        return {name: each.grid(per_step, estimate) for name, each in seen.items()} | self._temporal_grids

    @torch.no_grad()
    def kept_features(self) -> tuple[dict[str, Tensor], dict[str, Cache], dict[str, Any]]:
        """Which steps of each feature are cached, bool[S] by name; the full caches; a report of errors."""
        config, steps = self.config.temporal, self.config.steps
        wanted = TemporalBlock(self.full_precision).compute_alone(self.rows.times, self.rows.labels)
        computed = features_by_step(self.block, self.clock, self.rows)
        caches = {name: Cache.of(each.view(steps, -1, each.shape[1]), config.cache) for name, each in wanted.items()}
        cached = {name: caches[name].read().flatten(0, 1) for name in wanted}
        by_block, by_cache = (
            {name: each.view(steps, -1).sum(1) for name, each in feature_errors(wanted, found).items()}
            for found in (computed, cached)
        )
        report = {
            "features": len(wanted),
            "relative_error_block": float(relative_feature_errors(wanted, computed).mean()),
            "relative_error_cache": float(relative_feature_errors(wanted, cached).mean()),
            "mismatch_rate_block": mismatch_rate(wanted, computed),
        }
        return choose(by_block, by_cache, config, self._cacheable), caches, report

    def finish(self, seen: dict[str, SeenInputs]) -> tuple[Structure, dict[str, Tensor], dict[str, Any]]:
        """The description and the tensors of the quantised denoiser, and what was measured."""
        return self._put_together(self.rounded, self.grids(seen))

    def _put_together(
        self, rounded: dict[str, Rounded], grids: dict[str, Grid]
    ) -> tuple[Structure, dict[str, Tensor], dict[str, Any]]:
        by_cache, caches, report = self.kept_features()
        pairs = [(feature.name, feature.embedding) for feature in self.block.features]
        embeddings = unread(pairs, by_cache)
        dropped = [*embeddings, *self._class_embeddings(embeddings)]
        cached = [name for name, steps in by_cache.items() if bool(steps.any())]
        computed = [name for name in cached if not bool(by_cache[name].all())]
        gone = tuple(f"{name}." for name in dropped)
        kept = [
            plan
            for plan in self.layout.layers
            if not plan.name.startswith(gone) and (plan.name not in cached or plan.name in computed)
        ]
        structure = Structure(
            self.clock.times, self.layout.splits, tuple(kept), tuple(cached), tuple(computed), tuple(dropped)
        )
        tensors: dict[str, Tensor] = {}
        for plan in kept:
            bias = getattr(self.inner.get_submodule(plan.name), "bias", None)
            tensors |= layer_tensors(plan, rounded[plan.name], bias, grids.get(plan.name))
        for name in cached:
            tensors |= cache_tensors(name, _taken(caches[name], by_cache[name]), places(by_cache[name]))
        tensors |= self._float_tensors(structure, tensors)
        report |= _bytes(self.full_precision, tensors)
        return structure, tensors, report

    def _class_embeddings(self, embeddings: list[str]) -> list[str]:
        return [name for each in embeddings if (name := self.block.class_embedding(each)) is not None]

    def _float_tensors(self, structure: Structure, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What stays as it is, found by putting the denoiser together."""
        skeleton = copy.deepcopy(self.full_precision)
        put_in(skeleton, structure, dict(tensors))
        return float_tensors(skeleton)


def _taken(cache: Cache, cached: Tensor) -> Cache:
    """The cache of the steps where `cached`, bool[S]."""
    scale, zero = (None if each is None else each[cached] for each in (cache.scale, cache.zero))
    return Cache(cache.values[cached], scale, zero)


def _bytes(full: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any]:
    before, after = layer_bytes(full), sum(each.numel() * each.element_size() for each in tensors.values())
    cache = sum(each.numel() * each.element_size() for name, each in tensors.items() if ".cache" in name)
    return {"bytes_full_precision": before, "bytes": after, "bytes_of_cache": cache, "share": after / before}


def _flat(rounded: dict[str, Rounded]) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": value
        for name, each in rounded.items()
        for part in ("codes", "scale", "zero", "bias")
        if (value := getattr(each, part)) is not None
    }


def _unflat(tensors: dict[str, Tensor]) -> dict[str, Rounded]:
    names = dict.fromkeys(name.rpartition(".")[0] for name in tensors if not name.startswith(INPUT))
    return {
        name: Rounded(
            tensors[f"{name}.codes"], tensors[f"{name}.scale"], tensors[f"{name}.zero"], tensors.get(f"{name}.bias")
        )
        for name in names
    }


def _flat_grids(grids: dict[str, Grid]) -> dict[str, Tensor]:
    return {f"{INPUT}{name}.{place}": each for name, grid in grids.items() for place, each in enumerate(grid)}


def _unflat_grids(tensors: dict[str, Tensor]) -> dict[str, Grid]:
    names = dict.fromkeys(name.removeprefix(INPUT).rpartition(".")[0] for name in tensors if name.startswith(INPUT))
    return {name: (tensors[f"{INPUT}{name}.0"], tensors[f"{INPUT}{name}.1"]) for name in names}
