"""Equivariance errors of a run."""
