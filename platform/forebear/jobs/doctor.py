"""Examines a model on its own pictures before anything is spent: what is covered, how right, how faithful, how fast."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from forebear.diffusion.checkpoint import attributed_checkpoints
from forebear.errors import ForebearError
from forebear.gradients.arithmetic import LowPrecision, low_precision
from forebear.gradients.diagnosis import (
    CoverageRow,
    PathErrors,
    attention,
    coverage_rows,
    exactness,
    plain_gradients,
    sketch_error,
)
from forebear.gradients.engine import GradientEngine
from forebear.gradients.fidelity import Gram
from forebear.gradients.projection import CHANNELS, Mode, ProjectionConfig
from forebear.gradients.running import Precision
from forebear.jobs.doctor_costs import (
    ROUNDS,
    BatchCost,
    Cost,
    Work,
    bfloat16_hardware,
    free_memory,
    interleave,
    seconds_of,
    sweep,
)
from forebear.jobs.doctor_fidelity import DIMS, Fidelity, Setting, measured, truths
from forebear.jobs.doctor_subject import Subject
from forebear.jobs.doctor_time import TimeSplit, time_split
from forebear.progress import progress
from forebear.run import Run

LARGEST_ERROR = 1e-4
"""Relative error of a layer's gradient above which the engine is wrong."""
GOOD = 0.99
"""Spearman's rank correlation that a recommended setting reaches, where one does."""
LARGEST_COSINE_ERROR = 0.05
"""Root mean square error of cosines up to which a low rank correlation says no more than that the pictures are nearly
orthogonal: related ones still stand out."""
CHECKED = 4
"""Samples of the exactness check."""
QUICK = 0.5
"""Seconds that a training step of 8 rows may take for throughput to be measured with more."""
STEP = "training step"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Exactness:
    """Against plain autograd, one sample at a time."""

    samples: int
    paths: list[PathErrors]
    own: float
    """Largest relative error of the vectors of the run's own mode and length, in float32."""

    @property
    def worst(self) -> float:
        """Of all paths."""
        return max([self.own, *(path.worst for path in self.paths)])


@dataclass(frozen=True)
class Recommendation:
    """Settings for `forebear embed`."""

    setting: Setting
    batch_size: int
    reason: str

    @property
    def options(self) -> str:
        setting = self.setting
        dim = "" if setting.dim is None else f" --dim {setting.dim}"
        return f"--mode {setting.mode}{dim} --precision {setting.precision} --batch-size {self.batch_size}"


@dataclass(frozen=True)
class CheckpointRow:
    """Whether the run's own settings are right at one checkpoint."""

    name: str
    error: float
    """The largest relative error of all paths against autograd."""
    fidelity: Fidelity


class Doctor:
    """One section after the other, in the order of the methods; `problems` collects what would make answers wrong.

    A section raises ForebearError where the model cannot be measured at all. `budget` is in bytes, half of what is free
    by default.
    """

    def __init__(self, subject: Subject, *, min_fidelity: float = 0.95, budget: int | None = None) -> None:
        self.subject, self.config, self.min_fidelity = subject, subject.config, min_fidelity
        self.denoiser = subject.model.denoiser
        self.device = next(self.denoiser.parameters()).device
        self.budget = free_memory(self.device) // 2 if budget is None else budget
        self.problems: list[str] = []
        self.found: dict[str, Any] = {"bfloat16": bfloat16_hardware(self.device), "memory_budget": self.budget}
        self._patterns = self.config.parameters
        self._names: list[str] = []
        self._own = Setting(self.config.projection.mode, self.config.projection.dim, self.config.precision)

    def coverage(self) -> list[CoverageRow]:
        rows, coverage = coverage_rows(self.denoiser, self._patterns)
        self._names = [share.name for share in coverage.covered]
        self.found["coverage"] = [asdict(row) for row in rows]
        # What cannot be covered is a problem of its own; everything else is found out about the rest.
        self._patterns = (*self._patterns, *(f"!{share.name}" for share in coverage.uncovered))
        if coverage.uncovered:
            self.problems.append(
                f"{coverage.uncovered_share:.2%} of the selected parameters cannot be covered: "
                f"{coverage.describe_uncovered()}"
            )
        if not coverage.covered:
            raise ForebearError("no parameter can be covered; choose others by `parameters` in --config")
        return rows

    @property
    def parameter_count(self) -> int:
        """Elements of the covered parameters."""
        return sum(self.denoiser.get_parameter(name).numel() for name in self._names)

    def exactness(self) -> Exactness:
        # The true gradients, those found and their difference are held at the same time.
        checked = max(1, min(CHECKED, len(self.subject), self.budget // (16 * self.parameter_count)))
        measure = self.subject.mixed(checked)
        with progress("exactness", 1, "checks") as bar:
            with attention("math"):
                true = plain_gradients(self.denoiser, self._names, measure, checked)
            paths = []
            for path in exactness(self.denoiser, self._patterns, measure, true):
                bar.total += 1
                bar.advance(1, path.path)
                paths.append(path)
            engine = GradientEngine(self.denoiser, self._projection(), self._patterns)
            own = sketch_error(engine, measure, true)
            bar.advance(1, "the run's own settings")
        for path in paths:
            if not path.worst <= LARGEST_ERROR:
                bad = [layer for layer in path.errors if not layer.error <= LARGEST_ERROR]
                names = ", ".join(f"{layer.name} ({layer.error:.1e})" for layer in bad[:3])
                self.problems.append(f"gradients are wrong ({path.path}) in {len(bad)} layers: {names}")
        if not own <= LARGEST_ERROR:
            self.problems.append(f"projected gradients are wrong: relative error {own:.1e}")
        self.found["exactness"] = asdict(found := Exactness(checked, paths, own))
        return found

    def _projection(self) -> ProjectionConfig:
        own = self.config.projection
        if own.dim is not None and own.dim > self.parameter_count:
            raise ForebearError(f"dim {own.dim} is larger than the gradient, {self.parameter_count}; choose less")
        return own

    def fidelity(self, *, only_own: bool = False) -> tuple[list[Fidelity], bool]:
        """Of several settings, or only of the run's own, and whether the truth was folded.

        It is where whole gradients would not fit in the budget.
        """
        count = self.parameter_count
        folded = 2 * 4 * count * len(self.subject) > self.budget
        plan = [(self._own.mode, [self._own.dim], self._own.precision)] if only_own else self._plan()
        grams: dict[Setting, list[Gram]] = {}
        with progress("fidelity", len(plan) + 1, "passes") as bar:
            true = list(truths(self.subject, self._names, self._patterns, folded))
            bar.advance(1, "whole gradients")
            rows = min(self.config.batch_size, 8)
            for mode, each, precision in plan:
                grams |= measured(self.subject, self._patterns, mode, each, precision, rows)
                bar.advance(1, f"{mode}, {precision}")
        found = [Fidelity.of(setting, gram, true) for setting, gram in grams.items()]
        self.found["fidelity"] = {"truth_folded": folded, "rows": [asdict(row) for row in found]}
        self._check_own(next(row for row in found if row.setting == self._own))
        return found, folded

    def _plan(self) -> list[tuple[Mode, list[int | None], Precision]]:
        """Modes, lengths and precisions to compare, the run's own among them."""
        dims = sorted({dim for dim in (*DIMS, self._own.dim) if dim is not None and dim <= self.parameter_count})
        plan: list[tuple[Mode, list[int | None], Precision]] = [
            (mode, list(dims), precision) for mode in ("fast", "default") for precision in PRECISIONS if dims
        ]
        if self._own not in [Setting(mode, dim, precision) for mode, each, precision in plan for dim in each]:
            plan.append((self._own.mode, [self._own.dim], self._own.precision))
        return plan

    def _check_own(self, own: Fidelity) -> None:
        spearman, error = own.mean.cosine_spearman, own.mean.cosine_error
        if not (spearman >= self.min_fidelity or error <= LARGEST_COSINE_ERROR):
            self.problems.append(
                f"the settings {own.setting.mode}, k = {own.setting.dim}, {own.setting.precision} rank pictures at "
                f"{spearman:.3f} of cosines (Spearman), below {self.min_fidelity}, with an error of {error:.3f}: raise "
                "--dim, or use another mode"
            )

    def throughput(self) -> dict[tuple[Mode, Precision], Cost]:
        """By mode and precision, at the run's own length: speed and ratio to a plain float32 training step."""
        rows = self._rows()
        modes: list[Mode] = [mode for mode in CHANNELS if mode in ("fast", "default", self._own.mode)]
        keys: dict[str, tuple[Mode, Precision]] = {f"{m}, {p}": (m, p) for m in modes for p in PRECISIONS}
        works: dict[str, Work] = {STEP: self._step(rows)}
        works |= {name: self._work(Setting(m, self._own.dim, p), rows) for name, (m, p) in keys.items()}
        with progress("throughput", (ROUNDS + 1) * len(works), "runs") as bar:
            costs = interleave(works, rows, self.device, bar)
        self.found["throughput"] = {"rows": rows, **{name: asdict(cost) for name, cost in costs.items()}}
        return {key: costs[name] for name, key in keys.items()}

    def _rows(self) -> int:
        """As many as the settings' batch has, up to 32; on a CPU fewer of a network that takes long."""
        most = min(self.config.batch_size, 32)
        few = min(self.config.batch_size, 8)
        step = self._step(few)
        step()  # warms up
        return most if self.device.type == "cuda" or seconds_of(step, self.device) < QUICK else few

    def _step(self, rows: int) -> Work:
        """Forward and backward with the gradients of the covered parameters; no optimiser."""
        measure = self.subject.mixed(rows)
        parameters = [self.denoiser.get_parameter(name).requires_grad_(True) for name in self._names]

        def work() -> None:
            torch.autograd.grad(measure(slice(0, rows)).sum(), parameters, allow_unused=True)

        return work

    def _work(self, setting: Setting, rows: int) -> Work:
        config = ProjectionConfig(dim=setting.dim, seed=self.config.projection.seed, mode=setting.mode)
        engine = GradientEngine(self.denoiser, config, self._patterns, precision=setting.precision)
        measure = self.subject.mixed(rows)
        return lambda: engine.measure(lambda: measure(slice(0, rows)))

    def low_precision(self) -> LowPrecision:
        """What bfloat16 reaches of the network under the run's mode."""
        found = low_precision(self._work(replace(self._own, precision="bfloat16"), 1))
        self.found["bfloat16_layers"] = asdict(found)
        return found

    def memory(self, setting: Setting) -> list[BatchCost]:
        """Peak memory and speed of one process by batch size."""
        most = 256 if self.device.type == "cuda" else 32
        sizes = [2**power for power in range(9) if 2**power <= most]
        make: Callable[[int], Work] = lambda rows: self._work(setting, rows)  # noqa: E731
        with progress("memory", 1, "sweeps") as bar:
            costs = sweep(make, sizes, self.budget, self.device)
            bar.advance(1)
        self.found["memory"] = [{**asdict(cost), "per_row": cost.per_row} for cost in costs]
        return costs

    def choose(self, fidelity: list[Fidelity], costs: dict[tuple[Mode, Precision], Cost]) -> tuple[Setting, str]:
        """The fastest setting that is faithful enough, at its smallest length; else the most faithful one."""
        for bar in sorted({max(GOOD, self.min_fidelity), self.min_fidelity}, reverse=True):
            able = [row for row in fidelity if min(row.mean.inner_spearman, row.mean.cosine_spearman) >= bar]
            if able:
                best = max(
                    able,
                    key=lambda row: (costs[row.setting.mode, row.setting.precision].ratio, -(row.setting.dim or 0)),
                )
                return best.setting, f"the fastest with Spearman {bar:g} or more, the smallest k of those"
        smallest = min(row.mean.cosine_error for row in fidelity)
        near = [row for row in fidelity if row.mean.cosine_error <= 1.02 * smallest]
        best = max(near, key=lambda row: costs[row.setting.mode, row.setting.precision].ratio)
        return best.setting, f"the smallest error of cosines, within 2 %; none reaches Spearman {self.min_fidelity:g}"

    def time(self, setting: Setting, batch_size: int) -> TimeSplit:
        """Where the time of an embedding with these settings goes."""
        with progress("time", 1, "embeddings") as bar:
            found = time_split(self.subject, self._patterns, setting, batch_size)
            bar.advance(1)
        self.found["time"] = {**asdict(found), "shares": found.shares}
        return found

    def recommend(self, setting: Setting, reason: str, costs: list[BatchCost]) -> Recommendation:
        """The smallest batch that fits and comes within 5 % of the fastest that does."""
        fitting = [cost for cost in costs if cost.fits and cost.samples_per_second is not None]
        if not fitting:
            raise ForebearError("not even one row fits in the memory budget; raise --memory-budget or free memory")
        best = max(cost.samples_per_second or 0.0 for cost in fitting)
        rows = next(cost.rows for cost in fitting if (cost.samples_per_second or 0.0) >= 0.95 * best)
        found = Recommendation(setting, rows, reason)
        self.found["recommendation"] = {**asdict(found), "options": found.options}
        return found

    def checkpoint(self, name: str) -> CheckpointRow:
        """The sections that depend on the weights, at the run's own settings."""
        self.coverage()
        exact = self.exactness()
        (own,), _ = self.fidelity(only_own=True)
        return CheckpointRow(name, exact.worst, own)


def at_checkpoints(examined: Doctor, run: Run) -> list[CheckpointRow]:
    """Examine the run's own settings at every checkpoint, and add what is wrong to the problems of `examined`."""
    subject, rows = examined.subject, []
    for checkpoint in attributed_checkpoints(run):
        name = checkpoint.name
        there = Subject.of_run(run, subject.config, len(subject), len(subject.timesteps), name)
        doctor = Doctor(there, min_fidelity=examined.min_fidelity, budget=examined.budget)
        try:
            rows.append(doctor.checkpoint(name))
        finally:
            examined.problems += [f"at {name}: {problem}" for problem in doctor.problems]
    examined.found["checkpoints"] = [asdict(row) for row in rows]
    return rows
