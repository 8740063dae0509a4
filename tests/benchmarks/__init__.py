"""Benchmarks: `python -m tests.benchmarks`; pytest does not collect them."""
