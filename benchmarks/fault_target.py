"""The run that `benchmarks.faults` disturbs: the whole path of an experiment, a tiny network.

Charged particles from a file, one homotopic layer, a checkpoint every other epoch; flags, lock,
checkpoints, records, result and figures are those of every experiment. `--fault` does from within
what cannot be done from outside.
"""

from absl import flags

from experiments.harness import app, folders, paths

FLAGS = flags.FLAGS
paths.DEFINE_path("data_file", None, "Trajectories.", required=True)
paths.DEFINE_path("workdir", None, "Where the run writes.", required=True)
flags.DEFINE_enum(
  "fault",
  "none",
  ["none", "nan_batch", "nan_gradient", "nan_gamma", "clock_forward", "clock_backward"],
  "What goes wrong.",
)
flags.DEFINE_integer("fault_epoch", 5, "When a number that is not finite comes.")
flags.DEFINE_float("fault_seconds", 1.0, "When the clock jumps, after JAX is there.")

_JUMP = 3600.0 * 24 * 365 * 20


def disturb(fault: str, at: int, seconds: float) -> None:
  """Makes this process go wrong.

  Args:
    fault: One of the values of `--fault`.
    at: The epoch in which a number that is not finite comes.
    seconds: When the clock jumps.
  """
  import time

  import jax
  import jax.numpy as jnp

  from ace_jax.primal_dual import PrimalDual
  from ace_jax.training import epochs

  if fault.startswith("clock"):
    true, jump = time.time, time.monotonic() + seconds
    shift = _JUMP if fault == "clock_forward" else -_JUMP
    time.time = lambda: true() + (shift if time.monotonic() > jump else 0.0)
  if not fault.startswith("nan"):
    return
  compile_epoch, plain = epochs.compile_epoch, PrimalDual.gradients

  def spoiled(*args, **kwargs):
    result = plain(*args, **kwargs)
    return result._replace(primal=jax.tree.map(lambda g: g * jnp.nan, result.primal))

  def compiled(*args):
    run = compile_epoch(*args)

    def epoch(state, data):
      if int(state.epoch[0]) != at - 1:
        return run(state, data)
      if fault == "nan_gradient":
        # A program for this epoch alone: another program rounds otherwise in all of them.
        PrimalDual.gradients = spoiled
        return compile_epoch(*args)(state, data)
      if fault == "nan_batch":
        data = {**data, "positions": data["positions"].at[7, 0, 0].set(jnp.nan)}
      else:
        gamma = jax.tree.map(lambda g: g * jnp.nan, state.primal.gamma)
        state = state.replace(primal=state.primal._replace(gamma=gamma))
      return run(state, data)

    epoch.compile = run.compile  # the check of memory compiles it beforehand
    return epoch

  epochs.compile_epoch = compiled


def main() -> None:
  """Trains, or goes on with what is in the workdir."""
  folder = folders.chosen(FLAGS.workdir, "fault_target")
  app.set_up_jax()
  import jax

  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  from benchmarks.fault_problem import SETTINGS, problem
  from data import nbody
  from experiments.harness import training

  disturb(FLAGS.fault, FLAGS.fault_epoch, FLAGS.fault_seconds)
  data = nbody.load_file(FLAGS.data_file)
  training.train(problem(data), SETTINGS, folder, resume=True)
  print("done")


if __name__ == "__main__":
  app.launch(main)
