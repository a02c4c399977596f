"""Cyclic One-Way Diffusion (arXiv 2306.08247): a picture from an image, a mask and a prompt, by a frozen model."""
