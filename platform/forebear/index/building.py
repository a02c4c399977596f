"""Building an index beside its place, measuring it, and putting it there as a whole."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forebear.config import plain
from forebear.errors import SearchIndexError
from forebear.files import sha256_of_file, sync_folder, whole_file, write_json
from forebear.index.codes import CODE_FILES, write_codes
from forebear.index.description import FileRecord, IndexConfig, IndexDescription, IndexMetadata, Recall
from forebear.index.libraries import check_libraries
from forebear.index.matrix import SCALES_FILE, VECTORS_FILE, HalfMatrix, write_matrix
from forebear.index.recall import EXACT, measure_recall, sample
from forebear.index.searching import DESCRIPTION_FILE, IDS_FILE, VectorIndex, previous
from forebear.index.shortlist import SHORTLIST_FILES, Shortlist, write_shortlist


def build_index(
    folder: Path,
    blocks: Iterable[tuple[int, NDArray[np.float32]]],
    dim: int,
    ids: Sequence[str],
    *,
    config: IndexConfig,
    metadata: IndexMetadata,
    source: str = "",
) -> VectorIndex:
    """Build the index of `folder` from (first row, float32[B, dim]) blocks in order; `ids` names every row.

    `source` is kept in the description, for whoever asks later what the vectors were made from.

    Whatever interrupts it, an index that was there before stays whole. One build of a folder at a time. The same blocks
    give the same bytes. The index is returned whatever its recall: look at `description.recall`.

    Raises SearchIndexError when vectors are missing, of another dimension or not finite, when ids repeat, or when FAISS
    is needed and not installed.
    """
    check_ids(ids)
    if chosen_kind(config, len(ids)) == "rabitq":
        check_libraries()
    for leftover in folder.parent.glob(f"{folder.name}.part-*"):
        shutil.rmtree(leftover)
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _write(part, blocks, dim, ids, config=config, metadata=metadata, source=source)
        put_in_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return VectorIndex.open(folder, allow_low_recall=True)


def check_ids(ids: Sequence[str]) -> None:
    """Raises SearchIndexError when there are none, or one names two rows."""
    if not ids or len(set(ids)) != len(ids):
        raise SearchIndexError(
            f"{len(ids)} sample ids with {len(set(ids))} different ones; an index needs one id for each row"
        )


def chosen_kind(config: IndexConfig, count: int) -> Literal["exact", "rabitq"]:
    """What `auto` comes to for `count` vectors."""
    if config.kind == "auto":
        return "exact" if count <= config.exact_limit else "rabitq"
    return config.kind


def _write(
    part: Path,
    blocks: Iterable[tuple[int, NDArray[np.float32]]],
    dim: int,
    ids: Sequence[str],
    *,
    config: IndexConfig,
    metadata: IndexMetadata,
    source: str,
) -> None:
    kind = chosen_kind(config, len(ids))
    matrix = write_matrix(part, blocks, len(ids), dim)
    _write_ids(part / IDS_FILE, ids)
    names = [VECTORS_FILE, SCALES_FILE, IDS_FILE]
    recall, width = EXACT, 0
    if kind == "rabitq":
        code_files, recall, width = _write_codes(part, matrix, config)
        names.extend(code_files)
    files = {name: FileRecord((part / name).stat().st_size, sha256_of_file(part / name)) for name in names}
    description = IndexDescription(metadata, config, kind, len(ids), dim, recall, files, width, source)
    write_json(part / DESCRIPTION_FILE, plain(description))


def _write_codes(part: Path, matrix: HalfMatrix, config: IndexConfig) -> tuple[tuple[str, ...], Recall, int]:
    """Write short codes where they find enough, long ones otherwise: their files, recall, and the width of short ones.

    Both are measured with the same rows, from which short codes learn nothing.
    """
    searched = sample(matrix.count, config)
    if matrix.count >= config.short_codes_from:
        write_shortlist(part, matrix, searched)
        widths = (config.short_factor, 2 * config.short_factor)
        tried = [Shortlist(part, matrix.count, matrix.dim, width) for width in widths]
        recalls = measure_recall(matrix, tried, config.short_candidates, searched)
        for width, recall in zip(widths, recalls, strict=True):
            if recall.lowest >= config.short_recall:
                return SHORTLIST_FILES, recall, width
        for name in SHORTLIST_FILES:
            (part / name).unlink()
    codes = write_codes(part, matrix)
    (recall,) = measure_recall(matrix, [codes], config.candidates, searched)
    return CODE_FILES, recall, 0


def _write_ids(path: Path, ids: Sequence[str]) -> None:
    table = pa.table({"row": pa.array(range(len(ids)), pa.int64()), "sample_id": pa.array(ids, pa.string())})
    with whole_file(path) as part:
        pq.write_table(table, part, compression="none", use_dictionary=False, write_page_checksum=True)


def put_in_place(part: Path, folder: Path) -> None:
    """Replace the folder of an index by a finished one.

    A folder cannot be renamed over another, so the old one steps aside, to a name where `open` looks too.
    """
    if folder.exists():
        shutil.rmtree(previous(folder), ignore_errors=True)
        folder.rename(previous(folder))
    part.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(previous(folder), ignore_errors=True)
