import numpy as np
import pytest

from ace_jax import plots
from experiments.harness import artifacts
from tests import commands


def records(shift, epochs=(1, 2, 3, 6), layers=2):
  history = []
  for epoch in epochs:
    record = {"epoch": epoch, "step": epoch, "loss": 1.0, "valid/projection": 1.0}
    record |= {"equivariance/relaxed": 0.5 / epoch, "equivariance/projection": 1e-7}
    for layer in range(layers):
      record[f"slack/layers_{layer}/features"] = shift + layer + 1 / epoch
      record[f"slack/layers_{layer}/positions"] = shift + layer / 10
    history.append(record)
  return history


def test_slack_is_sorted_by_stream_and_layer():
  epochs, streams = plots.table([records(0.0), records(1.0, epochs=(2, 6, 7))], "slack")
  assert epochs.tolist() == [2, 6]
  assert list(streams) == ["features", "positions"]
  np.testing.assert_allclose(streams["features"]["layers_1"], [[1.5, 7 / 6], [2.5, 13 / 6]])
  np.testing.assert_allclose(streams["positions"]["layers_1"], [[0.1, 0.1], [1.1, 1.1]])
  with pytest.raises(ValueError, match="no gamma"):
    plots.table([records(0.0)], "gamma")
  with pytest.raises(ValueError, match="not of the same layers"):
    plots.table([records(0.0), records(0.0, layers=1)], "slack")
  with pytest.raises(ValueError, match="no epoch in common"):
    plots.table([records(0.0), records(0.0, epochs=(4, 5))], "slack")


def test_panels_show_means_over_runs_on_one_colour_scale():
  figure = plots.by_stream([records(0.0), records(1.0)], "slack")
  panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
  assert set(panels) == {"features", "positions"}
  line = panels["positions"].get_lines()[1]
  np.testing.assert_allclose(line.get_xydata(), [[1, 0.6], [2, 0.6], [3, 0.6], [6, 0.6]])
  heats = [axes.collections[0] for axes in figure.axes if axes.get_xlabel() == "epoch"]
  np.testing.assert_allclose(heats[0].get_array()[1], 1.5 + 1 / np.array([1, 2, 3, 6]))
  assert [heat.get_clim() for heat in heats] == [(0.0, 2.5)] * 2
  figure.savefig("/dev/null", format="png")


def draw(*flags):
  return commands.run("experiments.stream_figures", *flags)


@pytest.mark.slow
def test_figures_from_what_was_kept_of_runs(tmp_path):
  for seed in (1, 2):
    (tmp_path / str(seed)).mkdir()
    artifacts.write_records(tmp_path / str(seed) / artifacts.RECORDS, records(float(seed)))
  runs = f"--runs={tmp_path}/1,{tmp_path}/2"
  done = draw(runs, f"--out={tmp_path}/out", "--label=rho1_")
  assert done.returncode == 0, done.stderr
  names = {path.name for path in (tmp_path / "out").iterdir()}
  assert names == {"rho1_slack_by_stream.png", "rho1_equivariance_error.png"}
  for flags, says in (
    ([], "name runs"),
    ([runs, "--kind=gamma"], "have no gamma"),
    ([f"--runs={tmp_path}/3"], "records.jsonl.gz: cannot be read"),
  ):
    done = draw(*flags)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
