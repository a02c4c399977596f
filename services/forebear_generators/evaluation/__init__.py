"""Quantised generators against the full-precision model: `forebear evaluate quantization`."""
