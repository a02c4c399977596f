"""A query picture goes in, its ancestors among the training images come out."""

from forebear.attribution.answer import (
    Attribution,
    CalibrationRecord,
    CheckpointRecord,
    Fingerprint,
    GroupStatistics,
    GroupTotal,
    Influence,
    Memorisation,
    NearestImage,
    QueryRecord,
    RegionRecord,
)
from forebear.attribution.attributor import Attributor
from forebear.attribution.auditing import AuditConfig
from forebear.attribution.indexes import build_indexes, open_index, served_by
from forebear.attribution.measuring import QueryEmbedder
from forebear.attribution.query import EmbeddedQuery, QueryConfig
from forebear.attribution.report import write_report
from forebear.attribution.report_views import ReportEntry
from forebear.attribution.scoring import StoreScorer

__all__ = [
    "Attribution",
    "Attributor",
    "AuditConfig",
    "CalibrationRecord",
    "CheckpointRecord",
    "EmbeddedQuery",
    "Fingerprint",
    "GroupStatistics",
    "GroupTotal",
    "Influence",
    "Memorisation",
    "NearestImage",
    "QueryConfig",
    "QueryEmbedder",
    "QueryRecord",
    "RegionRecord",
    "ReportEntry",
    "StoreScorer",
    "build_indexes",
    "open_index",
    "served_by",
    "write_report",
]
