"""Measured speeds: `python -m benchmarks.NAME` ends with one line of JSON."""
