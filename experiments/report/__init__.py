"""The misalignment report of runs."""
