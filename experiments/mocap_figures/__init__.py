"""Stick figures of runs side by side."""
