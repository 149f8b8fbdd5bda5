"""Charged particles and gravity."""
