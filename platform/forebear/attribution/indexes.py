"""The indexes of a run: built from its store, and opened only when they belong to it.

Estimators with the same training side share one index, which lies under the name of the first of them.
"""

from collections.abc import Sequence

from forebear.attribution.curvature import build_curvature
from forebear.attribution.sides import Sides
from forebear.errors import SearchIndexError
from forebear.estimators import ESTIMATORS, Estimator, estimator, index_name
from forebear.index import IndexConfig, IndexMetadata, VectorIndex, WeightedCheckpoint, build_index
from forebear.run import Run
from forebear.store import Manifest, Store


def build_indexes(run: Run, names: Sequence[str] | None, config: IndexConfig) -> tuple[VectorIndex, ...]:
    """Build what the named estimators search, or all that the run can serve: each distinct index and curvature once.

    Returns the indexes in the order in which they are first needed. Raises ConfigError for an unknown estimator or one
    whose measurement the store lacks, StoreError when the store is missing or not whole, and what `build_index` raises.
    """
    chosen = None if names is None else [estimator(name) for name in dict.fromkeys(names)]
    store = Store.open(run.store_folder)
    sides = Sides(run, store)
    if chosen is None:
        chosen = [method for method in ESTIMATORS.values() if sides.holds(method)]
    for method in chosen:
        sides.check(method)
    owners = dict.fromkeys(index_name(method.name) for method in chosen)
    built = tuple(_build(run, sides, estimator(owner), config) for owner in owners)
    for column in dict.fromkeys(method.column for method in chosen if method.ridge is not None):
        build_curvature(run, store, column)
    return built


def _build(run: Run, sides: Sides, owner: Estimator, config: IndexConfig) -> VectorIndex:
    store = sides.store
    return build_index(
        run.index_folder(owner.name),
        owner.training_vectors(sides.blocks(owner), sides.weights(owner), sides.residuals(owner)),
        sides.dim(owner),
        store.ids(),
        config=config,
        metadata=IndexMetadata(owner.name, store.plan.hash, _checkpoints(store.manifest, owner)),
    )


def indexed(run: Run, store: Store) -> tuple[str, ...]:
    """The estimators that the run can answer for: index and, where they need it, curvature are there."""
    sides = Sides(run, store)
    return tuple(
        name
        for name, method in ESTIMATORS.items()
        if run.index_folder(index_name(name)).is_dir() and sides.has_curvatures(method)
    )


def served_by(run: Run, owner: str) -> tuple[str, ...]:
    """Of `indexed`, the estimators that search the index of `owner`."""
    return tuple(name for name in indexed(run, Store.open(run.store_folder)) if index_name(name) == owner)


def open_index(run: Run, name: str, manifest: Manifest) -> VectorIndex:
    """The index of an estimator.

    Raises ConfigError for an unknown estimator, SearchIndexError when the index is missing or was built from a store
    with another plan or other weights.
    """
    method = estimator(name)
    owner = index_name(name)
    folder = run.index_folder(owner)
    remedy = f"run `forebear index --run {run.folder} --estimator {name}`"
    index = VectorIndex.open(folder, manifest.plan_hash)
    metadata = index.description.metadata
    if metadata.estimator != owner:
        raise SearchIndexError(f"the index in {folder} is one of {metadata.estimator!r}, not of {owner!r}; {remedy}")
    if metadata.checkpoints != _checkpoints(manifest, method):
        raise SearchIndexError(
            f"the index in {folder} was built with other checkpoint weights than the store's; {remedy}"
        )
    return index


def _checkpoints(manifest: Manifest, method: Estimator) -> tuple[WeightedCheckpoint, ...]:
    if method.baseline:
        return ()
    return tuple(WeightedCheckpoint(name, manifest.weights[name]) for name in manifest.plan.checkpoint_names)
