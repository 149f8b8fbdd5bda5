"""`fit`: the whole method in one call, for a model and data of one's own."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh

from ace_jax import homotopy, task
from ace_jax.constraints.base import Constraint
from ace_jax.constraints.on_gamma import Equality
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.primal_dual import PrimalDual
from ace_jax.state import AceState
from ace_jax.task import Batch
from ace_jax.training import hosts, loop, parallel
from ace_jax.training.history import Record
from ace_jax.training.locks import locked
from ace_jax.training.memory import Peak
from ace_jax.training.sinks import Logger, ProgressBar


class Fit(NamedTuple):
  """A trained model.

  Attributes:
    projection: Variables of f_{theta,0} at its lowest validation error, for `model.apply`.
    relaxed: Variables of f_{theta,gamma} at its own lowest validation error; of a strict model,
      the projection's.
    gamma: Final gamma by layer name.
    multipliers: Final multipliers by layer name.
    history: One record an epoch (`ace_jax.training.history.record`).
    test: Test error of each predictor; {} without test data.
    method: Task and optimizers, for going on.
    state: Everything else, for going on.
    memory: The expected peak, in bytes; None if a resumed run had nothing left to do.
  """

  projection: dict[str, Any]
  relaxed: dict[str, Any]
  gamma: dict[str, jax.Array]
  multipliers: dict[str, jax.Array]
  history: list[Record]
  test: dict[str, float]
  method: PrimalDual
  state: AceState
  memory: Peak | None


def fit(
  model: nn.Module,
  loss: Callable[[Any, Batch], jax.Array],
  train: Batch,
  valid: Batch,
  test: Batch | None = None,
  *,
  constraint: Constraint | None = None,
  inputs: Callable[[Batch], tuple[Any, ...]] = task.first,
  metric: Callable[[Any, Batch], jax.Array] | None = None,
  variables: homotopy.Variables | None = None,
  lr: float = 1e-3,
  gamma_lr: float | None = None,
  slack_lr: float | None = None,
  dual_lr: float = 1e-3,
  dual: str = "adam",
  clip_norm: float | None = None,
  decay: optax.Schedule | None = None,
  seed: int = 0,
  workdir: str | Path | None = None,
  resume: bool = False,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], Logger] | None = ProgressBar,
  until: Callable[[int], bool] = lambda epoch: False,
  **settings: Any,
) -> Fit:
  """Trains any Linen model that contains `Homotopic` layers under a constraint on their gammas.

  Args:
    model: The model; called as `model(*inputs(batch))`, with `train=` if its `__call__` takes it.
    loss: `loss(prediction, batch) -> [samples, ...]`, for each sample; its mean is minimised.
    train: Training samples: a pytree of arrays with one leading axis, such as (x, y).
    valid: Validation samples.
    test: Test samples.
    constraint: From `ace_jax.constraints`; `Equality()` by default.
    inputs: Positional arguments of the model, from a batch; x of (x, y) by default.
    metric: What to report and select by; the loss by default.
    variables: Initial variables; by default `model.init`. `strict(model.init)(key, x)` trains
      the plain equivariant model.
    lr: Adam step size of theta.
    gamma_lr: Adam step size of gamma; lr by default.
    slack_lr: Adam step size of the slack; lr by default.
    dual_lr: Step size of the multipliers.
    dual: Optimizer of the multipliers: "sgd", "adam" or "nu_pi".
    clip_norm: Largest norm of the gradients for theta and gamma together.
    decay: Factor of the step sizes of theta, gamma and slack by the number of steps done; to be
      given again as it was when resuming.
    seed: Moves initial values and the order of samples.
    workdir: Gets checkpoints and metrics.jsonl, and belongs to this process until it is done; None
      keeps nothing on disk. A leading ~ is the home folder.
    resume: Continue the run in `workdir`.
    mesh: Devices; all of them by default.
    progress: Called with the epochs of the run and those done before; returns what gets the record
      of every epoch, by default a progress bar. None shows nothing, not even the memory that is
      expected.
    until: Called with the number of epochs done after each; true makes it the last.
    **settings: epochs, batch_size, eval_every, patience, ...: see `ace_jax.training.Settings`.

  Returns:
    Both predictors, what gamma and multipliers came to, and the history.

  Raises:
    ConfigurationError: another process uses `workdir`.
    AceError: see `training.loop.train`.
  """
  init_key, run_key = jax.random.split(jax.random.key(seed))
  if variables is None:
    sample = task.take(train, slice(0, 2))
    variables = dict(jax.jit(model.init)(init_key, *inputs(sample)))
  method = PrimalDual(
    task.from_model(model, loss, inputs, metric),
    primal_adam(lr, gamma_lr, slack_lr, clip_norm, decay),
    dual_optimizer(dual, dual_lr),
  )
  begin = method.init(variables, Equality() if constraint is None else constraint, run_key)
  options = loop.Settings(**settings)
  peaks: list[Peak] = []

  def report_memory(peak: Peak) -> None:
    peaks.append(peak)
    if progress:
      print(peak.describe(), file=sys.stderr)

  locks = workdir is not None and hosts.first()
  with locked(workdir) if locks else contextlib.nullcontext():
    states, histories = loop.train(
      method,
      parallel.stack([begin]),
      train,
      valid,
      options,
      mesh=mesh,
      workdir=workdir,
      resume=resume,
      progress=progress and (lambda done: progress(options.epochs, done)),
      report_memory=report_memory,
      until=until,
    )
  end = parallel.select(states, 0)
  best = end.selected()
  tests: dict[str, float] = {}
  if test is not None:
    tests = loop.test_errors(method.task, states, test, options.eval_batch_size, mesh)[0]
  return Fit(
    projection=best["projection"],
    relaxed=best.get("relaxed", best["projection"]),
    gamma=homotopy.by_name(end.primal.gamma),
    multipliers=homotopy.by_name(end.multipliers),
    history=histories[0],
    test=tests,
    method=method,
    state=end,
    memory=peaks[0] if peaks else None,
  )
