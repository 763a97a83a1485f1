"""Paired timings: each prints a table. `python -m benchmarks.pausing --help`."""
