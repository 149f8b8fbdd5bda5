"""Slack by layer and stream, and equivariance errors, over epochs."""
