"""Branches at equal cost."""
