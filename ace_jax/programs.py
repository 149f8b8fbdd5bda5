"""Which values of traced functions are equal, read off their programs without running them.

Every value of a program gets a number by what computes it, so that equal numbers are equal values
(value numbering). Inputs that are known to be 0 are followed as such: 0 f = 0, x + 0 = x.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call")
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
"""Primitives that compute another program on their operands, and its names among parameters."""
_OF_ZERO = (
  *("abs", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "cumsum", "imag"),
  *("neg", "real", "reduce_precision", "reduce_sum", "reshape", "rev", "sign", "slice", "split"),
  *("sqrt", "square", "squeeze", "tanh", "transpose"),
)
"""Primitives that are 0 where all of their operands are."""


def results(
  programs: Sequence[core.ClosedJaxpr],
  inputs: Sequence[Sequence[str]],
  zeros: Collection[str] = (),
) -> list[list[int]]:
  """Returns a number for every array that programs return, where equal ones are equal arrays.

  Where numbers differ, the arrays may still be equal. Products with 0 are 0, whatever the other
  factor is; what is not finite is thus not followed.

  Args:
    programs: As of `jax.make_jaxpr`.
    inputs: The name of every input of each program; inputs of one name are equal.
    zeros: Names of the inputs that are 0.
  """
  values = _Values()
  numbers = []
  for program, names in zip(programs, inputs, strict=True):
    given = [
      values.zero(aval) if name in zeros else values.number(("input", name, _kind(aval)))
      for name, aval in zip(names, program.in_avals, strict=True)
    ]
    numbers.append(values.outputs(program.jaxpr, program.consts, given))
  return numbers


class _Values:
  """The numbers of values by what computes them."""

  def __init__(self):
    self._numbers: dict[Any, int] = {}
    self._keys: list[Any] = []

  def number(self, key: Any) -> int:
    """Returns the number of what a key describes."""
    if key not in self._numbers:
      self._numbers[key] = len(self._keys)
      self._keys.append(key)
    return self._numbers[key]

  def zero(self, aval: Any) -> int:
    """Returns the number of zeros."""
    return self.number(("zero", _kind(aval)))

  def outputs(
    self, jaxpr: core.Jaxpr, consts: Sequence[Any], given: Sequence[int], depth: int = 0
  ) -> list[int]:
    """Returns the numbers of what a program returns, from those of its inputs.

    Args:
      jaxpr: The program.
      consts: Values of its constants.
      given: Numbers of its inputs.
      depth: In how many other programs, with inputs of their own, it lies.
    """
    numbers: dict[Any, int] = dict(zip(jaxpr.invars, given, strict=True))
    numbers |= {
      variable: self._constant(value, variable.aval)
      for variable, value in zip(jaxpr.constvars, consts, strict=True)
    }

    def read(atom: Any) -> int:
      literal = isinstance(atom, core.Literal)
      return self._constant(atom.val, atom.aval) if literal else numbers[atom]

    for equation in jaxpr.eqns:
      operands = [read(atom) for atom in equation.invars]
      results = self._results(equation, operands, depth)
      numbers |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]

  def _results(self, equation: Any, operands: list[int], depth: int) -> list[int]:
    name, parameters = equation.primitive.name, equation.params
    if name in _CALLS or name in _CUSTOM:
      bodies = [parameters[key] for key in _BODIES if key in parameters]
      if bodies and len(_open(bodies[0])[0].invars) == len(operands):
        return self.outputs(*_open(bodies[0]), operands, depth)
    avals = [variable.aval for variable in equation.outvars]
    if equation.effects:  # such as what a reference holds by now: equal to nothing
      return [self.number((object(), _kind(aval))) for aval in avals]
    if len(avals) == 1:
      simple = self._simplified(name, parameters, operands, equation, avals[0])
      if simple is not None:
        return [simple]
    if name in _OF_ZERO and all(map(self._is_zero, operands)):
      return [self.zero(aval) for aval in avals]
    key = (name, self._parameters(parameters, depth), *operands)
    return [self.number((key, i, _kind(aval))) for i, aval in enumerate(avals)]

  def _simplified(
    self, name: str, parameters: Any, operands: list[int], equation: Any, aval: Any
  ) -> int | None:
    """Returns the number of a result that needs no computation, None of any other."""
    kinds = [_kind(atom.aval) for atom in equation.invars]
    zero = [self._is_zero(operand) for operand in operands]
    unmoved = ("copy", "reshape", "convert_element_type", "broadcast_in_dim")
    if name in unmoved and kinds[0] == _kind(aval) and parameters.get("dimensions") is None:
      return operands[0]
    if name in ("mul", "dot_general") and any(zero):
      return self.zero(aval)
    if name == "div" and zero[0]:
      return self.zero(aval)
    if name in ("add", "add_any", "sub") and zero[1] and kinds[0] == _kind(aval):
      return operands[0]
    if name in ("add", "add_any") and zero[0] and kinds[1] == _kind(aval):
      return operands[1]
    if name == "select_n" and len({*operands[1:]}) == 1:
      return operands[1]
    if name == "reshape" and parameters.get("dimensions") is None:
      inner = self._keys[operands[0]]
      if inner[0] == "reshaped":
        operands = [inner[1]]
        if self._kind_of(operands[0]) == _kind(aval):
          return operands[0]
      if not zero[0]:
        return self.number(("reshaped", operands[0], _kind(aval)))
    return None

  def _is_zero(self, number: int) -> bool:
    return self._keys[number][0] == "zero"

  def _kind_of(self, number: int) -> Any:
    return self._keys[number][-1]

  def _constant(self, value: Any, aval: Any) -> int:
    kind = _kind(aval)
    if not jnp.issubdtype(aval.dtype, jax.dtypes.extended):
      array = np.asarray(value, aval.dtype)
      if not array.any():
        return self.number(("zero", kind))
      return self.number(("constant", array.tobytes(), kind))
    return self.number(("constant", id(value), kind))

  def _parameters(self, value: Any, depth: int) -> Any:
    """Returns parameters of a primitive as what can be compared."""
    if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
      jaxpr, consts = _open(value)
      bound = [
        self.number(("bound", depth, i, _kind(variable.aval)))
        for i, variable in enumerate(jaxpr.invars)
      ]
      return "jaxpr", tuple(self.outputs(jaxpr, consts, bound, depth + 1))
    if isinstance(value, dict):
      items = sorted(value.items(), key=lambda item: str(item[0]))
      return tuple((key, self._parameters(entry, depth)) for key, entry in items)
    if isinstance(value, tuple | list):
      return type(value), tuple(self._parameters(entry, depth) for entry in value)
    if isinstance(value, np.ndarray):
      return value.shape, value.dtype, value.tobytes()
    try:
      hash(value)
    except TypeError:
      return "object", id(value)
    return type(value), value


def _open(program: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
  return (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())


def _kind(aval: Any) -> Any:
  return getattr(aval, "shape", None), getattr(aval, "dtype", None)
