"""Published claims beside our numbers."""

import itertools
import json
import math

import numpy as np
import pytest

from data.errors import DataError
from experiments.campaign.compare import welch
from experiments.claims import claims
from experiments.harness import tables
from tests.experiments.test_settings import RESULTS

PROJECTION = "predictors/projection/test_mse"


def write(tmp_path, **changed):
  entry = {
    "claim": "N-body",
    "published": [5.6, 0.25],
    "scale": 0.001,
    "runs": ["campaign/none*", "nbody/strict_seed*"],
    "number": PROJECTION,
    "test": "reached",
    "other": None,
  }
  file = tmp_path / "claims.json"
  file.write_text(json.dumps([{**entry, **changed}]))
  return file


def cells(tmp_path, **changed):
  (claim,) = claims.read(write(tmp_path, **changed))
  return claims.row(claim, RESULTS)


def errors(pattern):
  results = [json.loads(f.read_text()) for f in RESULTS.glob(f"{pattern}/result.json")]
  return [result["predictors"]["projection"]["test_mse"] for result in results]


def test_a_number_is_reached_up_to_the_published_deviation(tmp_path):
  strict = errors("nbody/strict_seed*")
  mean = 1e3 * np.mean(strict)
  name, published, ours, holds = cells(tmp_path)
  assert (name, published) == ("N-body", "5.6 +- 0.25")
  assert ours == f"{mean:.3g} +- {1e3 * np.std(strict, ddof=1):.1g} (5, 300)"
  assert holds == "yes"
  assert cells(tmp_path, published=[mean - 0.02, 0.01])[-1] == "no"
  assert cells(tmp_path, published=[mean - 0.02, 0.03])[-1] == "yes"


def test_two_rows_are_compared(tmp_path):
  strict, equality = errors("nbody/strict_seed*"), errors("nbody/equality_seed*")
  other = {"runs": ["nbody/strict_seed*"], "number": PROJECTION}
  compared = {"published": "lower", "test": "lower", "other": other}
  *_, holds = cells(tmp_path, runs=["nbody/equality_seed*"], **compared)
  assert holds == f"lower, not shown (p = {welch(equality, strict):.1g})"
  *_, holds = cells(tmp_path, **compared)
  assert holds == "no"  # than itself
  seed = {"runs": ["nbody/strict_seed1"], "number": PROJECTION}
  *_, ours, holds = cells(tmp_path, runs=["nbody/equality_seed1"], **{**compared, "other": seed})
  assert holds == "lower, untested (one seed)"
  assert ours.count("(1, 300)") == 2
  *_, holds = cells(tmp_path, **{**compared, "test": "no_worse"})
  assert holds == "yes"
  assert math.isnan(welch([1.0], [2.0, 3.0]))


def test_runs_that_do_not_exist_decide_nothing(tmp_path):
  assert cells(tmp_path, runs=["campaign/none*"])[2:] == ["not run", ""]
  other = {"runs": ["campaign/none*"], "number": PROJECTION}
  *_, ours, holds = cells(tmp_path, published="lower", test="lower", other=other)
  assert ours.endswith("against not run")
  assert holds == ""


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"published": [5.6]}, "a mean and a standard deviation"),
    ({"published": [5.6, float("nan")]}, "a mean and a standard deviation"),
    ({"published": [True, 1]}, "a mean and a standard deviation"),
    ({"scale": 0}, "scale a positive number"),
    ({"claim": 3}, "claim must be a text"),
    ({"runs": []}, "a list of patterns"),
    ({"runs": ["../elsewhere*"]}, "below the folder of results"),
    ({"runs": ["/nbody*"]}, "below the folder of results"),
    ({"number": None}, "a path in result.json"),
    ({"test": "better"}, "one of reached, lower, no_worse"),
    ({"test": "lower"}, "other must have runs and number"),
    ({"other": {"runs": ["x"], "number": "y"}}, "other must be null"),
    ({"more": 1}, "must have claim, number, other"),
  ],
)
def test_damaged_lists_of_claims(changed, message, tmp_path):
  with pytest.raises(DataError, match=message):
    claims.read(write(tmp_path, **changed))


def test_an_empty_list_of_claims(tmp_path):
  file = tmp_path / "claims.json"
  file.write_text("[]")
  with pytest.raises(DataError, match="holds no claims; mend the list"):
    claims.read(file)


def test_a_result_without_the_number(tmp_path):
  with pytest.raises(DataError, match="has no number predictors/relaxed/test_mse"):
    cells(tmp_path, number="predictors/relaxed/test_mse")
  with pytest.raises(DataError, match="has no number experiment"):
    cells(tmp_path, number="experiment")


def test_the_page_of_results_has_the_table_of_today_and_the_readme_six_rows_of_it():
  rows = [claims.row(claim, RESULTS) for claim in claims.read(RESULTS / "claims.json")]
  table = tables.markdown(claims.HEADER, rows)
  assert table in (RESULTS / "README.md").read_text()
  head, line, *body = table.splitlines()
  _, _, below = (RESULTS.parent / "README.md").read_text().partition(f"{head}\n{line}\n")
  shown = list(itertools.takewhile(lambda row: row.startswith("|"), below.splitlines()))
  assert len(shown) == 6
  assert [row for row in body if row in shown] == shown
