"""A query picture goes in, its ancestors among the training images come out."""

from forebear.attribution.answer import (
    Attribution,
    CheckpointRecord,
    Fingerprint,
    GroupTotal,
    Influence,
    QueryRecord,
)
from forebear.attribution.attributor import Attributor
from forebear.attribution.indexes import build_indexes, open_index
from forebear.attribution.query import EmbeddedQuery, QueryConfig
from forebear.attribution.report import ReportEntry, write_report

__all__ = [
    "Attribution",
    "Attributor",
    "CheckpointRecord",
    "EmbeddedQuery",
    "Fingerprint",
    "GroupTotal",
    "Influence",
    "QueryConfig",
    "QueryRecord",
    "ReportEntry",
    "build_indexes",
    "open_index",
    "write_report",
]
