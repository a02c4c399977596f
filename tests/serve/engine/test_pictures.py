"""Pictures kept in the run: found again, whole, no more than there may be."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from forebear.images import to_png
from forebear_serve.engine.pictures import PRUNE_EVERY, PictureStore, content_id
from forebear_serve.problems import Problem
from forebear_serve.schemas import PictureInfo


def info(number: int) -> PictureInfo:
    return PictureInfo(
        id=content_id("test", number),
        origin="generated",
        width=2,
        height=2,
        prompt=f"p{number}",
        created=datetime.now(UTC),
    )


def png(number: int) -> bytes:
    return to_png(Image.new("RGB", (2, 2), (number % 256, 0, 0)))


def test_a_picture_is_found_by_another_replica(tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "served", 10)
    store.add(info(1), png(1))
    other = PictureStore(tmp_path / "served", 10)
    assert other.info(info(1).id).prompt == "p1"
    assert other.png(info(1).id) == png(1)
    assert other.picture(info(1).id).getpixel((0, 0)) == (1, 0, 0)
    with pytest.raises(Problem, match="make it again"):
        other.png(info(2).id)


def test_the_oldest_go_first(tmp_path: Path) -> None:
    store = PictureStore(tmp_path, 5)
    for number in range(PRUNE_EVERY + 1):
        store.add(info(number), png(number))
        os.utime(tmp_path / f"{info(number).id}.json", (number, number))
    store.prune()
    assert {number for number in range(PRUNE_EVERY + 1) if info(number).id in store} == set(
        range(PRUNE_EVERY - 4, PRUNE_EVERY + 1)
    )
    assert len(list(tmp_path.iterdir())) == 10


def test_ids_tell_apart_what_strings_put_together_do_not() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id(b"ab", b"c") != content_id(b"abc")
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
