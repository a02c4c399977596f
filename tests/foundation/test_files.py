"""Files are whole or absent, and what identifies them does not drift."""

import json
from pathlib import Path

import pytest

from forebear.errors import DataError, StoreError
from forebear.files import fingerprint, read_json, sha256_of_file, whole_file, write_json, write_text


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 - the interruption comes from within
        with whole_file(path) as part:
            part.write_text("half of the new")
            raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_nothing_is_visible_before_the_write_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with whole_file(path) as part:
        part.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


def test_json_round_trip_keeps_unicode_readable(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"b": "Ærø 😀", "a": [1, 2.5, None]})
    assert "Ærø 😀" in path.read_text(encoding="utf-8")
    assert read_json(path, DataError, "restore it") == {"a": [1, 2.5, None], "b": "Ærø 😀"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}"])
def test_broken_json_is_the_callers_error_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"broken\.json is not valid JSON; embed again"):
        read_json(path, StoreError, "embed again")


def test_missing_json_is_the_callers_error_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist; embed again"):
        read_json(tmp_path / "none.json", StoreError, "embed again")
    with pytest.raises(StoreError, match="cannot be read"):
        read_json(tmp_path, StoreError, "embed again")


def test_fingerprints_see_values_and_not_the_order_of_keys() -> None:
    value = {"b": [1, 2.5, None], "a": "é"}
    assert fingerprint(value) == fingerprint(json.loads('{"a": "é", "b": [1, 2.5, null]}'))
    assert fingerprint(value) != fingerprint({**value, "a": "e"})
    # Stores on disk carry fingerprints: a change here would orphan them.
    assert fingerprint(value) == "3276393bf8a5a8df0e5ddcb8f78302ef"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
