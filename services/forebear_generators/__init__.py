"""Generators: quantised diffusion sampling and inpainting as a plain library, without Ray."""
