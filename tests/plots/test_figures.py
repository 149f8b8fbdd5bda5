"""Every figure of the project: labels that can be read, units, one colour for one thing."""

import numpy as np
import pytest

from ace_jax import plots
from ace_jax.plots import style
from ace_jax.symmetry.report import GeneratorReport, LayerReport
from experiments.detection import figures as detection_figures
from experiments.harness import comparison_figures
from experiments.images import figures as image_figures
from experiments.mocap import figures as mocap_figures
from experiments.pendulum import figures as pendulum_figures
from experiments.sweep import figures as sweep_figures

RANDOM = np.random.default_rng(0)


def records(layers=3, maps=("update_1", "update_2")):
  rows = []
  for epoch in range(1, 40):
    row = {"epoch": epoch, "valid/projection": 0.06 / epoch, "valid/relaxed": 0.05 / epoch}
    row |= {"equivariance/projection": 1e-7, "equivariance/relaxed": 0.3 / epoch}
    for layer in range(layers):
      for name in maps:
        row[f"gamma/layers_{layer}/{name}"] = 1 / epoch
        row[f"multiplier/layers_{layer}/{name}"] = 0.1 - layer / epoch
        row[f"slack/layers_{layer}/{name}"] = 0.5 / epoch
    rows.append(row)
  return rows


def marks():
  made = []
  for constraint, constants in {"resilient": (0.01, 0.1, 1), "inequality": (0.1, 1)}.items():
    for constant in constants:
      gaps = [1e-2 * constant, 2e-2 * constant]
      made.append(
        comparison_figures.Mark(constraint, constant, [0.016, 0.018], gaps, gaps, [0.1, 0.2])
      )
  made.append(comparison_figures.Mark("none", None, [0.019, 0.018], [0.02] * 2, [0.05] * 2, []))
  return made


def strict(error):
  return comparison_figures.Mark("strict", None, [error, 1.1 * error], [1e-14] * 2, [1e-7] * 2, [])


def misalignment(loss=143.2):
  layers = [
    LayerReport(f"layers_{i}/update_1", 0.01, 0.01, 0.0, 0.01, 0.1, 0.0028) for i in range(8)
  ]
  generators = [
    GeneratorReport("rotation_x", 0.4, loss, 0.07, 0.0, 1, 300),
    GeneratorReport("rotation_z", 0.01, 0.014, 0.007, 0.0, 1, 300),
    GeneratorReport("translation_x", 0.0, -0.005, 0.002, 0.0, 1, 300),
  ]
  return plots.misalignment(layers, generators)


def curvatures(size):
  rows = []
  for epoch in (20, 60, 100, 120):
    end = {
      "loss": 0.02 / epoch,
      "top_eigenvalues": [30.0],
      "trace": 40.0,
      "trace_standard_error": 5,
    }
    sign = -1 if epoch == 60 else 1
    other = {"loss": size, "top_eigenvalues": [size], "trace": sign * size}
    rows.append(
      {"epoch": epoch, "gamma = 0": end, "gamma = 1": {**other, "trace_standard_error": 3}}
    )
  return rows


def surfaces():
  a = np.linspace(-1, 1, 9)
  bowl = a[:, None] ** 2 + a[None] ** 2
  return a, {"gamma = 0": 0.006 + bowl, "gamma = 1": 1e4 * (1 + 10 ** (5 * bowl))}


def poses():
  bones = np.array([[1, 0], [2, 1], [6, 0], [7, 6], [11, 0]])
  start, truth = RANDOM.normal(size=(2, 31, 3)), RANDOM.normal(size=(2, 31, 5, 3))
  names = ("egno, strict", "egno, resilient, relaxed")
  return mocap_figures.stick_figures(bones, start, truth, dict.fromkeys(names, truth + 1))


def trials():
  return [({"lr": lr, "branch": b}, 0.01 * (1 + lr)) for lr in (1e-4, 3e-4, 1e-3) for b in "ab"]


def rules():
  made = []
  for network in ("nbody: mpnn", "nbody: transformer"):
    asked = [1e-3] * 2
    made += [
      comparison_figures.Rule(network, "functional", [0.2, 0.4], [1e-3, 2e-3], asked, [2e-3, 1e-3]),
      comparison_figures.Rule(network, "plain", [0.4, 0.5], [1e-2, 2e-2], [], []),
      comparison_figures.Rule(network, "gap penalty, GradNorm", [0.4], [1e-2], [], []),
    ]
  return made


def detection():
  names = ("rotation_x", "rotation_y", "rotation_z")
  runs = {0.0: 20, 0.2: 10, 1.0: 10, 3.0: 10}
  called = {name: {s: (min(n, 7), n) for s, n in runs.items()} for name in names}
  outcomes = {
    s: {epochs: {"right": n - 6, "wrong": 1, "cannot tell": 5} for epochs in (15, 30, 60)}
    for s, n in runs.items()
  }
  kinds = ("gravity", "wind", "anisotropy")
  return detection_figures.detection_curves(
    dict.fromkeys(kinds, called),
    {kind: ["rotation_x"] for kind in kinds},
    dict.fromkeys(kinds, outcomes),
  )


def images():
  accuracies = {"projection_test_accuracy": 0.5, "relaxed_test_accuracy": 0.6}
  rows = [
    {"bias": bias, "constraint": constraint, "seed": seed, **accuracies}
    for bias in ("none", "x")
    for constraint in ("strict", "none", "equality")
    for seed in (0, 1)
  ]
  return image_figures.accuracies(rows)


def pendulum():
  rows = [
    {"constraint": name, "damping": c, "projection_test_mse": 1e-5 + c, "relaxed_test_mse": 1e-5}
    for name in ("strict", "equality", "resilient")
    for c in (0.0, 0.3, 1.0)
  ]
  return pendulum_figures.error_by_damping(rows)


def entries():
  return [
    comparison_figures.Entry(f"mlp {i}", [0.3, 0.4], [20.0, 30.0], [30.0, 80.0]) for i in (1, 2)
  ]


FIGURES = {
  "validation": lambda: plots.validation_curve({"equality": records()}, baseline=0.1, unit="cm"),
  "gamma": lambda: plots.gamma_and_multipliers(records()),
  "gamma of many layers": lambda: plots.gamma_and_multipliers(records(layers=9)),
  "streams": lambda: plots.by_stream([records(), records()], "slack"),
  "equivariance error": lambda: plots.equivariance_error(records()),
  "reference": lambda: plots.against_reference(
    {"ours": [records(), records()]}, {"published": (np.arange(9), np.full(9, 0.01))},
    "valid/projection", "validation MSE (cm)",
  ),
  "samples": lambda: plots.sample_efficiency({"strict": {100: [0.1, 0.2], 300: [0.05]}}, "cm"),
  "trajectories": lambda: plots.trajectories(
    None, *RANDOM.normal(size=(3, 3, 5, 3)), {"relaxed": RANDOM.normal(size=(3, 5, 3))}, "length"
  ),
  "report": misalignment,
  "small report": lambda: misalignment(0.03),
  "equivariance": lambda: plots.equivariance(
    {"SO(3)": {"projection": 1e-7, "relaxed": 1e-2}},
    {"layers_0": {"projection": 1e-7, "relaxed": 0.1}},
    np.geomspace(1e-4, 1, 9), {"equivariance error": np.geomspace(1e-4, 1, 9)},
    {"certificate": np.geomspace(1e-4, 50, 9)},
  ),
  "sharpness": lambda: plots.sharpness(curvatures(1e10)),
  "contours": lambda: plots.contours(
    surfaces()[1], surfaces()[0], surfaces()[0], {"training": np.array([[-0.5, 0.5], [0, 0]])}
  ),
  "along training": lambda: plots.along_training(
    {name: [losses] * 4 for name, losses in surfaces()[1].items()}, (20, 60, 100, 120),
    surfaces()[0], surfaces()[0],
  ),
  "tradeoff": lambda: comparison_figures.tradeoff(
    {"none": [*marks(), strict(0.014)], "gravity:3": [*marks(), strict(0.8)]}
  ),
  "branches": lambda: comparison_figures.branches({"step time": entries()}, "cm"),
  "variants": lambda: comparison_figures.variants({"nbody": entries()}),
  "rivals": lambda: comparison_figures.at_measured_equivariance(rules()),
  "detection": detection,
  "accuracies": images,
  "pendulum": pendulum,
  "poses": poses,
  "sensitivity": lambda: sweep_figures.sensitivity(trials(), "validation MSE, relaxed"),
  "parallel": lambda: sweep_figures.parallel_coordinates(trials(), "validation MSE, relaxed"),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_labels_can_be_read(name, unreadable):
  figure = FIGURES[name]()
  assert unreadable(figure) == []


def colors_of(figure, label):
  legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
  handles = [handle for legend in legends for handle in legend.legend_handles]
  return {handle.get_color() for handle in handles if handle.get_label().startswith(label)}


@pytest.mark.parametrize("thing", ["projection", "relaxed", "strict", "resilient", "equality"])
def test_a_thing_has_one_colour_in_all_figures(thing):
  names = ("equivariance error", "equivariance", "tradeoff", "branches", "accuracies", "pendulum")
  colors = set().union(*(colors_of(FIGURES[name](), thing) for name in names))
  assert colors == {style.LOOKS[thing].color}


def test_the_reference_has_another_colour_than_ours():
  figure = FIGURES["reference"]()
  ours, theirs = figure.axes[0].get_lines()
  assert ours.get_color() == style.LOOKS["projection"].color
  assert theirs.get_color() == style.BLACK
  assert [t.get_text() for t in figure.legends[0].get_texts()] == [
    "ours, mean of 2 seeds",
    "published",
  ]


def test_no_line_joins_traces_whose_sign_changes():
  trace = plots.sharpness(curvatures(1e10)).axes[2]
  joined = [line for line in trace.get_lines() if line.get_linestyle() not in ("None", "")]
  assert [line.get_ydata().tolist() for line in joined] == [[40.0] * 4]
  hollow = [line for line in trace.get_lines() if line.get_markerfacecolor() == "white"]
  assert np.concatenate([line.get_ydata() for line in hollow]).tolist() == [1e10]
  assert trace.get_ylabel() == "absolute value"
  near = plots.sharpness(curvatures(50.0)).axes[2]
  assert near.get_yscale() == "linear"


def test_panels_of_contours_share_one_scale_of_ratios():
  figure = FIGURES["contours"]()
  *panels, bar = figure.axes
  assert bar.get_ylabel() == "loss / lowest loss shown in the panel"
  assert panels[0].get_xlabel() == "first direction (norms of the filters)"
  assert panels[0].get_title().startswith("gamma = 0: lowest loss 0.006")
  first, second = (axes.collections[0] for axes in panels)
  np.testing.assert_array_equal(first.levels, second.levels)
  assert first.levels[0] == 1.0
  assert all("$" in t.get_text() or float(t.get_text()) >= 1 for t in bar.get_yticklabels())


def test_checkpoints_of_a_landscape_are_named():
  titles = [axes.get_title() for axes in FIGURES["along training"]().axes[:5]]
  assert titles == ["epoch 20", "epoch 60", "epoch 100", "epoch 120", ""]


def test_a_strict_model_far_above_is_named_and_crushes_nothing():
  figure = FIGURES["tradeoff"]()
  near, far = figure.axes[:2]
  assert far.get_ylim()[1] < 0.03
  assert [text.get_text() for text in far.texts] == ["strict: 0.84, far above"]
  assert list(near.texts) == []
  assert near.get_xlabel() == "relative equivariance error of the prediction"


def test_a_report_tells_growth_and_error():
  axes = misalignment().axes[2]
  assert axes.get_xlabel() == "growth of the loss on moved data, (moved - own) / own"
  assert [text.get_text() for text in axes.texts][:2] == ["+143.200 ± 0.070", "+0.014 ± 0.007"]
  low, high = axes.get_xlim()
  assert low < -0.014
  assert high > 143.5
  assert r"($\times10^{-3}$)" in misalignment().axes[1].get_xlabel()


def test_ten_runs_have_an_interval():
  figure = detection()
  axes = figure.axes[3]  # below the shares of verdicts
  # 7 of 10: Clopper and Pearson's 95 % interval.
  bars = [container.lines[2][0].get_segments()[0] for container in axes.containers]
  np.testing.assert_allclose(bars[1][:, 1], [34.75, 93.33], atol=0.01)
  assert len({float(bar[0, 0]) for bar in bars}) == len(bars) == 4 * 3  # side by side
  # Of four strengths and three lengths, 10 runs: 4 right, 5 of which nothing can be told, 1 wrong.
  shares = [container.patches[0].get_height() for container in figure.axes[0].containers]
  assert shares[-3:] == [40.0, 50.0, 10.0]


def test_poses_share_limits_and_units_and_tell_left_from_right():
  figure = poses()
  assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
  assert figure.axes[-1].get_xlabel() == "way (cm)"
  assert figure.axes[0].get_ylabel() == "window 1\nheight (cm)"
  assert figure.axes[0].get_title() == "egno\nstrict\nMSE 1"
  dashed = [line.get_linestyle() for line in figure.axes[0].get_lines()[:5]]
  assert [dash != "-" for dash in dashed] == [True, True, False, False, False]


def test_left_joints_are_those_of_the_skeleton():
  from data.mocap import dataset

  names = dataset.load("walk", source="synthetic").joint_names
  both = {n[1:] for n in names if n.startswith("l")} & {n[1:] for n in names if n.startswith("r")}
  left = {i for i, name in enumerate(names) if name.startswith("l") and name[1:] in both}
  assert left == mocap_figures.LEFT


def test_lines_upon_each_other_have_marks_at_other_epochs():
  figure = plots.gamma_and_multipliers(records())
  assert len(figure.axes) == 2 * 3  # a row a map, a column a quantity
  starts = [line.get_markevery()[0] for line in figure.axes[0].get_lines()[:3]]
  assert len(set(starts)) == 3


def test_units_stand_at_the_axes():
  assert FIGURES["validation"]().axes[0].get_ylabel() == "validation MSE (cm)"
  assert FIGURES["trajectories"]().axes[0].get_xlabel() == "x (length)"
  assert FIGURES["pendulum"]().axes[0].get_xlabel().startswith("damping $c$ (units of")


def test_a_sweep_says_how_many_seeds_stand_behind_its_points():
  repeated = [*trials(), *trials()]
  note = sweep_figures.sensitivity(repeated, "error").legends[0].get_title().get_text()
  assert note == "12 trials of 6 points"
