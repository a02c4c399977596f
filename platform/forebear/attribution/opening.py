"""Opens a run's store together with the training images that it was made from."""

from forebear.config import parse
from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.errors import StoreError
from forebear.run import Run
from forebear.store import Store


def open_embedded(run: Run) -> tuple[Store, TrainingSet]:
    """Raises ConfigError when it is not a run, StoreError when its store is not whole or of other images."""
    data = parse(DataConfig, run.section("data"), str(run.settings_file))
    store = Store.open(run.store_folder)
    training_set = open_training_set(data)
    if training_set.fingerprint != store.plan.dataset:
        raise StoreError(
            f"the training images of {run.folder} are not those that its store was made from; restore them, or "
            f"embed anew with `forebear embed --run {run.folder} --restart`"
        )
    return store, training_set
