"""Quantised generators by the Temporal Feature Matters framework (arXiv 2407.19547)."""
