"""Benchmarks: `python -m benchmarks` runs all, `python -m benchmarks NAME` one, and keeps the results."""
