"""Generators: diffusers pipelines that make pictures from a seed, as a plain library without Ray."""
