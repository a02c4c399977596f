"""Which dataclass a JSON file of a run holds, and which Arrow schema a Parquet file has."""

from typing import NamedTuple

import pyarrow as pa

from forebear.attribution.calibration import CalibrationDescription
from forebear.attribution.curvature import CurvatureDescription
from forebear.attribution.decoded import DecodedDescription
from forebear.attribution.memorisation import NeighbourDescription
from forebear.data.catalogue import QUARANTINE_SCHEMA, SAMPLE_SCHEMA
from forebear.diffusion import events
from forebear.diffusion.checkpoint import Checkpoint
from forebear.evaluation import figures, queries, subsets
from forebear.evaluation.figures import Figure, Result
from forebear.index.description import FileRecord, IndexDescription, IndexMetadata, Recall, WeightedCheckpoint
from forebear.index.sharded import PartRecord, ShardsDescription
from forebear.jobs.quarantine import QuarantinedShard
from forebear.store import samples
from forebear.store.manifest import Manifest
from forebear.store.plan import PlannedCheckpoint, StorePlan
from forebear.store.removed import RemovedSample
from forebear.store.segments import ListedSegment
from forebear.store.shard import ShardRecord, shard_schema
from forebear.store.transfer_list import Transfer, TransferredFile
from forebear_serve.database import exporting


class JsonFile(NamedTuple):
    """A JSON file, what is said of it, and the classes in it, its own first."""

    name: str
    about: str
    kinds: tuple[type, ...]


JSON_FILES = (
    JsonFile("checkpoint.json", "In the folder of each checkpoint.", (Checkpoint,)),
    JsonFile("manifest.json", "In `store/` and in each of its segments.", (Manifest, StorePlan, PlannedCheckpoint)),
    JsonFile("shard-NNNNN.json", "Beside each shard; the manifest repeats it.", (ShardRecord,)),
    JsonFile("segments.json", "`segments`: a list of", (ListedSegment,)),
    JsonFile("removed.json", "`format_version`, and `removed`: a list, by id, of", (RemovedSample,)),
    JsonFile("transfer.json", "At the address of `forebear store push`.", (Transfer, TransferredFile)),
    JsonFile("quarantine.json", "`plan_hash` of the store, and `shards`: a list of", (QuarantinedShard,)),
    JsonFile(
        "index.json",
        "In the folder of each index. `vectors.f16` is float16[count, dim], each row times its number of `scales.f32` (float32).",
        (IndexDescription, IndexMetadata, WeightedCheckpoint, Recall, FileRecord),
    ),
    JsonFile(
        "shards.json", "In the folder of an index in parts, each of which is an index.", (ShardsDescription, PartRecord)
    ),
    JsonFile("curvature.json", "In `curvature/COLUMN`.", (CurvatureDescription,)),
    JsonFile("ESTIMATOR.json", "In `calibration/`.", (CalibrationDescription,)),
    JsonFile("pixels.json", "In `calibration/`.", (DecodedDescription,)),
    JsonFile("neighbours.json", "In `calibration/`.", (NeighbourDescription,)),
    JsonFile("result.json", "In `evaluation/NAME`; a number that is not finite is `null`.", (Result, Figure)),
)
EXAMPLE = StorePlan(
    dataset="0" * 32,
    sample_count=1444,
    checkpoints=(PlannedCheckpoint("step-00004000", 4000, "0" * 32),),
    measurement="loss",
    timestep_scheme="stratified",
    timesteps=(62, 187, 312, 437, 562, 687, 812, 937),
    timesteps_per_sample=8,
    draws=1,
    projection={},
    dim=4096,
    shard_rows=256,
)
"""A plan, to show the schema that follows from one."""

TABLES: tuple[tuple[str, str, pa.Schema], ...] = (
    (
        "shard-NNNNN.parquet",
        (
            "N rows of a checkpoint, uncompressed, without a dictionary, with page checksums; here of a plan with k = 4096, "
            "T = 8 and the default columns. A vector is its float16 numbers times the scale beside it; other measurements "
            "add `square_mean` or `output_unit_mean` in the same way."
        ),
        shard_schema(EXAMPLE, "step-00004000", 0),
    ),
    ("samples.parquet", "A row for each row of the store or segment, in their order.", samples.SCHEMA),
    (
        "events.parquet",
        (
            "What training drew in the epoch that each checkpoint closes. `noise_seed` and `noise_draw` with sample id and "
            "timestep are the key of the noise."
        ),
        events.SCHEMA,
    ),
    (
        "ids.parquet",
        "In the folder of an index.",
        pa.schema([("row", pa.int64()), ("sample_id", pa.string())]),
    ),
    (
        "catalogue: samples",
        "Arrow IPC in the cache folder (`FOREBEAR_CACHE`): what a scan of a source found.",
        SAMPLE_SCHEMA,
    ),
    ("catalogue: quarantined", "Beside it: what cannot be used, and why.", QUARANTINE_SCHEMA),
    ("figures.parquet", "Of `forebear evaluate`, and `report.parquet` of all evaluations together.", figures.SCHEMA),
    ("subsets.parquet", "Of `forebear evaluate lds`: the numbers of the parts that each sample is in.", subsets.SCHEMA),
    ("queries.parquet", "Of the same; `queries.npy` holds their pixels, float32[Q, C, H, W].", queries.SCHEMA),
    (
        "Exports of reviews",
        (
            "`forebear reviews export` in Parquet; CSV has the same columns, groups as JSON, times as ISO 8601, and an "
            "apostrophe before text that a spreadsheet would compute."
        ),
        exporting.SCHEMA,
    ),
)
"""Name, what is said of it, schema."""
