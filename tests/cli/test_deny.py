"""Deny lists: what they name is not trained on, not embedded, and in no answer."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from forebear.attribution import Attributor
from forebear.attribution.indexes import open_index
from forebear.cli.sample_ids import read_ids
from forebear.data import DataConfig, open_training_set
from forebear.errors import DataError
from forebear.run import Run
from forebear.store import Store

DATA = DataConfig("digits", limit=40)
EMBED = ("--timesteps", 1, "--dim", 16)


@pytest.fixture(scope="module")
def denied() -> list[str]:
    samples = open_training_set(DATA).samples
    return sorted(samples[row].id for row in (3, 11, 12))


@pytest.fixture(scope="module")
def deny_file(tmp_path_factory: pytest.TempPathFactory, denied: list[str]) -> Path:
    """The three ids, and one that is nowhere."""
    path = tmp_path_factory.mktemp("deny") / "deny.txt"
    path.write_text("".join(f"{one}\n" for one in [*denied, "nowhere"]))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "one").mkdir()
    for row in range(10):
        open_training_set(DATA).picture(row).save(folder / "one" / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def external(embedded_run: Path, images: Path, forebear) -> Path:
    """A run that began with the embedding of another's model, under a deny list of one picture and no picture."""
    run, listed = images.parent / "external", images.parent / "deny.txt"
    listed.write_text(f"{open_training_set(DataConfig(str(images))).samples[4].id}\nnowhere\n")
    done = forebear(
        "embed", "--run", run, "--model", embedded_run / "model", "--data", images, "--deny", listed, *EMBED
    )
    assert done.exit_code == 0, done.output
    return run


def test_training_leaves_denied_samples_out_and_its_run_too(
    config_file: Path, deny_file: Path, denied: list[str], forebear, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    train = ("train", config_file, "--run", run.folder, "--deny", deny_file)
    done = forebear(*train)
    assert done.exit_code == 0, done.output
    assert "3 of its 4 samples are there and left out" in done.output
    trained = set(pq.read_table(run.events_file)["sample_id"].to_pylist())
    assert trained == set(open_training_set(DATA).rows) - set(denied)
    assert yaml.safe_load(run.settings_file.read_text())["data"]["deny"] == sorted([*denied, "nowhere"])
    assert forebear(*train).exit_code == 0  # the same list goes on with the same run
    other = forebear(*train[:-2])
    assert other.exit_code == 2
    assert "made with other settings (data: deny:" in other.output
    done = forebear("embed", "--run", run.folder, *EMBED)
    assert done.exit_code == 0, done.output
    store = Store.open(run.store_folder)
    assert set(store.ids()) == trained
    assert store.plan.dataset != open_training_set(DATA).fingerprint


def test_embedding_leaves_denied_samples_out(external: Path, images: Path, forebear) -> None:
    store = Store.open(external / "store")
    every = open_training_set(DataConfig(str(images)))
    assert set(store.all_ids) == set(every.rows) - {every.samples[4].id}
    assert store.plan.dataset != every.fingerprint
    again = forebear("embed", "--run", external, *EMBED)  # the list need not be named again
    assert again.exit_code == 0, again.output
    assert Store.open(external / "store").plan == store.plan


def test_an_index_and_all_answers_leave_denied_samples_out(external: Path, forebear, tmp_path: Path) -> None:
    run = Run(external)
    assert forebear("index", "--run", external, "--estimator", "tracin", "--no-calibration").exit_code == 0
    attributor = Attributor.open(external)
    picture = attributor.training_set.picture(0)
    first = attributor.attribute(picture, label=0, estimator="tracin", top_k=3).proponents[0].sample_id
    (tmp_path / "deny.json").write_text(json.dumps({"sample_ids": [first]}))
    done = forebear(
        "index", "--run", external, "--estimator", "tracin", "--no-calibration", "--deny", tmp_path / "deny.json"
    )
    assert done.exit_code == 0, done.output
    assert "1 samples are left out of all answers, 1 of them from now on" in done.output
    store = Store.open(run.store_folder)
    index = open_index(run, "tracin", store.manifest)
    assert first in store.all_ids
    assert first not in index.ids
    answer = Attributor.open(external).attribute(picture, label=0, estimator="tracin", top_k=len(index))
    assert first not in {one.sample_id for one in answer.proponents}
    assert forebear("store", "restore", "--run", external, "--id", first).exit_code == 0


@pytest.mark.parametrize("verb", ["embed", "index"])
def test_nothing_is_written_where_there_is_no_run(verb: str, deny_file: Path, forebear, tmp_path: Path) -> None:
    assert forebear(verb, "--run", tmp_path / "run", "--deny", deny_file).exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_limit_is_not_filled_up_with_others(denied: list[str]) -> None:
    plain = open_training_set(DATA)
    rest = open_training_set(DataConfig("digits", limit=40, deny=(*denied, "nowhere")))
    assert [sample.id for sample in rest.samples] == [one.id for one in plain.samples if one.id not in denied]
    assert rest.fingerprint != plain.fingerprint
    with pytest.raises(DataError, match="`deny` list"):
        open_training_set(DataConfig("digits", limit=40, deny=tuple(plain.rows)))


@pytest.mark.parametrize("kind", ["txt", "json", "object.json", "csv", "parquet"])
def test_lists_are_read_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    ids, path = ["b", "a", "c d"], tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"sample_id": ids}), path)
    else:
        path.write_text(
            {
                "txt": "b\n\na\r\nc d\nb\n",
                "json": json.dumps(ids),
                "object.json": json.dumps({"format": "forebear-deny-list", "sample_ids": ids}),
                "csv": 'note,sample_id\r\n"two\nlines",b\r\n,a\r\n,c d\r\n',
            }[kind]
        )
    assert read_ids(path) == ids


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", '{"ids": []}'), ("b.json", "[1, 2]"), ("c.json", "[1"), ("d.csv", "id\n1\n"), ("e.parquet", "no")],
)
def test_files_that_are_no_lists_are_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="cannot be read as a list of ids"):
        read_ids(tmp_path / name)
