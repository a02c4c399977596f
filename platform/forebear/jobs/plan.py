"""The bill of an embedding before it is begun: time, machines, memory, disk and queries, with the arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forebear.errors import ConfigError
from forebear.index import IndexConfig
from forebear.index.shortlist import bytes_each
from forebear.jobs.plan_measuring import MeasuredSearch

HOUR = 3600.0
GIB = 2**30
SMALL_SHARD, GOOD_SHARD, LARGE_SHARD = 16 * 2**20, 256 * 2**20, 2**30
"""Bytes of a shard's file: many small ones are slow to list, large ones cost more when a worker dies."""
GOOD_TIME, LONG_TIME = 120.0, 600.0
"""Seconds of a worker for one shard."""
SLOW_QUERY = 1.0


@dataclass(frozen=True)
class Job:
    """What is to be embedded, and on what."""

    samples: int
    checkpoints: int
    timesteps: int
    """T of each picture; it decides the size of a row alone, since `rate` has its time."""
    dim: int
    """k."""
    columns: int
    """Vector columns of the store."""
    shard_rows: int
    workers: int
    rate: float
    """Pictures that one worker embeds in a second, at one checkpoint, at all timesteps."""
    gpus_per_worker: float = 0.0
    machine_workers: int = 8
    opening: float = 0.0
    """Seconds to open a worker."""
    loading: float = 0.0
    """Seconds to load another checkpoint."""
    worker_memory: int = 0
    """Bytes; 0 when it is not known."""

    def __post_init__(self) -> None:
        counts = (self.samples, self.checkpoints, self.timesteps, self.dim, self.columns, self.shard_rows, self.workers)
        if min(*counts, self.machine_workers) < 1 or not self.rate > 0:
            raise ConfigError("a plan needs at least one of everything, and a rate above 0")

    @property
    def row_bytes(self) -> int:
        """Of one picture at one checkpoint in the store: vectors in half precision with a scale each, three numbers for
        each timestep, an id and a row."""
        return self.columns * (2 * self.dim + 4) + 12 * self.timesteps + 48

    @property
    def index_dim(self) -> int:
        """Numbers in a vector of an index: checkpoints side by side."""
        return self.checkpoints * self.dim

    @property
    def index_kind(self) -> Literal["exact", "rabitq"]:
        return "exact" if self.samples <= IndexConfig().exact_limit else "rabitq"

    @property
    def seconds(self) -> float:
        work = self.samples * self.checkpoints / (self.workers * self.rate)
        return work + self.opening + (self.checkpoints - 1) * self.loading


@dataclass(frozen=True)
class Line:
    """One figure of a plan."""

    name: str
    value: float
    unit: str
    """Of `value`: s, h, B, B/s, or nothing for a count."""
    arithmetic: str


@dataclass(frozen=True)
class Plan:
    """Every figure, and what deserves a second thought."""

    job: Job
    lines: Sequence[Line]
    warnings: Sequence[str]

    def value(self, name: str) -> float:
        """The figure of a name."""
        return next(line.value for line in self.lines if line.name == name)

    def plain(self) -> Mapping[str, Any]:
        """For JSON."""
        return {
            "job": asdict(self.job),
            "figures": {line.name: {k: v for k, v in asdict(line).items() if k != "name"} for line in self.lines},
            "warnings": list(self.warnings),
        }


def make_plan(job: Job, search: MeasuredSearch | None = None) -> Plan:
    """Calculate every figure of a job; those of queries need `search`, of the job's kind of index."""
    lines = [*_embedding(job), *_storage(job), _index(job)]
    if search is not None:
        lines += _queries(job, search)
    return Plan(job, lines, _warnings(job, {line.name: line.value for line in lines}))


def _embedding(job: Job) -> list[Line]:
    n, c, w = job.samples, job.checkpoints, job.workers
    seconds = job.seconds
    opened = f" + {job.opening:.0f} s to open + {c - 1} x {job.loading:.1f} s to change checkpoints"
    lines = [
        Line("time", seconds, "s", f"{n:,} pictures x {c} checkpoints / ({w:,} workers x {job.rate:,.3g}/s){opened}"),
        Line("CPU-hours", seconds * w / HOUR, "h", f"{w:,} workers of one CPU x {seconds / HOUR:,.2f} h"),
    ]
    if job.gpus_per_worker:
        gpus = w * job.gpus_per_worker
        lines.append(Line("GPU-hours", seconds * gpus / HOUR, "h", f"{gpus:,.4g} GPUs x {seconds / HOUR:,.2f} h"))
    machines = -(-w // job.machine_workers)
    lines.append(Line("machines", machines, "", f"{w:,} workers / {job.machine_workers} on each"))
    if job.worker_memory:
        each = job.worker_memory / GIB
        on_each = min(w, job.machine_workers)
        total = job.worker_memory * on_each
        lines += [
            Line("memory of a worker", job.worker_memory, "B", "peak of the process that measured, for this data"),
            Line("memory of a machine", total, "B", f"{on_each} workers x {each:.2f} GiB"),
        ]
    return lines


def _storage(job: Job) -> list[Line]:
    n, c, row = job.samples, job.checkpoints, job.row_bytes
    shards = -(-n // job.shard_rows) * c
    rows = min(job.shard_rows, n)
    in_flight = min(job.workers, shards)
    return [
        Line(
            "bytes of a row",
            row,
            "B",
            f"{job.columns} columns x (2 x {job.dim} + 4) + 12 x {job.timesteps} timesteps + 48",
        ),
        Line("store", n * c * row, "B", f"{n:,} pictures x {c} checkpoints x {row:,} B"),
        Line("shards", shards, "", f"{n:,} / {job.shard_rows:,} rows x {c} checkpoints"),
        Line("bytes of a shard", rows * row, "B", f"{rows:,} rows x {row:,} B"),
        Line("time of a shard", rows / job.rate, "s", f"{rows:,} rows / {job.rate:,.3g}/s"),
        Line(
            "lost with the driver",
            in_flight * rows / job.rate / HOUR,
            "h",
            f"at most {in_flight:,} shards in flight x {rows / job.rate:,.1f} s of a worker",
        ),
        Line(
            "written to the store",
            job.workers * job.rate * row,
            "B/s",
            f"{job.workers:,} workers x {job.rate:,.3g}/s x {row:,} B",
        ),
    ]


def _index(job: Job) -> Line:
    n, d = job.samples, job.index_dim
    codes, counted = (0, "")
    if job.index_kind == "rabitq":  # one or the other: whether short ones find enough shows when the index is built
        codes = max(2 * -(-d // 8), bytes_each(d))
        counted = f" + codes of at most {codes:,}"
    row = 2 * d + codes + 48
    arithmetic = (
        f"{job.index_kind}: {n:,} x (2 x {d:,} numbers{counted} + 48 = {row:,} B), for each estimator's vectors"
    )
    return Line("index", n * row, "B", arithmetic)


def _queries(job: Job, search: MeasuredSearch) -> list[Line]:
    n, d = job.samples, job.index_dim
    stretch = d / search.dim
    scan, fixed = n * search.per_row * stretch, search.fixed * stretch
    embedding = job.checkpoints / job.rate
    where = "one thread, all in memory"
    if search.kind == "rabitq":  # whether short ones find enough shows on real vectors alone
        where += ", without short codes"
    return [
        Line("embedding a query", embedding, "s", f"{job.checkpoints} checkpoints / {job.rate:,.3g}/s, like a picture"),
        Line(
            "searching",
            scan + fixed,
            "s",
            f"{n:,} rows x {1e9 * search.per_row * stretch:,.1f} ns + {1e3 * fixed:,.2f} ms; {where}",
        ),
        Line("query", embedding + scan + fixed, "s", "embedding + searching"),
    ]


def _warnings(job: Job, values: Mapping[str, float]) -> list[str]:
    found = []
    shards, size = values["shards"], values["bytes of a shard"]
    rows = max(1, min(GOOD_SHARD // job.row_bytes, int(GOOD_TIME * job.rate), job.samples))
    if shards > 1000 and size < SMALL_SHARD and rows > job.shard_rows:
        found.append(f"{shards:,.0f} shards of {size / 2**20:.1f} MiB: set shard_rows to about {rows:,}")
    if (size > LARGE_SHARD or values["time of a shard"] > LONG_TIME) and rows < job.shard_rows:
        found.append(f"a shard takes long or is large: set shard_rows to about {rows:,}")
    if shards < 4 * job.workers:
        found.append(
            f"{shards:,.0f} shards for {job.workers:,} workers: some wait for the last ones; make shards smaller"
        )
    if values.get("searching", 0.0) > SLOW_QUERY:
        found.append("a search takes over a second on one thread: use fewer checkpoints, a smaller k, or more threads")
    return found
