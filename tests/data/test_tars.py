"""WebDataset tars: samples by key, pictures by offset, damage that names the tar."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from forebear.data import Columns, DataConfig, TrainingSet, open_training_set, sample_id
from forebear.errors import DataError
from forebear.images import decode

Png = Callable[..., bytes]
WriteTar = Callable[..., Path]


def opened(source: Path | str, image_column: str = "image", **columns: object) -> TrainingSet:
    return open_training_set(DataConfig(str(source), Columns(**columns), image_column, max_bytes=1_000))


def test_members_become_captions_labels_and_groups(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    info = json.dumps({"artist": "Æsa", "text": "from json", "style": 3}).encode()
    write_tar(
        tmp_path / "a.tar",
        [
            ("x/000.png", png(0)),
            ("x/000.txt", b" a cat\n"),
            ("x/000.cls", b"7\n"),
            ("x/000.json", info),
            ("x/000.embedding.npy", b"\0" * 5_000),
            ("x/001.JPG", png(1)),
            ("x/001.json", info),
            ("__meta__.json", b"{}"),
            ("README", b"nothing of a sample"),
            (".hidden.png", png(9)),
        ],
    )
    first, second = opened(tmp_path, group_columns=("artist",)).samples
    assert (first.caption, first.label, first.groups) == ("a cat", 7, {"artist": "Æsa"})
    assert (second.caption, second.label) == ("from json", None)
    assert [first.id, second.id] == [sample_id("x/000.png", png(0)), sample_id("x/001.JPG", png(1))]
    chosen = opened(tmp_path, caption_column="text", label_column="style").samples
    assert [(s.caption, s.label) for s in chosen] == [("from json", 3)] * 2


def test_pictures_are_read_at_their_offsets_whatever_the_names_length(
    tmp_path: Path, png: Png, write_tar: WriteTar
) -> None:
    long = "n" * 300  # needs a header of its own, in GNU's and in POSIX' way
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=kind) as archive:
            for seed in range(5):
                for suffix, content in (("txt", b"words " * 200), ("png", png(seed))):
                    entry = tarfile.TarInfo(f"{long}{seed}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        opened_set = opened(path)
        for row in (3, 0, 4, 1, 2):
            assert opened_set.picture(row).tobytes() == decode(png(row)).tobytes()
            assert opened_set.samples[row].id == sample_id(f"{long}{row}.png", png(row))


def test_the_picture_of_the_chosen_suffix_is_taken(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.mask.png", png(0)), ("0.png", png(1)), ("1.mask.png", png(2))])
    assert opened(path).picture(0).tobytes() == decode(png(0)).tobytes()
    chosen = opened(path, "png")
    assert [chosen.picture(row).tobytes() for row in (0, 1)] == [decode(png(s)).tobytes() for s in (1, 2)]


def test_many_tars_by_folder_glob_and_braces(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    for number in range(12):
        write_tar(
            tmp_path / f"shard-{number:04d}.tar", [(f"{number}.png", png(number)), (f"{number}.txt", b"%d" % number)]
        )
    expected = [str(number) for number in range(12)]
    assert [s.caption for s in opened(tmp_path).samples] == expected
    assert [s.caption for s in opened(tmp_path / "shard-*.tar").samples] == expected
    assert [s.caption for s in opened(tmp_path / "shard-{0000..0011}.tar").samples] == expected
    assert [s.caption for s in opened(tmp_path / "shard-00{11,0{2..4}}.tar").samples] == ["11", "2", "3", "4"]
    with pytest.raises(DataError, match=r"shard-0012\.tar does not exist; restore it"):
        opened(tmp_path / "shard-{0010..0012}.tar")
    with pytest.raises(DataError, match="names 0 files"):
        opened(tmp_path / "shard-{0005..0001}.tar")


def test_a_folder_of_pictures_with_a_tar_in_it_stays_one(folder: Path, png: Png, write_tar: WriteTar) -> None:
    before = opened(folder)
    write_tar(folder / "backup.tar", [("0.png", png(5))])
    assert opened(folder).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("b.png", b"no picture")], "not a picture"),
        ([("b.png", b"")], "empty file"),
        ([("b.png", b"x" * 1_001)], "more than 1,000"),
        ([("b.txt", b"alone")], "no member of this key is a picture"),
        ([("b.png", "same"), ("b.json", b"{")], r"\.json cannot be read"),
        ([("b.png", "same"), ("b.json", b"[1]")], "no object"),
        ([("b.png", "same"), ("b.txt", b"\xff")], r"\.txt cannot be read"),
    ],
)
def test_a_broken_sample_is_quarantined_and_changes_no_other(
    tmp_path: Path, png: Png, write_tar: WriteTar, members: Sequence[tuple[str, bytes | str]], reason: str
) -> None:
    broken = [(name, png(5) if isinstance(content, str) else content) for name, content in members]
    around = ([("a.png", png(0)), ("a.txt", b"a")], [("c.png", png(1)), ("c.txt", b"c")])
    whole = opened(write_tar(tmp_path / "whole" / "t.tar", [*around[0], *around[1]]))
    found = opened(write_tar(tmp_path / "t.tar", [*around[0], *broken, *around[1]]))
    assert found.fingerprint == whole.fingerprint
    (entry,) = found.quarantined
    assert entry.locator == "t.tar, b"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(entry.reason)
    assert found.picture(1).tobytes() == decode(png(1)).tobytes()


def test_equal_members_of_two_tars_are_two_samples(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    for name in ("a", "b", "c"):
        write_tar(tmp_path / f"{name}.tar", [("0.png", png(0))])
    assert [s.id for s in opened(tmp_path).samples] == [
        sample_id(name, png(0)) for name in ("0.png", "0.png#2", "0.png#3")
    ]


@pytest.mark.parametrize("kept", [0, 100, 512, 700, "half", "without its end", "a block short"])
def test_a_truncated_tar_is_named(tmp_path: Path, png: Png, write_tar: WriteTar, kept: int | str) -> None:
    members = [(f"{seed}.png", png(seed)) for seed in range(4)]
    whole = write_tar(tmp_path / "a.tar", members).read_bytes()
    end = max(place for place in range(0, len(whole), 512) if any(whole[place : place + 512])) + 512
    cut = {"half": end // 2, "without its end": end, "a block short": end - 512}.get(str(kept), kept)
    assert isinstance(cut, int)
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"a\.tar is truncated, damaged or no uncompressed tar .*replace it"):
        opened(tmp_path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{seed}.png", png(seed)) for seed in range(4)])
    content = bytearray(path.read_bytes())
    second = content.index(b"1.png\0")
    content[second] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=rf"damaged at byte {second:,}"):
        opened(tmp_path)


def test_compressed_and_foreign_tars_are_refused(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", png(0))], "w:gz")
    with pytest.raises(DataError, match=r"a\.tar is truncated, damaged or no uncompressed tar.*unpack"):
        opened(tmp_path)
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match=r"a\.tar\.gz is compressed; unpack it"):
        opened(tmp_path / "*.tar.gz")


def test_a_tar_without_pictures_is_named_with_what_it_holds(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", png(0))])
    write_tar(tmp_path / "b.tar", [("0.json", b"{}"), ("1.txt", b"words")])
    with pytest.raises(DataError, match=r"b\.tar holds no picture, only members that end in \.json, \.txt; leave"):
        opened(tmp_path)


def test_keys_that_occur_twice_are_refused(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", png(0)), ("b.png", png(1)), ("a.txt", b"late")])
    with pytest.raises(DataError, match=r"a\.tar: the key 'a' comes again .*side by side"):
        opened(path)
    write_tar(path, [("a.png", png(0)), ("a.png", png(1))])
    with pytest.raises(DataError, match=r"a\.tar has two members a\.png; keep one"):
        opened(path)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, png: Png, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("0.txt", b"a"), ("0.json", b'{"artist": "x"}')])
    for chosen in ({"caption_column": "words"}, {"label_column": "words"}, {"group_columns": ("artist", "words")}):
        with pytest.raises(DataError, match="has no column 'words'; choose among: artist, txt"):
            opened(path, **chosen)


def test_a_tar_that_changed_since_the_scan_is_an_error_with_the_place(
    tmp_path: Path, png: Png, write_tar: WriteTar
) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.png", png(0))])
    opened_set = opened(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar, byte 512 was readable and is not any more .*scan again"):
        opened_set.picture(0)
    path.unlink()
    with pytest.raises(DataError, match="restore the file"):
        opened_set.picture(0)
