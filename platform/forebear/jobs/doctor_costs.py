"""What the engine costs on this machine: time against a training step, and memory by batch size."""

import ctypes
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch

from forebear.gradients.embedding import out_of_memory
from forebear.progress import Progress

Work = Callable[[], object]

LONGEST = 20.0
"""Seconds after which no further round of interleaved runs begins, once there are three."""
ROUNDS = 9


@dataclass(frozen=True)
class Cost:
    """Of one way to work through a batch."""

    samples_per_second: float
    ratio: float
    """Speed as a multiple of the training step's in the same round: the median over rounds."""
    low: float
    high: float
    """Quartiles of those ratios."""


@dataclass(frozen=True)
class BatchCost:
    """Of one batch size."""

    rows: int
    samples_per_second: float | None
    peak: int | None
    """Bytes on top of the loaded model; None where it cannot be measured."""
    fits: bool
    """False when it went, or by the smaller sizes would have gone, over the budget."""

    @property
    def per_row(self) -> float | None:
        return None if self.peak is None else self.peak / self.rows


def interleave(
    works: Mapping[str, Work],
    samples: int,
    device: torch.device,
    bar: Progress,
    rounds: int = ROUNDS,
    longest: float = LONGEST,
) -> dict[str, Cost]:
    """Run every work once a round; the first is the yardstick, and a first round that warms up is not counted.

    Other processes slow all works of a round alike, and on a CPU process time leaves out the time they take themselves.
    `bar` counts the works of rounds + 1 rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    started = time.monotonic()
    for number in range(rounds + 1):
        if number > 3 and time.monotonic() - started > longest:
            break
        for name, work in works.items():
            took = seconds_of(work, device)
            if number:
                seconds[name].append(took)
            bar.advance(1, name)
    yardstick = seconds[next(iter(works))]
    return {name: cost(found, yardstick, samples) for name, found in seconds.items()}


def cost(seconds: Sequence[float], yardstick: Sequence[float], samples: int) -> Cost:
    """Of one work from the seconds of each round and those of the training step."""
    ratios = [step / own for own, step in zip(seconds, yardstick, strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Cost(samples / median(seconds), median(ratios), low, high)


def seconds_of(work: Work, device: torch.device) -> float:
    """By `now`."""
    start = now(device)
    work()
    return max(now(device) - start, 1e-9)


def now(device: torch.device) -> float:
    """Seconds of processor time on a CPU; on CUDA, of the clock when the device is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def sweep(make: Callable[[int], Work], sizes: list[int], budget: int, device: torch.device) -> list[BatchCost]:
    """Peak memory and speed of each batch size; `make` gives the work of a size.

    A size is left out when the growth so far says that it would go over the budget, and so are all above it.
    """
    costs: list[BatchCost] = []
    for rows in sizes:
        if costs and not (costs[-1].fits and _expected(costs, rows) <= budget):
            costs.append(BatchCost(rows, None, round(_expected(costs, rows)) or None, False))
            break
        try:
            work = make(rows)
            work()  # warms up, and what stays for good is not counted
            peak = peak_memory(work, device)
            rate = rows / min(seconds_of(work, device) for _ in range(2))
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
            costs.append(BatchCost(rows, None, None, False))
            break
        costs.append(BatchCost(rows, rate, peak, peak is None or peak <= budget))
    return costs


def _expected(costs: list[BatchCost], rows: int) -> float:
    """Bytes of a batch of `rows`, on the line through the last two sizes, or in proportion to the only one."""
    known = [(cost.rows, cost.peak) for cost in costs if cost.peak is not None]
    if not known:
        return 0.0
    last_rows, last = known[-1]
    if len(known) == 1:
        return last * rows / last_rows
    before_rows, before = known[-2]
    return last + max(0.0, last - before) * (rows - last_rows) / (last_rows - before_rows)


def peak_memory(work: Work, device: torch.device) -> int | None:
    """Bytes that `work` takes at its peak on top of what is held now; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    try:
        # What earlier work freed and the allocator kept would hide what this work takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts anew from here
        before = _resident("VmRSS")
        work()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError, StopIteration):
        return None


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take: of the device, or of this machine and of its container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def bfloat16_hardware(device: torch.device) -> str:
    """What multiplies in bfloat16 here, in a few words."""
    if device.type == "cuda":
        return "the GPU computes in bfloat16" if torch.cuda.is_bf16_supported() else "the GPU has no bfloat16"
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown whether the processor has bfloat16 instructions"
    flags = set(next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split())
    found = [name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in flags]
    return f"the processor has {' and '.join(found)}" if found else "the processor has no bfloat16 instructions"
