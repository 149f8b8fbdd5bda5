"""Time reversal of a pendulum."""
