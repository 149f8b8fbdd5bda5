"""The runs of a plan, each at its commit."""
