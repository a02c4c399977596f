"""Cyclic One-Way Diffusion beside other ways to keep a part of a picture: `forebear evaluate cow`."""
