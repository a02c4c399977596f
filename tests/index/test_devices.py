"""What a GPU would do, done by the CPU's torch: its proposals lead to the answers of exact search."""

from pathlib import Path

import numpy as np
import pytest
import torch

from forebear.errors import SearchIndexError
from forebear.index import VectorIndex, devices
from forebear.index.devices import OnFirstSearch, TorchFlat
from forebear.index.matrix import HalfMatrix
from forebear.randomness import keyed_normal, keyed_permutation


@pytest.mark.parametrize("kept", [True, False])
def test_proposals_are_the_exact_best(folder: Path, build, monkeypatch, *, kept: bool) -> None:
    monkeypatch.setattr(devices, "BLOCK_BYTES", 4 * 12 * 64)  # 64 rows at a time
    index = build(folder, keyed_normal((300, 12), "device") * 10.0 ** keyed_normal((300, 1), "lengths"))
    proposer = TorchFlat(HalfMatrix(folder, 300, 12), torch.device("cpu"), kept=kept)
    queries = keyed_normal((5, 12), "asked")
    np.testing.assert_array_equal(proposer.candidates(queries, 20), index.search(queries, 20).rows)
    everything = proposer.candidates(queries, 310)
    np.testing.assert_array_equal(np.sort(everything[:, :300], axis=1), np.tile(np.arange(300), (5, 1)))
    assert (everything[:, 300:] == -1).all()


@pytest.mark.parametrize("opponents", [False, True])
def test_answers_are_those_of_the_cpu(folder: Path, build, monkeypatch, *, opponents: bool) -> None:
    vectors = np.repeat(keyed_normal((200, 12), "device"), 3, axis=0)
    plain = build(folder, vectors)
    monkeypatch.setattr(
        "forebear.index.searching.proposer_on",
        lambda _, matrix: OnFirstSearch(lambda: TorchFlat(matrix, torch.device("cpu"), kept=True)),
    )
    other = VectorIndex.open(folder)
    queries = keyed_normal((7, 12), "asked")
    some = np.sort(keyed_permutation(600, "some")[:400])
    for limits in ({}, {"allow": some}, {"allow": some[:20]}, {"deny": some}):
        wanted = plain.search(queries, 11, opponents=opponents, **limits)
        found = other.search(queries, 11, opponents=opponents, **limits)
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(folder: Path, build, vectors) -> None:
    build(folder, vectors)
    with pytest.raises(SearchIndexError, match="no CUDA device is there"):
        VectorIndex.open(folder, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_answers_of_the_cpu(folder: Path, build) -> None:
    build(folder, keyed_normal((5000, 128), "device"))
    queries = keyed_normal((33, 128), "asked")
    there, here = (VectorIndex.open(folder, device=device).search(queries, 50) for device in ("cuda", "cpu"))
    np.testing.assert_array_equal(there.rows, here.rows)
    np.testing.assert_array_equal(there.scores, here.scores)
