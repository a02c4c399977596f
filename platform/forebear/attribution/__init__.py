"""A query picture goes in, its ancestors among the training images come out."""

from importlib import import_module
from typing import TYPE_CHECKING

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
from forebear.attribution.auditing import AuditConfig

if TYPE_CHECKING:
    from forebear.attribution.attributor import Attributor
    from forebear.attribution.indexes import open_index, served_by
    from forebear.attribution.measuring import QueryEmbedder
    from forebear.attribution.query import EmbeddedQuery, QueryConfig
    from forebear.attribution.report import write_report
    from forebear.attribution.report_views import ReportEntry
    from forebear.attribution.scoring import StoreScorer
else:
    _MODULES = {
        "Attributor": "attributor",
        "EmbeddedQuery": "query",
        "QueryConfig": "query",
        "QueryEmbedder": "measuring",
        "ReportEntry": "report_views",
        "StoreScorer": "scoring",
        "open_index": "indexes",
        "served_by": "indexes",
        "write_report": "report",
    }

    def __getattr__(name):
        """Import what is asked for: making an answer needs torch, reading one does not, nor does what hands it on."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


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
    "open_index",
    "served_by",
    "write_report",
]
