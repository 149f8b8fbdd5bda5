"""Against the published curves."""
