"""The training images of a run, for pages: lists, search, groups, thumbnails; and the pictures that were uploaded."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from forebear.attribution.live import LiveRun
from forebear.attribution.opening import open_whole
from forebear.images import to_png
from forebear.run import Run
from forebear_serve.engine.pictures import FOLDER, PictureStore, decoded_upload
from forebear_serve.problems import invalid, not_found
from forebear_serve.schemas import GroupInfo, GroupValue, PictureInfo, SampleInfo, SamplePage
from forebear_serve.settings import Limits

SEARCHED = ("id", "caption")
THUMBNAILS = 20_000
"""Encoded pictures kept in memory, a few kilobytes each."""
SIZES = (32, 64, 128, 256, 512)
"""Sides of pictures that are given out: any other size is the next larger of these, so that caches hit."""


class Catalogue:
    """Removed images are in no list and have no picture."""

    def __init__(self, run: Path, limits: Limits) -> None:
        opened = Run(run)
        self._known = LiveRun.of(opened, *open_whole(opened))
        self._limits = limits
        self._pictures = PictureStore(run / FOLDER, limits.kept_pictures)
        self._thumbnails: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Whether the images' source still gives pictures: raises when not."""
        live = self._live()
        if len(live.training_set):
            live.training_set.picture(0, SIZES[0])

    def page(
        self, text: str = "", group: str | None = None, value: str | None = None, after: int = -1, limit: int = 60
    ) -> SamplePage:
        """Samples whose id or caption contains `text`, of a group's value; those after row `after`, at most `limit`."""
        live = self._live()
        rows = self._matching(live, text, group, value)
        first = int(np.searchsorted(rows, after, side="right"))
        shown = rows[first : first + min(limit, self._limits.page)]
        more = first + len(shown) < len(rows)
        return SamplePage(
            samples=tuple(sample_info(live, row) for row in shown.tolist()),
            total=len(rows),
            next=int(shown[-1]) if more and len(shown) else None,
        )

    def sample(self, sample_id: str) -> SampleInfo:
        """Raises Problem 404 when there is no such sample, or it was removed."""
        live = self._live()
        return sample_info(live, self._row(live, sample_id))

    def groups_of(self, sample_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """By sample, its groups; raises Problem 404 for the first that is not there, or was removed."""
        live = self._live()
        return {one: sample_info(live, self._row(live, one)).groups for one in sample_ids}

    def sample_png(self, sample_id: str, size: int) -> bytes:
        """The sample's picture, at most about `size` pixels along its longer side."""
        live = self._live()
        row = self._row(live, sample_id)
        side = next((one for one in SIZES if one >= size), SIZES[-1])
        key = sample_id, side
        with self._lock:
            if key in self._thumbnails:
                self._thumbnails.move_to_end(key)
                return self._thumbnails[key]
        picture = live.training_set.picture(row, side)
        if max(picture.size) > side:
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        png = to_png(picture)
        with self._lock:
            self._thumbnails[key] = png
            while len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return png

    def sample_picture(self, sample_id: str, size: int) -> tuple[Image.Image, SampleInfo]:
        """The sample's picture as its source gives it, for tracing by a model of `size` pixels, and what it is."""
        live = self._live()
        row = self._row(live, sample_id)
        return live.training_set.picture(row, size), sample_info(live, row)

    def groups(self, limit: int = 100) -> tuple[GroupInfo, ...]:
        """The group columns, each with its most frequent values."""
        live = self._live()
        found = []
        for name in live.training_set.group_names:
            counted = Counter(value or "" for value in live.training_set.samples.group(name).to_pylist())
            values = sorted(counted.items(), key=lambda one: (-one[1], one[0]))
            listed = tuple(GroupValue(value=value, samples=count) for value, count in values[:limit])
            found.append(GroupInfo(name=name, values=listed, distinct=len(values)))
        return tuple(found)

    def upload(self, data: bytes) -> PictureInfo:
        """Keep a stranger's picture; raises Problem when it is refused."""
        return self._pictures.add_upload(decoded_upload(data, self._limits.upload_bytes, self._limits.pixels))

    def picture(self, picture_id: str) -> tuple[Image.Image, PictureInfo]:
        """A made or uploaded picture; raises Problem 404."""
        return self._pictures.picture(picture_id), self._pictures.info(picture_id)

    def picture_png(self, picture_id: str) -> bytes:
        return self._pictures.png(picture_id)

    def picture_info(self, picture_id: str) -> PictureInfo:
        return self._pictures.info(picture_id)

    def _live(self) -> LiveRun:
        self._known = self._known.current()
        return self._known

    @staticmethod
    def _row(live: LiveRun, sample_id: str) -> int:
        row = live.training_set.samples.row(sample_id)
        if row is None:
            raise not_found(f"no training image {sample_id[:80]}; list them with GET /v1/samples")
        return row

    @staticmethod
    def _matching(live: LiveRun, text: str, group: str | None, value: str | None) -> NDArray[np.int64]:
        samples = live.training_set.samples
        keep = np.ones(len(samples), np.bool_)
        if text:
            found = [_truth(pc.match_substring(samples.column(one), text, ignore_case=True)) for one in SEARCHED]
            keep &= np.logical_or.reduce(found)
        if group is not None:
            if group not in live.training_set.group_names:
                known = ", ".join(live.training_set.group_names) or "none"
                raise invalid(f"there is no group column {group[:80]}; choose of {known}")
            keep &= _truth(pc.equal(samples.group(group).fill_null(""), value or ""))
        elif value is not None:
            raise invalid("value needs a group: say of which column it is")
        return np.flatnonzero(keep).astype(np.int64)


def sample_info(live: LiveRun, row: int) -> SampleInfo:
    """The sample of a row, as pages show it."""
    sample = live.training_set.samples[row]
    return SampleInfo(
        id=sample.id,
        row=row,
        caption=sample.caption,
        label=sample.label,
        groups={name: value or "" for name, value in sample.groups.items()},
    )


def _truth(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """bool[N]; null is false."""
    return np.asarray(column.fill_null(False).to_numpy(), np.bool_)
