"""Images under shifts."""
