"""Image sources become samples: id, image, caption, groups."""

from forebear.data.arranging import arranged, rows_by_id
from forebear.data.catalogue import Samples
from forebear.data.columns import Columns
from forebear.data.opening import DataConfig, open_training_set
from forebear.data.sample import Quarantined, Sample, sample_id
from forebear.data.training_set import Source, TrainingSet

__all__ = [
    "Columns",
    "DataConfig",
    "Quarantined",
    "Sample",
    "Samples",
    "Source",
    "TrainingSet",
    "arranged",
    "open_training_set",
    "rows_by_id",
    "sample_id",
]
