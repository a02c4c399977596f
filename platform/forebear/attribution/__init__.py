"""A query in, an Attribution out."""
