"""Datasets: simulate, download, verify, load. No training code."""
