"""The training of one or many replicas: a program an epoch, the host's loop, what it keeps."""

from ace_jax.training.loop import Settings
from ace_jax.training.parallel import DATA, REPLICA, make_mesh

__all__ = ["DATA", "REPLICA", "Settings", "make_mesh"]
