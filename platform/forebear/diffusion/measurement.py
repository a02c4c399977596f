"""What can be measured of a (sample, timestep, noise): names alone, so that reading them needs no torch."""

from typing import Literal

Loss = Literal["mse", "l1"]
Measurement = Literal["loss", "square", "output"]
"""A scalar of a (sample, timestep, noise) whose gradient can be taken: the training loss; the mean over elements of the
squared prediction (D-TRAK, arXiv 2311.00500); the mean over elements of the prediction (DAS, arXiv 2410.18639)."""
