from ace_jax import plots
from experiments.harness import comparison_figures


def labels(figure):
  return [axes.get_ylabel() for axes in figure.axes]


def test_gammas_and_their_multipliers():
  record = {"gamma/a": 1.0, "gamma/b": 0.5, "multiplier/a": 0.1, "multiplier/b": 0.2}
  figure = plots.gamma_and_multipliers([{"epoch": epoch, **record} for epoch in (1, 2)])
  assert labels(figure) == [r"$\gamma$", r"multiplier $\lambda$"]
  assert [len(axes.get_lines()) for axes in figure.axes] == [3, 3]  # one is the line at 0
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_a_constraint_of_another_name_has_its_violation_drawn():
  records = [
    {"epoch": 1, "multiplier/equivariance": 0.0, "violation/equivariance": 2.0},
    {"epoch": 2, "multiplier/equivariance": 0.3, "violation/equivariance": 1.0},
  ]
  figure = plots.gamma_and_multipliers(records)
  assert labels(figure) == [r"multiplier $\lambda$", "violation $v$"]
  assert list(figure.axes[1].get_lines()[0].get_ydata()) == [2.0, 1.0]
  with_gamma = plots.gamma_and_multipliers([{**record, "gamma/a": 0.4} for record in records])
  assert len(with_gamma.axes) == 3


def test_what_bounds_reach_beside_the_rules_of_every_network():
  bound = comparison_figures.Rule(
    "mpnn", "functional", [0.2, 0.4], [1e-3, 2e-3], [1e-3] * 2, [2e-3, 1e-3]
  )
  others = [comparison_figures.Rule("mpnn", "remul", [0.3], [gap], [], []) for gap in (1e-2, 1e-4)]
  alone = comparison_figures.Rule("transformer", "remul", [0.3], [1e-2], [], [])
  figure = comparison_figures.at_measured_equivariance([bound, *others, alone])
  left, mpnn, transformer = figure.axes
  assert [list(line.get_ydata()) for line in left.get_lines()[1:2]] == [[2.0, 1.0]]
  joined = [line for line in mpnn.get_lines() if line.get_linestyle() != "None"]
  assert list(joined[1].get_xdata()) == [1e-4, 1e-2]
  assert joined[1].get_color() == comparison_figures.RULES["remul"].color
  assert transformer.get_title() == "transformer"
