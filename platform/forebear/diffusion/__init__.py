"""Diffusers checkpoints: per-sample loss at a timestep, keyed noise, training with recorded events."""
