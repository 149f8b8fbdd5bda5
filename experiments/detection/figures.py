"""The figure of how often verdicts are right."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ace_jax.plots.palette import BROKEN, KEPT


def detection_curves(
  found: Mapping[str, Mapping[str, Mapping[float, tuple[int, int]]]],
  broken: Mapping[str, Sequence[str]],
) -> Figure:
  """Draws how often each generator is called broken, against the strength of the breaking.

  Args:
    found: By kind of breaking, generator and strength: (runs that call it broken, runs).
    broken: The generators that each kind does break.
  """
  figure = Figure(figsize=(3.6 * len(found), 3.4), layout="constrained")
  markers = "osD^v<"
  columns = figure.subplots(1, len(found), squeeze=False)[0]
  for axes, (kind, generators) in zip(columns, found.items(), strict=True):
    strengths = sorted(next(iter(generators.values())))
    for index, (name, counts) in enumerate(sorted(generators.items())):
      share = [100 * counts[s][0] / counts[s][1] for s in strengths]
      truth = name in broken[kind]
      axes.plot(
        range(len(strengths)),
        share,
        f"{'-' if truth else ':'}{markers[index % len(markers)]}",
        color=BROKEN if truth else KEPT,
        alpha=0.75,
        ms=4,
        label=f"{name} ({'broken' if truth else 'kept'})",
      )
    labels = [f"{s:g}\n({next(iter(generators.values()))[s][1]})" for s in strengths]
    axes.set_xticks(range(len(strengths)), labels, fontsize=8)
    axes.set_xlabel("strength (number of runs)", fontsize=9)
    axes.set_title(kind, fontsize=10)
    axes.set_ylim(-4, 104)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=6, loc="center right", title="truth", title_fontsize=7)
    axes.set_ylabel("runs that call it broken, %", fontsize=9)
  return figure
