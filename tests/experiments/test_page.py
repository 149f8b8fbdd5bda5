"""Pages of runs: their numbers, what is escaped, what is damaged, what does not fit."""

import copy
import html.parser
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.harness import page, page_curves, page_runs, page_tables, page_words
from tests.experiments import pages

GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
EVIL = """<script>alert('1')</script> "quoted" & <img src=x onerror=alert(2)>"""
RECORDS = [pages.record(epoch) for epoch in range(1, 5)]


class Seen(html.parser.HTMLParser):
  """What a browser makes of a page: elements, addresses, handlers, exact numbers, text, data."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.addresses, self.handlers, self.numbers = [], [], [], []
    self.text, self.scripts = "", []
    self._within = ""
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self._within = tag
    for name, value in attrs:
      if name in ("src", "href"):
        self.addresses.append(value)
      if name.startswith("on"):
        self.handlers.append(name)
      if name == "title":
        self.numbers.append(value)

  def handle_endtag(self, tag):
    self._within = ""
    self.text += " "

  def handle_data(self, data):
    if self._within == "script":
      self.scripts.append(data)
    elif self._within != "style":
      self.text += data

  @property
  def data(self):
    return json.loads(self.scripts[0])


def see(folder, root=None, live=False):
  root = root or folder
  return Seen(page.render(page_runs.read(folder, root), root, live))


def test_the_numbers_are_those_of_the_result(tmp_path):
  content = pages.result()
  seen = see(pages.write(tmp_path / "run", content, RECORDS))
  shown = {float(number) for number in seen.numbers if number.replace(".", "").isdigit()}
  for predictor in content["predictors"].values():
    assert {predictor["test_mse"], predictor["valid_mse"], predictor["best_epoch"]} <= shown
    assert {*predictor["test_mse_turned"].values()} <= shown
  assert {*content["final"]["slack"].values(), content["linear_mse"]} <= shown
  assert repr(2e-6) in seen.numbers
  assert "0.019877" in seen.text  # of the relaxed model, rounded
  panels = {panel["id"]: panel for panel in seen.data["panels"]}
  assert [*panels] == ["errors", "equivariance", "gamma", "multiplier", "slack"]
  gammas = {series["name"]: series["values"] for series in panels["gamma"]["series"]}
  assert gammas == {
    layer: pytest.approx([record[f"gamma/{layer}"] for record in RECORDS], rel=1e-5)
    for layer in pages.LAYERS
  }
  assert panels["errors"]["epochs"] == [1, 2, 3, 4]
  assert panels["errors"]["logarithmic"] and not panels["gamma"]["logarithmic"]


def test_the_verdict_names_predictor_layer_and_doubts(tmp_path):
  text = see(pages.write(tmp_path / "run", pages.result(), RECORDS)).text
  assert f"Test MSE: 0.01988 of the relaxed f_θ,{GAMMA} and 0.02346 of the projection" in text
  assert "; a linear prediction has 0.1." in text
  assert "u, with a learned slack u, does not hold at the end in 1 of 2 layers, by 0.249" in text
  assert "too few evaluations to say whether the model still improves" in text
  assert "python -m experiments.report --runs=run" in text
  (tmp_path / "run" / "report.md").write_text("# Misalignment report\n\nThe data break <b>.\n\nx")
  assert "Report: The data break <b>." in see(tmp_path / "run").text


@pytest.mark.parametrize(
  ("constraint", "epsilon", "gamma", "says"),
  [
    ("equality", None, 0.0005, f"equality: {GAMMA} = 0 holds in every layer at the end"),
    ("equality", None, 0.2, f"equality: {GAMMA} = 0 does not hold at the end"),
    ("inequality", 0.1, -0.1, f"inequality: |{GAMMA}| ≤ 0.1 holds in every layer at the end"),
    ("inequality", 0.1, -0.2, f"inequality: |{GAMMA}| ≤ 0.1 does not hold at the end"),
  ],
)
def test_the_verdict_says_whether_a_bound_holds(tmp_path, constraint, epsilon, gamma, says):
  content = pages.result(constraint=constraint, final={"gamma": {"a": gamma}})
  content["settings"] |= {"constraint": constraint, "epsilon": epsilon}
  assert says in see(pages.write(tmp_path / "run", content)).text


@pytest.mark.parametrize(
  ("reached", "error", "says"),
  [
    (0.002, 1e-4, "the bound 0.001 does not hold."),
    (0.0005, 1e-4, "the bound 0.001 holds."),
    (0.0011, 1e-4, "cannot be told to hold or not, being within two standard errors."),
  ],
)
def test_the_verdict_on_a_functional_constraint_heeds_the_standard_error(
  tmp_path, reached, error, says
):
  final = {"test_gap": reached, "test_gap_error": error}
  content = pages.result(constraint="functional", functional={"asked": 0.001, "final": final})
  content["final"] = {"gamma": {}, "multiplier": {"equivariance": 0.1}, "slack": {}}
  run = page_runs.Run(tmp_path, "finished", result=content)
  assert says in page_words.verdict(run, [], tmp_path)[1]


def test_the_verdict_says_by_how_much_the_last_quarter_moved(tmp_path):
  records = [pages.record(epoch) for epoch in range(1, 21)]
  for record in records:
    record["valid/relaxed"] = 0.1 - 0.001 * record["epoch"]  # 0.085 before, 0.08 at the end
  text = see(pages.write(tmp_path / "run", pages.result(), records)).text
  assert "In the last quarter of the epochs the lowest validation error fell by 5.9 %." in text
  assert f"{GAMMA} at its beginning and at the end differ by at most 0.0083." in text
  assert "need care" not in text


def test_what_was_asked_for_comes_first(tmp_path):
  text = see(pages.write(tmp_path / "run", pages.result())).text
  asked = text.split("Asked for on the command line")[1].split("Differs from")[0].split()
  assert asked == ["setting", "value", "constraint", "resilient", "rho", "1", "epochs", "4"]
  assert (
    "python -m experiments.nbody \\\n  --constraint=resilient \\\n  --rho=1 \\\n  --epochs 4"
    in text
  )
  assert "2000" in text.split("Differs from what was published")[1].split("All settings")[0]


def test_flags_that_say_where_a_run_wrote_are_left_out_of_the_command():
  command = "python -m experiments.nbody --resume --workdir 'a b' --seeds=0,1 --nolog_test"
  assert page_tables.to_repeat(command) == (
    "python -m experiments.nbody \\\n  --seeds=0,1 \\\n  --nolog_test"
  )
  assert page_tables.given(command)["workdir"] == "a b"
  assert page_tables.given("python -m pytest tests") == {}
  assert page_tables.given("python -m 'unfinished") == {}


def test_markup_in_names_settings_and_errors_is_text(tmp_path):
  folder = tmp_path / EVIL.replace("/", "_")
  content = pages.result(model=EVIL)
  content["settings"]["relaxation"] = EVIL
  content["environment"]["device"] = EVIL
  content["final"]["gamma"] = {f"</script>{EVIL}": 1.0}
  records = [{**record, f"gamma/</script>{EVIL}": 0.5} for record in RECORDS]
  pages.write(folder, content, records)
  (folder / "figures").mkdir()
  (folder / "figures" / f"{EVIL.replace('/', '_')}.png").write_bytes(pages.PNG)
  (folder / "report.md").write_text(f"#\n\n{EVIL}\n\n")
  plain = see(pages.write(tmp_path / "plain", pages.result(), RECORDS))
  for seen in (see(folder), see(folder, tmp_path, live=True)):
    assert seen.tags.count("script") == plain.tags.count("script") == 3
    assert seen.tags.count("img") == 1
    assert seen.handlers == []
    assert all(address.startswith("data:") or address == "/" for address in seen.addresses)
    assert EVIL in seen.text
    (panel,) = [panel for panel in seen.data["panels"] if panel["id"] == "gamma"]
    assert f"</script>{EVIL}" in [series["name"] for series in panel["series"]]
  (tmp_path / "config.json").write_text("{")
  (tmp_path / "sweep.json").write_text(json.dumps({"trials": [{"folder": EVIL, "a": EVIL}]}))
  (tmp_path / "config.json").unlink()
  seen = see(tmp_path)
  assert (seen.tags.count("script"), seen.tags.count("img"), seen.handlers) == (3, 0, [])
  assert seen.text.count(EVIL) >= 2


def test_a_page_allows_its_scripts_alone(tmp_path):
  text = page.render(page_runs.read(pages.write(tmp_path / "run", pages.result())), tmp_path)
  policy = text.split('Content-Security-Policy" content="')[1].split('"')[0]
  assert "default-src &#39;none&#39;; script-src &#39;sha256-" in policy
  assert "unsafe-inline" not in policy.split("style-src")[0]
  assert "url(" not in text.replace("url(data:", "")
  assert "@import" not in text


@pytest.mark.parametrize(
  ("name", "content", "says"),
  [
    ("result.json", "{", "result.json: damaged ("),
    ("result.json", '{"experiment": "nbody"}', "result.json: model is missing or no result"),
    ("result.json", "[1]", "result.json: damaged (no JSON dict)"),
    ("config.json", "\0", "config.json: damaged ("),
    ("metrics.jsonl", '{"epoch": 1}\nnonsense\n{"epoch": 3}\n', "metrics.jsonl:2: not the record"),
    ("metrics.jsonl", '{"epoch": 1, "a": "\0"}\n{"epoch": 2}\n', "metrics.jsonl:1: not the record"),
  ],
)
def test_damage_is_one_line(tmp_path, name, content, says):
  folder = pages.write(tmp_path / "run", pages.result(), RECORDS)
  (folder / name).write_text(content)
  run = page_runs.read(folder)
  assert run.status == "damaged"
  assert run.note.startswith(says)
  assert "\n" not in run.note
  seen = see(folder)
  assert run.note in seen.text
  assert "Traceback" not in seen.text
  assert "all defaults" not in seen.text
  assert ("rho" in seen.text) == (name != "config.json")  # what is whole is shown
  listed = see(tmp_path)
  assert run.note in listed.text


@pytest.mark.parametrize("name", ["sweep.json", "state.json"])
@pytest.mark.parametrize(
  ("content", "says"),
  [("{", "damaged ("), ("[1]", "damaged (no JSON dict)"), ("\0", "damaged (")],
)
def test_a_damaged_file_of_many_runs_is_one_line(tmp_path, name, content, says):
  pages.write(tmp_path / "many" / "run", pages.result())
  (tmp_path / "many" / name).write_text(content)
  text = see(tmp_path / "many").text
  assert f"Left out: {name}: {says}" in text
  assert "Runs (1)" in text and "Traceback" not in text
  assert f"Left out: {name}: {says}" in see(tmp_path).text  # of the list above
  (tmp_path / "many" / name).unlink()
  (tmp_path / "many" / name).symlink_to("/nowhere")
  assert f"Left out: {name} leads out of the folder" in see(tmp_path / "many").text


def test_whatever_stands_in_a_result_a_page_is_made(tmp_path):
  """Every value is replaced by each of these, one at a time; either it is damaged, or shown."""
  folder = pages.write(tmp_path / "run", pages.result(), RECORDS[:2])
  content = pages.result()
  paths = [()]
  for path in paths:
    value = content
    for key in path:
      value = value[key]
    if isinstance(value, dict):
      paths += [(*path, key) for key in value]
  assert len(paths) > 60
  for path in paths[1:]:
    for odd in (None, [], {}, "text", -1, float("nan"), 10**400, [{"a": [1]}], {"a": {"b": []}}):
      broken = copy.deepcopy(content)
      value = broken
      for key in path[:-1]:
        value = value[key]
      value[path[-1]] = odd
      (folder / "result.json").write_text(json.dumps(broken))
      run = page_runs.read(folder)
      assert "<h1>" in page.render(run, folder), (path, odd)
      assert "</tr>" in page.rows([run], tmp_path)


def test_a_run_in_progress_runs_until_it_is_silent(tmp_path):
  folder = pages.write(tmp_path / "run")
  assert (page_runs.read(folder).status, page_runs.read(folder).epoch) == ("running", None)
  pages.append(folder, *RECORDS[:2])
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"epoch": 3, "lo')  # being written
  run = page_runs.read(folder)
  assert (run.status, run.note, run.epoch) == ("running", "", 2)
  seen = see(folder)
  assert "epoch 2 of 4" in seen.text
  assert seen.data["panels"][0]["epochs"] == [1, 2]
  pages.age(folder, 3 * 3600)
  run = page_runs.read(folder)
  assert (run.status, run.note) == ("stopped", "no result; the last record came 3 hours ago")


def test_a_command_of_several_runs_has_a_page_that_links_theirs(tmp_path):
  pages.write(tmp_path)
  for name in ("seed0", "seed 1"):
    pages.write(tmp_path / name, pages.result(replica=name), RECORDS)
    page.write(tmp_path / name)
  pages.write(tmp_path / "seed2", None, RECORDS[:1], config=False)
  page.write(tmp_path)
  seen = Seen((tmp_path / page.PAGE).read_text())
  assert {"seed0/report.html", "seed%201/report.html"} <= {*seen.addresses}
  assert "Runs (3)" in seen.text
  assert page_runs.read(tmp_path / "seed2", tmp_path).settings["epochs"] == 4  # of the command


def test_tables_of_a_comparison(tmp_path):
  rows = [{"seed": seed, "error": {"relaxed": 0.5 + seed}, "curve": [1, 2]} for seed in range(3)]
  content = {"format": 2, "experiment": "tradeoff", "points": rows}
  content["verdicts"] = {"0.1": "the data break time reversal"}
  pages.write(tmp_path, content, config=False)
  seen = see(tmp_path)
  assert "0.1: the data break time reversal" in seen.text
  assert {"0.5", "1.5", "2.5"} <= {*seen.numbers}
  assert "error relaxed" in seen.text
  (tmp_path / "table.md").write_text("| run | error |\n| --- | --- |\n| a | 0.25 |\n")
  seen = see(tmp_path)
  assert "0.25" in seen.text and "error relaxed" not in seen.text and "---" not in seen.text


def test_curves_are_thinned_and_gaps_stay():
  rows = 12_345
  records = [{"epoch": i + 1, "loss": 1.0, "gamma/a": math.sin(i)} for i in range(rows)]
  records[7001]["loss"] = 50.0
  records[7002]["loss"] = float("nan")
  records[9001]["loss"] = 1e-9
  errors, gamma = page_curves.panels(records, {})
  assert len(errors["epochs"]) <= page_curves.POINTS
  assert (errors["epochs"][0], errors["epochs"][-1]) == (1, rows)
  values = errors["series"][0]["values"]
  at = dict(zip(errors["epochs"], values, strict=True))
  assert (at[7002], at[7003], at[9002]) == (50.0, None, 1e-9)
  assert errors["every"] == pytest.approx(rows / 2000, abs=0.1)
  assert len(gamma["epochs"]) <= page_curves.POINTS
  assert np.all(np.diff(gamma["epochs"]) > 0)
  few = page_curves.panels(records[:100], {})
  assert len(few[0]["epochs"]) == 100 and few[0]["every"] is None


def test_figures_that_are_too_large_or_lead_elsewhere_are_named(tmp_path):
  folder = pages.write(tmp_path / "run", pages.result())
  (folder / "figures").mkdir()
  (folder / "figures" / "good.png").write_bytes(pages.PNG)
  (folder / "figures" / "large.png").write_bytes(pages.PNG + bytes(4 * 2**20))
  (folder / "figures" / "text.png").write_text("secret of a text")
  (tmp_path / "secret.png").write_bytes(pages.PNG + b"secret")
  (folder / "figures" / "linked.png").symlink_to(tmp_path / "secret.png")
  seen = see(folder)
  assert [a.startswith("data:image/png") for a in seen.addresses if a != "data:,"] == [True]
  assert "large.png: 4.0 MiB, too large for this page" in seen.text
  assert "linked.png: leads out of the folder" in seen.text
  assert "text.png: no PNG" in seen.text


def test_files_that_lead_out_of_the_folder_are_not_read(tmp_path):
  outside = pages.write(tmp_path / "outside", pages.result(model="secret"), RECORDS)
  folder = pages.write(tmp_path / "root" / "run")
  for name in ("result.json", "metrics.jsonl"):
    (folder / name).symlink_to(outside / name)
  run = page_runs.read(folder, tmp_path / "root")
  assert run.result == {}
  seen = see(folder, tmp_path / "root")
  assert "secret" not in seen.text
  assert seen.data["panels"] == []


def test_a_page_that_cannot_be_written_costs_a_line(tmp_path, capsys):
  folder = pages.write(tmp_path / "run", pages.result(), RECORDS)
  (folder / page.PAGE).mkdir()
  page.write(folder)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"warning: {folder / page.PAGE} was not written (")
  assert json.loads((folder / "result.json").read_text()) == pages.result()


def test_names_that_are_no_text_are_shown(tmp_path):
  try:
    folder = pages.write(tmp_path / os.fsdecode(b"a\xff"), pages.result(), RECORDS)
  except OSError:
    pytest.skip("the file system takes text alone")
  page.write(folder)
  assert "a\\udcff" in (folder / page.PAGE).read_text()
  assert "a%FF/report.html" in see(tmp_path).addresses


def test_a_table_can_be_a_page(tmp_path):
  for seed in (1, 2):
    content = pages.result(seeds=[seed])
    content["settings"]["seed"] = seed
    page.write(pages.write(tmp_path / "runs" / f"seed{seed}", content, RECORDS))
  done = subprocess.run(
    [sys.executable, "-m", "experiments.table", f"--folders={tmp_path / 'runs'}",
     f"--page={tmp_path / 'table.html'}"],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  seen = Seen((tmp_path / "table.html").read_text())
  assert "19.88" in done.stdout and "19.88" in seen.text
  assert "runs/seed1/report.html" in seen.addresses
