"""Small pictures of training images, fetched side by side and kept for all sessions."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import streamlit as st

from forebear.images import to_png
from forebear_dashboard import session
from forebear_serve.client import Client, RefusedError

SIDE = 128
"""Pixels of the longer side."""
MADE = 0
"""In place of a side: a picture that was made or uploaded, as it is."""
MOST = 20_000
LASTS = 300.0
"""Seconds: as long as the server lets a browser keep a picture, so that a removed image is gone as soon."""
AT_ONCE = 8
NOT_FOUND = 404

Key = tuple[str, str, int]


class Thumbnails:
    """PNGs by server, id and size. `st.cache_data` would fetch a grid's pictures one after the other."""

    def __init__(self, most: int = MOST, lasts: float = LASTS) -> None:
        self._most, self._lasts = most, lasts
        self._lock, self._kept = threading.Lock(), OrderedDict[Key, tuple[bytes | None, float]]()

    def get(self, client: Client, place: str, ids: Iterable[str], side: int = SIDE) -> dict[str, bytes | None]:
        """By id; None for what is not, or no longer, there. Raises what the client raises."""
        found, missing, now = dict[str, bytes | None](), list[str](), time.monotonic()
        with self._lock:
            for one in dict.fromkeys(ids):
                kept = self._kept.get((place, one, side))
                if kept is not None and now < kept[1]:
                    found[one] = kept[0]
                    self._kept.move_to_end((place, one, side))
                else:
                    missing.append(one)
        if missing:
            with ThreadPoolExecutor(min(AT_ONCE, len(missing))) as pool:
                fetched = dict(zip(missing, pool.map(lambda one: _fetched(client, one, side), missing), strict=True))
            with self._lock:
                for one, png in fetched.items():
                    self._kept[place, one, side] = png, now + self._lasts
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            found |= fetched
        return found


def _fetched(client: Client, one: str, side: int) -> bytes | None:
    try:
        return to_png(client.picture_image(one) if side == MADE else client.sample_image(one, side))
    except RefusedError as refused:
        if refused.status == NOT_FOUND:
            return None
        raise


@st.cache_resource
def _thumbnails() -> Thumbnails:
    return Thumbnails()


def thumbnails(sample_ids: Iterable[str], side: int = SIDE) -> dict[str, bytes | None]:
    """Of the server that this session asks."""
    return _thumbnails().get(session.client(), session.address(), sample_ids, side)


def made_pictures(picture_ids: Iterable[str]) -> dict[str, bytes | None]:
    """Pictures that were made or uploaded; None for those that gave way to later ones."""
    return _thumbnails().get(session.client(), session.address(), picture_ids, MADE)
