"""Pushing a store and pulling it: the same bytes, whenever it was killed, and nothing of others is overwritten."""

import importlib.util
import itertools
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebear.errors import DataError, StoreError
from forebear.run import Run
from forebear.store import (
    EmbeddingRows,
    Store,
    StorePlan,
    prepare_store,
    read_removed,
    remove_samples,
    restore_samples,
    write_manifest,
    write_shard,
)
from forebear.store.objects import ObjectFolder
from forebear.store.segments import (
    ListedSegment,
    following,
    list_segments,
    listed_segments,
    next_segment,
    open_segments,
)
from forebear.store.transfer import pull, push
from forebear.store.verifying import check_store

Rows = Callable[[StorePlan, str, int], EmbeddingRows]
INDEX = "transfer.json"


@pytest.fixture
def run(store_folder: Path) -> Run:
    """A run with a finished store of 12 shard files, a removed sample, a model, a checkpoint and an index."""
    run = Run(store_folder.parent)
    run.record("data", {"source": "pictures/"})
    for name in ("model/unet/config.json", "checkpoints/step-00000010/unet.safetensors", "index/retrac/index.json"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_bytes(name.encode() * 40)
    (run.folder / "model" / "words.gz").write_bytes(b"kept as it is")
    remove_samples(store_folder, ["sample-3"], "request 17")
    return run


@pytest.fixture
def grow(rows_of: Rows) -> Callable[[Run, int], None]:
    """Adds a segment of so many samples."""

    def add(run: Run, count: int) -> None:
        plan = following(open_segments(run.store_folder), f"grown {count}", count)
        part = next_segment(run.store_folder)
        prepare_store(part, plan, dict.fromkeys(plan.checkpoint_names, 1.0))
        for checkpoint, shard in plan.shards():
            write_shard(part, plan, checkpoint, shard, rows_of(plan, checkpoint, shard))
        write_manifest(part)
        list_segments(
            run.store_folder, [*listed_segments(run.store_folder), ListedSegment(part.name, plan.hash, count)]
        )

    return add


def moved(run: Run) -> dict[str, bytes]:
    """What a push takes along."""
    whole = {path.relative_to(run.folder).as_posix(): path for path in run.folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in whole.items() if not name.startswith("index/")}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_answers_alike(one: Run, other: Run) -> None:
    here, there = Store.open(one.store_folder), Store.open(other.store_folder)
    assert here.plan == there.plan
    assert here.ids() == there.ids()
    for checkpoint, column in itertools.product(here.plan.checkpoint_names, here.plan.columns):
        np.testing.assert_array_equal(here.vectors(checkpoint, column), there.vectors(checkpoint, column))
    assert not [found.problem for found in check_store(other.store_folder) if found.problem]


@contextmanager
def killed_after(method: str, count: int) -> Iterator[None]:
    """The first `count` objects go through, then the process is as good as dead."""
    calls, real = itertools.count(), getattr(ObjectFolder, method)

    def dying(self: ObjectFolder, *arguments: object) -> None:
        if next(calls) >= count:
            raise KeyboardInterrupt
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectFolder, method, dying)
        yield


@pytest.mark.parametrize("kind", ["path", "file", "s3", "memory"])
def test_a_pulled_store_is_the_pushed_one(
    kind: str, run: Run, tmp_path: Path, grow: Callable[[Run, int], None], request: pytest.FixtureRequest
) -> None:
    address = {
        "path": lambda: str(tmp_path / "there"),
        "file": (tmp_path / "with space").as_uri,
        "s3": lambda: f"s3://{request.getfixturevalue('bucket')}/deep/photos",
        "memory": lambda: f"memory://{tmp_path.name}/photos",
    }[kind]()
    grow(run, 5)
    before = moved(run)
    with killed_after("send", 7), pytest.raises(KeyboardInterrupt):
        push(run, address)
    with pytest.raises(StoreError, match=r"has no transfer\.json: nothing was pushed there, or the push has not ended"):
        pull(address, Run(tmp_path / "pulled"))
    done = push(run, address)
    assert (done.files, done.kept) == (len(before) - 7, 7)
    assert moved(run) == before
    pulled = Run(tmp_path / "pulled")
    with killed_after("fetch", 9), pytest.raises(KeyboardInterrupt):
        pull(address, pulled)
    done = pull(address, pulled)
    assert (done.files, done.kept) == (len(before) - 1 - 9, 9)  # the list of removed samples is merged, not fetched
    assert moved(pulled) == before
    assert_answers_alike(run, pulled)
    assert push(run, address).files == pull(address, pulled).files == 0
    remove_samples(run.store_folder, ["sample-8"], "request 19")
    assert push(run, address).files == 1  # and the list before is deleted
    assert push(run, address).kept == len(before)
    assert pull(address, pulled).removed == ("sample-8",)
    assert moved(pulled) == moved(run)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the run is only read
@given(sent=st.integers(0, 40), fetched=st.integers(0, 40))
def test_killed_at_any_object_the_same_command_goes_on(sent: int, fetched: int, run: Run) -> None:
    before = moved(run)
    with TemporaryDirectory() as folder:
        address, pulled = f"{folder}/there", Run(Path(folder) / "pulled")
        for method, count, call in (
            ("send", sent, lambda: push(run, address)),
            ("fetch", fetched, lambda: pull(address, pulled)),
        ):
            with killed_after(method, count):
                try:
                    call()
                except KeyboardInterrupt:
                    with pytest.raises(StoreError):
                        Store.open(pulled.store_folder)
            call()
        assert moved(pulled) == before
        objects = {name for name in tree(Path(address)) if name != INDEX}
        assert len(objects) == len(before)


@pytest.fixture
def address(run: Run, tmp_path: Path) -> str:
    """Where the run was pushed to."""
    push(run, str(tmp_path / "there"))
    return str(tmp_path / "there")


@pytest.fixture
def pulled(address: str, tmp_path: Path) -> Run:
    run = Run(tmp_path / "pulled")
    pull(address, run)
    return run


def test_a_removal_travels_by_itself(run: Run, address: str, pulled: Run) -> None:
    remove_samples(run.store_folder, ["sample-7"], "request 18")
    assert push(run, address).files == 1
    assert len([name for name in tree(Path(address)) if "removed" in name]) == 1
    assert pull(address, pulled).removed == ("sample-7",)
    assert moved(pulled) == moved(run)
    assert_answers_alike(run, pulled)


def test_what_was_removed_here_stays_removed(run: Run, address: str, pulled: Run) -> None:
    remove_samples(pulled.store_folder, ["sample-1"], "asked here")
    assert pull(address, pulled).removed == ()
    assert set(read_removed(pulled.store_folder)) == {"sample-1", "sample-3"}
    push(pulled, address)
    before = tree(Path(address))
    with pytest.raises(
        StoreError, match=r"1 samples are removed at .*there and not in .*sample-1\. Nothing was overwr"
    ):
        push(run, address)
    assert tree(Path(address)) == before
    push(run, address, replace=True)
    assert pull(address, Run(run.folder.with_name("third"))).removed == ("sample-3",)


def test_a_list_of_removed_samples_that_cannot_be_read_stops_everything(run: Run, address: str, tmp_path: Path) -> None:
    (there,) = (path for path in Path(address).rglob("removed-*.json"))
    there.write_bytes(b"{}")
    with pytest.raises(StoreError, match="is missing or damaged, so it is not known what was removed"):
        pull(address, Run(tmp_path / "pulled"))
    assert not (tmp_path / "pulled" / "store" / "manifest.json").exists()


def test_growth_is_added(run: Run, address: str, pulled: Run, grow: Callable[[Run, int], None]) -> None:
    before = tree(Path(address))
    grow(run, 5)
    assert push(run, address).files == 2 * 2 * 2 + 2  # checkpoints, shards, sidecars; two lists
    now = tree(Path(address))
    assert {name: now.get(name) for name in before if name != INDEX} == {
        name: content for name, content in before.items() if name != INDEX
    }
    pulled.settings_file.write_text("data: {source: elsewhere/}\n")
    pull(address, pulled)
    assert_answers_alike(run, pulled)
    assert pulled.section("data") == {"source": "elsewhere/"}


def test_another_store_is_not_overwritten_unless_asked(
    run: Run, address: str, pulled: Run, tmp_path: Path, plan: StorePlan, fill_store: Callable[[Path, StorePlan], None]
) -> None:
    other, before = Run(tmp_path / "other"), tree(Path(address))
    fill_store(other.store_folder, replace(plan, settings={"noise_seed": 1}))
    with pytest.raises(StoreError, match=r"holds another store.*Nothing was overwritten; .*--replace"):
        push(other, address)
    assert tree(Path(address)) == before
    here = tree(pulled.folder)
    push(other, address, replace=True)
    with pytest.raises(StoreError, match=r"holds another run.*Nothing was changed; pull into a new"):
        pull(address, pulled)
    assert tree(pulled.folder) == here
    third = Run(tmp_path / "third")
    pull(address, third)
    assert_answers_alike(other, third)
    assert len(tree(Path(address))) == len(moved(other)) + 1  # nothing of the first is left


def test_a_reader_never_sees_half_of_a_replacement(
    run: Run, address: str, tmp_path: Path, plan: StorePlan, fill_store: Callable[[Path, StorePlan], None]
) -> None:
    other = Run(tmp_path / "other")
    fill_store(other.store_folder, replace(plan, settings={"noise_seed": 1}))
    with killed_after("send", 6), pytest.raises(KeyboardInterrupt):
        push(other, address, replace=True)
    pull(address, Run(tmp_path / "pulled"))
    assert_answers_alike(run, Run(tmp_path / "pulled"))


def test_files_of_others_are_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for replacing in (False, True):
        with pytest.raises(
            StoreError, match=r"holds 1 files that no push has made, such as thesis\.tex; give an address"
        ):
            push(run, str(tmp_path / "mine"), replace=replacing)
    assert tree(tmp_path / "mine") == {"thesis.tex": b"years"}
    with pytest.raises(StoreError, match="no push has made"):
        push(run, str(run.folder))


def test_a_push_that_ends_meanwhile_is_not_overwritten(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, real = tmp_path / "there", ObjectFolder.send

    def beside(self: ObjectFolder, name: str, source: Path) -> None:
        real(self, name, source)
        (there / INDEX).write_text("another")

    monkeypatch.setattr(ObjectFolder, "send", beside)
    with pytest.raises(StoreError, match=r"another push to .* ended meanwhile"):
        push(run, str(there))
    assert (there / INDEX).read_text() == "another"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, "is damaged: it has another checksum; delete it there and push again"),
        (_cut, r"is damaged: it has [\d,]+ bytes instead of [\d,]+; delete it"),
        (Path.unlink, "is missing; if another push has just ended, pull again, else push again"),
    ],
)
def test_a_damaged_object_is_named_and_mended_by_pushing_again(
    damage: Callable[[Path], None], said: str, run: Run, address: str, tmp_path: Path
) -> None:
    there = next(Path(address).rglob("shard-00001-*.parquet"))
    damage(there)
    pulled = Run(tmp_path / "pulled")
    with pytest.raises(StoreError, match=rf"{there.name} {said}"):
        pull(address, pulled)
    with pytest.raises(StoreError, match=r"manifest\.json does not exist"):
        Store.open(pulled.store_folder)
    assert not list(pulled.folder.rglob("*.part"))
    there.unlink(missing_ok=True)
    assert push(run, address).files == 1
    pull(address, pulled)
    assert_answers_alike(run, pulled)


def test_a_shard_that_is_damaged_here_is_not_pushed(run: Run, tmp_path: Path) -> None:
    _flip(next(run.store_folder.rglob("shard-00001.parquet")))
    with pytest.raises(StoreError, match=r"shard-00001\.parquet is damaged, .*store repair --run"):
        push(run, str(tmp_path / "there"))
    assert not (tmp_path / "there" / INDEX).exists()


def test_an_unfinished_store_is_not_pushed(run: Run, tmp_path: Path) -> None:
    next(run.store_folder.rglob("shard-00001.parquet")).unlink()
    with pytest.raises(StoreError, match="is missing; run `forebear embed"):
        push(run, str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    "name", ["../run.yaml", "/run.yaml", "store/../../run.yaml", "store/a\\b", "training/x", "store//x"]
)
def test_a_list_that_leads_out_of_the_run_is_refused(name: str, address: str, tmp_path: Path) -> None:
    values = json.loads((Path(address) / INDEX).read_text())
    values["files"][0]["name"] = name
    (Path(address) / INDEX).write_text(json.dumps(values))
    with pytest.raises(StoreError, match=r"transfer\.json is damaged"):
        pull(address, Run(tmp_path / "pulled"))
    assert not (tmp_path / "pulled").exists()


def test_half_written_files_of_killed_processes_are_cleared(run: Run, address: str, tmp_path: Path) -> None:
    pulled, step = Run(tmp_path / "pulled"), "store/checkpoint=step-00000010"
    for left in (
        Path(address) / step / f"shard-00000-{'0' * 16}.parquet.7.part",
        pulled.folder / step / "shard-00000.7.part",
    ):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
    push(run, address)
    pull(address, pulled)
    assert not list(tmp_path.rglob("*.part"))


def test_a_storage_that_refuses_says_what_to_set(run: Run, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="bucket does not exist"):
        push(run, "s3://no-such-bucket/photos")
    with pytest.raises(DataError, match="must hold no credentials") as refused:
        push(run, f"s3://key:secret@{bucket}/photos")
    assert "secret@" not in str(refused.value)
    from moto import settings as server

    monkeypatch.setattr(server, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from here on it checks who asks, and knows nobody
    with pytest.raises(DataError, match=r"refuses access .*AWS_ACCESS_KEY_ID.*also write"):
        push(run, f"s3://{bucket}/photos")


def test_a_missing_package_is_named(run: Run) -> None:
    if importlib.util.find_spec("ossfs"):
        pytest.skip("ossfs is installed")
    with pytest.raises(DataError, match=r"no file system for oss:// \(Install ossfs.*install fsspec's package for it"):
        push(run, "oss://bucket/photos")


@pytest.fixture
def little_room() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond so many bytes; 0 lifts that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size or soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_what_was_moved_stays(run: Run, tmp_path: Path, little_room: Callable[[int], None]) -> None:
    address, pulled = str(tmp_path / "there"), Run(tmp_path / "pulled")
    shard = next(run.store_folder.rglob("shard-00000.parquet")).stat().st_size
    little_room(shard - 1)
    with pytest.raises(DataError, match=r"shard-\S* cannot be written .*File too large.*the same command again"):
        push(run, address)
    little_room(0)
    push(run, address)
    little_room(shard - 1)
    with pytest.raises(StoreError, match=r"pulled cannot be written \(File too large\); .*the same command"):
        pull(address, pulled)
    little_room(0)
    assert not list(tmp_path.rglob("*.part"))
    assert pull(address, pulled).kept
    assert_answers_alike(run, pulled)


def test_restored_samples_answer_again_only_where_they_were_restored(run: Run, address: str, pulled: Run) -> None:
    restore_samples(run.store_folder, ["sample-3"])
    push(run, address, replace=True)
    pull(address, pulled)
    assert set(read_removed(pulled.store_folder)) == {"sample-3"}
    assert read_removed(run.store_folder) == {}
