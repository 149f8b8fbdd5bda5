"""A spring in one dimension; see `__main__`."""
