"""The parts of bench_gradients.py."""
