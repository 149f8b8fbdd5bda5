"""Loss landscapes of a run."""
