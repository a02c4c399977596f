"""Every file source from S3, tried against a server on loopback, and what a refusing or silent one says."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from forebear.data import Columns, DataConfig, TrainingSet, catalogue_cache, open_training_set
from forebear.data.storage import object_storage
from forebear.data.tars import TarSource
from forebear.errors import DataError
from forebear.images import decode

pytest.importorskip("moto", reason="the S3 server of the dev extra is not installed")

Png = Callable[..., bytes]

FOOTER = 80_000
"""What a reader of Parquet takes from the end of a file, in bytes."""


@pytest.fixture
def upload(server_files: pafs.FileSystem, bucket: str) -> Callable[[Path, str], str]:
    """Copies a local folder under a prefix; returns its address."""

    def copy(folder: Path, prefix: str) -> str:
        pafs.copy_files(
            str(folder),
            f"{bucket}/{prefix}",
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=server_files,
        )
        return f"s3://{bucket}/{prefix}"

    return copy


def opened(source: Path | str, **columns: object) -> TrainingSet:
    return open_training_set(DataConfig(str(source), Columns(**columns), max_bytes=2_000))


def assert_same(remote: TrainingSet, local: TrainingSet) -> None:
    assert remote.fingerprint == local.fingerprint
    assert remote.samples == local.samples
    assert remote.quarantined == local.quarantined
    for row in reversed(range(len(local))):
        assert remote.picture(row).tobytes() == local.picture(row).tobytes()


def test_a_folder_of_pictures(folder: Path, png: Png, upload: Callable[[Path, str], str]) -> None:
    (folder / "dog-x").mkdir()
    (folder / "dog-x" / "a.png").write_bytes(png(7))
    (folder / "dog" / "bad.png").write_bytes(b"bad")
    (folder / "metadata.jsonl").write_text('{"file_name": "cat/a.png", "text": "a cat", "artist": "x"}\n')
    local = opened(folder, group_columns=("artist",))
    assert len(local.quarantined) == 1
    assert_same(opened(upload(folder, "set/pictures"), group_columns=("artist",)), local)


def test_parquet_files(tmp_path: Path, png: Png, upload: Callable[[Path, str], str]) -> None:
    for number in range(2):
        cells = [{"bytes": png(3 * number + row), "path": f"{row}.png"} for row in range(3)]
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"image": cells, "text": ["a", "b", "c"]}),
            tmp_path / "data" / f"{number}.parquet",
            row_group_size=2,
        )
    address = upload(tmp_path, "hf")
    for suffix in ("", "/data/*.parquet", "/data/{0,1}.parquet"):
        assert_same(opened(f"{address}{suffix}"), opened(f"{tmp_path}{suffix}"))
    assert_same(opened(f"{address}/data/1.parquet"), opened(tmp_path / "data" / "1.parquet"))


def test_tars(tmp_path: Path, write_tar: Callable[..., Path], png: Png, upload: Callable[[Path, str], str]) -> None:
    for number in range(3):
        write_tar(tmp_path / f"shard-{number:03d}.tar", [(f"{number}.png", png(number)), (f"{number}.txt", b"words")])
    address = upload(tmp_path, "tars")
    assert_same(opened(address), opened(tmp_path))
    assert_same(opened(f"{address}/shard-{{001..002}}.tar"), opened(tmp_path / "shard-{001..002}.tar"))
    with pytest.raises(DataError, match=r"s3://.*/tars/shard-003\.tar does not exist"):
        opened(f"{address}/shard-{{001..003}}.tar")


def test_an_arrow_directory(
    tmp_path: Path, save_to_disk: Callable[..., Path], png: Png, upload: Callable[[Path, str], str]
) -> None:
    save_to_disk(tmp_path, [[png(0), png(1), png(2)], [png(3)]])
    assert_same(opened(upload(tmp_path, "arrow")), opened(tmp_path))


def test_one_picture_costs_its_own_bytes(
    tmp_path: Path, write_tar: Callable[..., Path], upload: Callable[[Path, str], str], png: Png
) -> None:
    """Ranges asked for, not files: counted where they are read."""
    pictures = [png(seed, 90) for seed in range(40)]
    write_tar(tmp_path / "t" / "a.tar", [(f"{n}.png", content) for n, content in enumerate(pictures)])
    (tmp_path / "p").mkdir(parents=True)
    cells = pa.table({"image": [{"bytes": content, "path": None} for content in pictures]})
    pq.write_table(cells, tmp_path / "p" / "a.parquet", row_group_size=4, compression="none")
    for kind, rows in (("t", 1), ("p", 4)):
        address = upload(tmp_path / kind, f"counted-{kind}")
        opened_set = open_training_set(DataConfig(address))
        storage = opened_set._source._storage  # type: ignore[attr-defined]
        asked: list[int] = []
        storage._opened.cache_clear()
        storage._filesystem = pafs.PyFileSystem(_Counting(storage._filesystem, asked))
        assert opened_set.picture(17).tobytes() == decode(pictures[17]).tobytes()
        whole = sum(file.size for file in object_storage(address).walk())
        own = sum(len(content) for content in pictures[16 : 16 + rows])
        assert own / rows <= sum(asked) < own + FOOTER < whole / 3, kind


class _Counting(pafs.FSSpecHandler):
    """A file system that notes how many bytes are read through it."""

    def __init__(self, inner: pafs.FileSystem, asked: list[int]) -> None:
        self.inner, self.asked = inner, asked

    def get_type_name(self) -> str:
        return "counting"

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_CountingFile(self.inner.open_input_file(path), self.asked), mode="r")


class _CountingFile:
    def __init__(self, inner: pa.NativeFile, asked: list[int]) -> None:
        self.inner, self.asked = inner, asked
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        content: bytes = self.inner.read(size)
        self.asked.append(len(content))
        return content

    def seek(self, place: int, whence: int = 0) -> int:
        return int(self.inner.seek(place, whence))

    def tell(self) -> int:
        return int(self.inner.tell())

    def close(self) -> None:
        self.closed = True


def test_a_catalogue_saves_reading_everything_again(
    tmp_path: Path,
    write_tar: Callable[..., Path],
    png: Png,
    upload: Callable[[Path, str], str],
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
) -> None:
    monkeypatch.setattr(catalogue_cache, "SETTLED_SECONDS", -60.0)
    write_tar(tmp_path / "a.tar", [("0.png", png(0))])
    address = upload(tmp_path, "kept")
    first = opened(address)
    assert len(list((cache / "catalogues").iterdir())) == 1
    monkeypatch.setattr(TarSource, "parts", lambda *_: pytest.fail("scanned again"))
    again = opened(address)
    assert again.fingerprint == first.fingerprint
    assert again.picture(0).tobytes() == decode(png(0)).tobytes()


def test_what_is_not_there_is_said(bucket: str) -> None:
    with pytest.raises(DataError, match=f"s3://{bucket}/none does not exist; give"):
        opened(f"s3://{bucket}/none")
    with pytest.raises(DataError, match=rf"s3://{bucket}/none/\*\.parquet does not exist"):
        opened(f"s3://{bucket}/none/*.parquet")
    with pytest.raises(DataError, match=r"s3://no-such-bucket/.*bucket does not exist"):
        opened("s3://no-such-bucket/x/*.tar")
    with pytest.raises(DataError, match="names no bucket"):
        opened("s3://")


def test_a_truncated_tar_and_a_damaged_parquet_file_are_named_by_address(
    tmp_path: Path, write_tar: Callable[..., Path], png: Png, upload: Callable[[Path, str], str]
) -> None:
    whole = write_tar(tmp_path / "t" / "a.tar", [(f"{n}.png", png(n)) for n in range(3)]).read_bytes()
    (tmp_path / "t" / "a.tar").write_bytes(whole[:1_200])
    with pytest.raises(DataError, match=r"s3://.*/t/a\.tar is truncated, damaged"):
        opened(upload(tmp_path / "t", "t"))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.parquet").write_bytes(b"PAR1 nothing else")
    with pytest.raises(DataError, match=r"s3://.*/p/a\.parquet is not a readable Parquet file"):
        opened(upload(tmp_path / "p", "p"))


def test_an_endpoint_that_does_not_answer_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # goes before the general one
    with pytest.raises(
        DataError, match=r"the object store at http://127\.0\.0\.1:9 does not answer .*AWS_ENDPOINT_URL"
    ):
        opened(f"s3://{bucket}/x")


def test_refused_access_says_which_variables(
    tmp_path: Path,
    write_tar: Callable[..., Path],
    png: Png,
    upload: Callable[[Path, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", png(0))])
    address = upload(tmp_path, "private")
    from moto import settings

    with monkeypatch.context() as strict:  # from here on the server checks who asks, and it knows nobody
        strict.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        for source in (address, f"{address}/a.tar", f"{address}/*.tar"):
            with pytest.raises(DataError, match=r"refuses access .*AWS_ACCESS_KEY_ID.*AWS_NO_SIGN_REQUEST=1"):
                opened(source)
    assert len(opened(address)) == 1


def test_credentials_in_an_address_and_unknown_schemes_are_refused() -> None:
    with pytest.raises(DataError, match="must hold no credentials; put them into AWS_ACCESS_KEY_ID") as refused:
        opened("s3://key:secret@bucket/x")
    assert "secret@" not in str(refused.value)
    with pytest.raises(DataError, match="no file system for nonsense://"):
        opened("nonsense://x/y")


def test_other_file_systems_come_through_fsspec(png: Png, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_cache, "SETTLED_SECONDS", -60.0)
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/cat/a.png", png(0))
    memory.pipe("/set/dog/b.png", png(1))
    opened_set = opened("memory://set")
    assert [s.locator for s in opened_set.samples] == ["cat/a.png", "dog/b.png"]
    assert opened_set.picture(1).tobytes() == decode(png(1)).tobytes()
    assert not (cache / "catalogues").exists()  # this one tells no time of change
