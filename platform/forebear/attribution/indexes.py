"""The indexes of a run: built from its store, and opened only when they belong to it."""

from collections.abc import Sequence

from forebear.errors import SearchIndexError
from forebear.estimators import estimator
from forebear.index import IndexConfig, IndexMetadata, VectorIndex, WeightedCheckpoint, build_index
from forebear.run import Run
from forebear.store import Manifest, Store


def build_indexes(run: Run, names: Sequence[str], config: IndexConfig) -> tuple[VectorIndex, ...]:
    """Build the index of each named estimator from the run's finished store.

    Raises ConfigError for an unknown estimator, StoreError when the store is missing or not whole, and what
    `build_index` raises.
    """
    chosen = [estimator(name) for name in dict.fromkeys(names)]
    store = Store.open(run.store_folder)
    checkpoints = _checkpoints(store.manifest)
    weights = [checkpoint.weight for checkpoint in checkpoints]
    built = []
    for method in chosen:
        blocks = [store.blocks(checkpoint.name, method.column) for checkpoint in checkpoints]
        index = build_index(
            run.index_folder(method.name),
            method.training_vectors(blocks, weights),
            len(checkpoints) * store.plan.dim,
            store.ids(),
            config=config,
            metadata=IndexMetadata(method.name, store.plan.hash, checkpoints),
        )
        built.append(index)
    return tuple(built)


def open_index(run: Run, name: str, manifest: Manifest) -> VectorIndex:
    """The index of an estimator.

    Raises ConfigError for an unknown estimator, SearchIndexError when the index is missing or was built from a store
    with another plan or other weights.
    """
    folder = run.index_folder(estimator(name).name)
    remedy = f"run `forebear index --run {run.folder} --estimator {name}`"
    index = VectorIndex.open(folder, manifest.plan_hash)
    metadata = index.description.metadata
    if metadata.estimator != name:
        raise SearchIndexError(f"the index in {folder} is one of {metadata.estimator!r}, not of {name!r}; {remedy}")
    if metadata.checkpoints != _checkpoints(manifest):
        raise SearchIndexError(
            f"the index in {folder} was built with other checkpoint weights than the store's; {remedy}"
        )
    return index


def _checkpoints(manifest: Manifest) -> tuple[WeightedCheckpoint, ...]:
    return tuple(WeightedCheckpoint(name, manifest.weights[name]) for name in manifest.plan.checkpoint_names)
