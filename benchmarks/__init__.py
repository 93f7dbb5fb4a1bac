"""Measurements: `python -m benchmarks` runs all, `python -m benchmarks NAME` one; it keeps the results."""
