"""docs/reference/formats.md: every file of a run and of a generator, from the schemas that write and read them."""

from dataclasses import fields
from typing import Any

import pyarrow as pa

from forebear.attribution.answer import ANSWER_FORMAT
from forebear.data import catalogue_cache
from forebear.evaluation import ground_truth
from forebear.gradients.projection import PROJECTION_VERSION
from forebear.index import description as index_description
from forebear.store import plan as store_plan
from forebear.store import removed, transfer_list
from forebear_generators.quantisation import files as generator_files
from forebear_generators.quantisation.layout import PlannedLayer
from forebear_generators.quantisation.network import Structure
from forebear_serve.database import exporting
from forebear_serve.database.tables import Base
from reference.docstrings import purpose
from reference.file_classes import JSON_FILES, TABLES, JsonFile
from reference.markdown import anchor, code, page, table
from reference.schema import fields_table, of_class

HEAD = """# Reference: files and formats

Made from the dataclasses and schemas that write and check the files. Every file is written beside its place (`.part`), synced
and renamed; JSON is UTF-8, numbers of other kinds little-endian. **A positive score means that training on the sample lowered the
query's loss**, in every file. A file of an unknown format version is refused with the remedy, never guessed at."""

TREE = (
    ("`run.yaml`", "`train`, `embed`", "the settings that replay the run, and the version that began it"),
    ("`model/`", "`train`, `embed --model`", "a diffusers pipeline directory; weights in safetensors alone"),
    (
        "`checkpoints/step-NNNNNNNN/`",
        "`train`",
        "[checkpoint.json](#checkpointjson), PART.safetensors for each trained part",
    ),
    ("`events.parquet`", "`train`", "[what training drew](#eventsparquet)"),
    ("`training/`", "`train`", "the state from which training goes on"),
    ("`store/manifest.json`", "`embed`", "[plan, weights, shards](#manifestjson)"),
    ("`store/samples.parquet`", "`embed`", "[which samples its rows are](#samplesparquet)"),
    ("`store/checkpoint=NAME/shard-NNNNN.parquet`", "`embed`", "[embeddings](#shard-nnnnnparquet)"),
    ("`store/checkpoint=NAME/shard-NNNNN.json`", "`embed`", "[the shard's record](#shard-nnnnnjson)"),
    (
        "`store/segments.json`, `store/segment-NNNN/`",
        "`embed --grow`",
        "[what was added later](#segmentsjson): the same files in a folder each",
    ),
    ("`store/removed.json`", "`store remove`, `--deny`", "[samples that no answer may name](#removedjson)"),
    ("`quarantine.json`", "`embed`", "[shards that were given up](#quarantinejson); there only while there are some"),
    (
        "`index/ESTIMATOR/`",
        "`index`",
        "[index.json](#indexjson), `ids.parquet`, `vectors.f16`, `scales.f32`, and of kind `rabitq` `shortlist.faiss`, `.i8` and `.f32` and `directions.i8`, or `towards.faiss` and `away.faiss`; in parts: [shards.json](#shardsjson)",
    ),
    (
        "`curvature/COLUMN/`",
        "`index`",
        "[curvature.json](#curvaturejson), one float64 matrix for each checkpoint, NAME.npy",
    ),
    (
        "`calibration/`",
        "`index`, answers",
        "[ESTIMATOR.json](#estimatorjson) with ESTIMATOR.npy (float32[N, M]), [pixels.json](#pixelsjson) with pixels.npy and pixels-coarse.npy (uint8), [neighbours.json](#neighboursjson)",
    ),
    (
        "`evaluation/NAME/`",
        "`evaluate`",
        "[result.json](#resultjson), [figures.parquet](#figuresparquet), `details.parquet`; of `lds` also [subsets.parquet](#subsetsparquet), [queries.parquet](#queriesparquet), `losses/`",
    ),
    ("`progress/STAGE.jsonl`", "long verbs", "a line of JSON for each report of progress; [jobs.md](../jobs.md)"),
    ("`reviews.sqlite`", "`reviews`, `token`, `serve`", "[reviews, tokens, log](#the-database)"),
    (
        "`served/ID.png`, `.json`",
        "`serve`",
        "pictures that were made or uploaded, with [PictureInfo](http.md#pictureinfo)",
    ),
    ("`audits/`, `jobs/ID/`", "`serve`", "kept audits (`.npz`); `job.json`, `log` and `exit` of each job"),
)
SECTIONS = (
    ("version", "of Forebear, when the run began"),
    ("data", "[DataConfig](settings.md#dataconfig)"),
    ("model", "[ModelConfig](settings.md#modelconfig), of a run of `forebear train`"),
    ("training", "[TrainingConfig](settings.md#trainingconfig), the same"),
    ("embedding", "[EmbedConfig](settings.md#embedconfig) without `workers`"),
    ("model_source", "`path` and `weights` (a fingerprint) of a model that was trained elsewhere"),
    ("subset", "`samples` and `ids` (a fingerprint), where a model was trained on a part"),
)
TENSORS = (
    (
        "LAYER.codes",
        "int8 (symmetric), uint8, or two 4-bit codes in a byte, first in the low half",
        "weights as integers",
    ),
    ("LAYER.scale", "float32[O]", "of each output channel"),
    ("LAYER.zero", "uint8[O]", "its zero point, where the grid is not symmetric"),
    ("LAYER.bias", "float32[O]", ""),
    (
        "LAYER.input_scale, LAYER.input_zero",
        "float32[steps], uint8[steps]",
        "range of the layer's input at each step of the sampler; one entry where steps share it",
    ),
    (
        "FEATURE.cache, FEATURE.cache_place",
        "[entries, classes, d], int32[steps]",
        "temporal features, and which of them each step reads",
    ),
    ("float.NAME", "as in the model", "what stays in floating numbers"),
)


def versions() -> str:
    """Every format version there is."""
    rows = [
        ("store: manifest and shards", code(store_plan.FORMAT_VERSION), "another one is refused; `embed --restart`"),
        (
            "projection, within the plan",
            code(PROJECTION_VERSION),
            "another one is another plan: its sketches cannot be compared",
        ),
        (
            "index",
            code(index_description.FORMAT_VERSION),
            "versions 2 to 4 without short codes, and exact indexes of version 1, are read as they are; others: `forebear index`",
        ),
        ("removed.json", code(removed.FORMAT_VERSION), "another one is refused"),
        ("transfer.json", code(transfer_list.FORMAT_VERSION), "another one is refused; `store push --replace`"),
        (
            "answers (`Attribution.to_dict`, HTTP)",
            code(ANSWER_FORMAT),
            "fields are added with a default; any other change raises it",
        ),
        ("LDS ground truth (plan.json)", code(ground_truth.FORMAT_VERSION), "another one is refused"),
        ("catalogue of a scanned source, in the cache", code(catalogue_cache.FORMAT), "another one is scanned anew"),
        (
            "quantised generator (generator.json)",
            code(generator_files.FORMAT),
            "another one is refused; quantise again",
        ),
        ("deny list in JSON", code(f"{exporting.DENY_FORMAT}, 1"), "any JSON list of ids is taken too"),
    ]
    return table(["format", "version", "when it is another"], rows)


def arrow_table(schema: pa.Schema) -> str:
    """Columns of a Parquet file: type, whether it can be null, metadata."""
    rows = []
    for field in schema:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        said = ", ".join(f"{key} {value}" for key, value in about.items())
        rows.append(
            (code(field.name), str(field.type).replace(" not null", ""), "yes" if field.nullable else "no", said)
        )
    return table(["column", "type", "null", "metadata"], rows)


def schema_metadata(schema: pa.Schema) -> str:
    rows = [(code(key.decode()), code(value.decode())) for key, value in (schema.metadata or {}).items()]
    return table(["key of the file's metadata", "here"], rows)


def json_section(one: JsonFile) -> str:
    """A JSON file: what it holds, and the objects within it."""
    parts = [
        page(
            f"## {one.name}" if place == 0 else f"### {kind.__name__}",
            one.about if place == 0 else "",
            purpose(kind),
            fields_table(of_class(kind), _link, kind),
        )
        for place, kind in enumerate(one.kinds)
    ]
    return page(*parts)


def _link(name: str) -> str:
    for one in JSON_FILES:
        for place, kind in enumerate(one.kinds):
            if kind.__name__ == name:
                return f"[{name}](#{anchor(one.name if place == 0 else name)})"
    return f"[{name}](settings.md#{anchor(name)})" if name.endswith("Config") else name


def database() -> str:
    """The tables of reviews and tokens."""
    parts = [
        page(
            f"### {name}",
            table(
                ["column", "type", "null"],
                [
                    (code(column.name), str(column.type).lower(), "yes" if column.nullable else "no")
                    for column in found.columns
                ],
            ),
        )
        for name, found in sorted(Base.metadata.tables.items())
    ]
    return page(
        "## The database",
        "SQLite or Postgres, made and changed by the migrations in `forebear_serve/database/migrations`. Secrets of tokens are kept as "
        "SHA-256 alone; the log cannot be changed or shortened. [reviews.md](../reviews.md) has the rules.",
        *parts,
    )


def deny_lists() -> str:
    return page(
        "## Deny lists",
        "Ids of samples that are to be left out, taken by `forebear train`, `embed` and `index` with `--deny` and by "
        "`forebear store remove --ids-file`: text with an id a line, a JSON list, JSON as below, or CSV or Parquet with a column "
        "`sample_id`. `forebear reviews export --format deny` and `GET /v1/reviews/export?format=deny` write them.",
        f"```json\n{exporting.deny_json(['3f2a9c'])}```",
    )


def generator() -> str:
    kept = [one.name for one in fields(Structure)]
    return page(
        "## A quantised generator",
        "A folder of `forebear quantize`: `generator.json`, `denoiser.safetensors`, and `parts/` with the model's other parts "
        "([quantised generators](../quantisation.md#on-disk)). Nothing is pickled.",
        "### generator.json",
        table(
            ["key", "what"],
            [
                ("`format`", f"{generator_files.FORMAT}"),
                ("`source`", "fingerprint of the weights that were quantised"),
                ("`checksum`", "SHA-256 of `denoiser.safetensors`"),
                ("`config`", "[QuantisationConfig](settings.md#quantisationconfig)"),
                *((code(name), "of [Structure](#structure)") for name in kept),
                ("`report`", "what was measured: bytes, errors of temporal features"),
            ],
        ),
        *(
            page(f"### {kind.__name__}", purpose(kind), fields_table(of_class(kind), _generator_link, kind))
            for kind in (Structure, PlannedLayer)
        ),
        "### denoiser.safetensors",
        table(["tensor", "type", "what"], [(code(name), kind, what) for name, kind, what in TENSORS]),
    )


def _generator_link(name: str) -> str:
    return f"[{name}](#{anchor(name)})"


def parquet_section(name: str, about: str, schema: Any) -> str:
    return page(f"## {name}", about, arrow_table(schema), schema_metadata(schema))


def formats_page() -> str:
    return page(
        HEAD,
        "## Versions",
        versions(),
        "## A run",
        table(["file", "written by `forebear ...`", "what"], TREE),
        "## run.yaml",
        table(["section", "what"], [(code(name), what) for name, what in SECTIONS]),
        *(json_section(one) for one in JSON_FILES),
        *(parquet_section(*one) for one in TABLES),
        deny_lists(),
        generator(),
        database(),
    )
