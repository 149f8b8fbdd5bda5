"""Test error against equivariance error."""
