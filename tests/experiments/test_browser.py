"""Pages in a browser: Debian's Chromium through Playwright, where both are installed."""

import json
import shutil

import pytest

from experiments.harness import page
from tests.experiments import pages
from tests.experiments.test_view import serving_at

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
RECORDS = [pages.record(epoch) for epoch in range(1, 5)]
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def browser():
  with playwright.sync_playwright() as started:
    made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield made
    made.close()


@pytest.fixture
def tab(browser):
  """A tab that keeps what went wrong, and every request."""
  opened = browser.new_page(viewport={"width": 1280, "height": 900})
  opened.wrong, opened.requests = [], []
  opened.on("console", lambda message: opened.wrong.append(message.text))
  opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
  opened.on("request", lambda request: opened.requests.append(request.url))
  return opened


def canvas_sum(tab, panel):
  """Returns how many pixels of a panel's plot are not white."""
  return tab.evaluate(
    """id => {
      const canvas = document.querySelector(`[data-panel=${id}] canvas`);
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
      return count;
    }""",
    panel,
  )


def test_a_page_is_a_file_whose_curves_answer(tmp_path, tab):
  content = pages.result()
  content["final"]["gamma"][EVIL] = 1.0
  records = [{**record, f"gamma/{EVIL}": record["epoch"] / 8} for record in RECORDS]
  page.write(pages.write(tmp_path / "run", content, records))
  tab.goto((tmp_path / "run" / page.PAGE).as_uri())
  gamma = tab.locator("[data-panel=gamma]")
  assert gamma.locator(".u-legend .u-series").count() == 4  # epochs, layers, markup
  assert EVIL in gamma.locator(".u-legend").inner_text()

  gamma.scroll_into_view_if_needed()
  box = gamma.locator(".u-over").bounding_box()
  tab.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
  tab.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
  tab.wait_for_timeout(100)
  value = gamma.locator(".u-legend .u-series").nth(1).locator(".u-value")
  assert float(value.inner_text()) == RECORDS[-1]["gamma/layers_0/update_1"]
  others = tab.locator("[data-panel=multiplier] .u-legend .u-series").nth(0).locator(".u-value")
  assert others.inner_text() == "4"  # the cursor is that of all panels

  before = canvas_sum(tab, "gamma")
  gamma.locator(".u-legend .u-series").nth(1).locator("th").click()
  assert "u-off" in gamma.locator(".u-legend .u-series").nth(1).get_attribute("class")
  tab.wait_for_timeout(100)
  assert canvas_sum(tab, "gamma") < before
  gamma.locator(".u-legend .u-series").nth(1).locator("th").press("Enter")
  tab.wait_for_timeout(100)
  assert canvas_sum(tab, "gamma") == before

  tab.mouse.move(box["x"] + 2, box["y"] + 50)
  tab.mouse.down()
  tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50, steps=4)
  tab.mouse.up()
  tab.wait_for_timeout(100)
  assert canvas_sum(tab, "gamma") != before
  tab.mouse.dblclick(box["x"] + 50, box["y"] + 50)

  button = gamma.locator("button").first
  assert button.inner_text() == "logarithmic"
  button.click()
  assert button.inner_text() == "linear"
  gamma.locator("button").nth(1).click()
  assert gamma.locator(".u-off").count() == 3
  assert tab.title() != "taken"
  assert tab.wrong == []
  assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


def test_markup_that_were_not_escaped_would_not_run(tmp_path, tab):
  page.write(pages.write(tmp_path / "run", pages.result(), RECORDS))
  path = tmp_path / "run" / page.PAGE
  path.write_text(path.read_text().replace("<h1>", f"<h1>{EVIL}", 1))
  tab.goto(path.as_uri())
  tab.wait_for_timeout(200)
  assert tab.title() != "taken"
  assert any("Content Security Policy" in text for text in tab.wrong)


def test_curves_grow_while_a_run_trains(tmp_path, tab):
  folder = pages.write(tmp_path / "run", None, RECORDS[:2])
  with serving_at(tmp_path) as (address, _):
    tab.goto(f"{address}/")
    tab.get_by_role("link", name="run", exact=True).click()
    assert "epoch 2 of 4" in tab.locator("#head").inner_text()
    pages.append(folder, RECORDS[2])
    tab.locator("#head", has_text="epoch 3 of 4").wait_for()
    assert tab.evaluate("plots.get('errors').plot.data[0]") == [1, 2, 3]
    (folder / "result.json").write_text(json.dumps(pages.result()))
    pages.append(folder, RECORDS[3])
    tab.wait_for_selector("text=The better predictor is")
    tab.get_by_role("link", name="all runs").click()
    pages.write(tmp_path / EVIL.replace("/", "_"), None, RECORDS[:1])
    tab.locator("#runs tbody tr").nth(1).wait_for()
    tab.locator("#filter").fill("finished")
    assert tab.locator("#runs tbody tr:visible").count() == 1
    tab.locator("#filter").fill("")
    tab.locator("#runs th").first.click()
    first = tab.locator("#runs tbody tr").first.inner_text()
    assert first.startswith("<script>")
  assert tab.title() != "taken"
  assert tab.wrong == []
  assert all(url.startswith((address, "data:")) for url in tab.requests)


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(tmp_path, browser, width):
  folder = pages.write(tmp_path / "run", pages.result(), RECORDS)
  page.write(folder)
  page.write(tmp_path)
  for path in (folder / page.PAGE, tmp_path / page.PAGE):
    if path.exists():
      tab = browser.new_page(viewport={"width": width, "height": 800})
      tab.goto(path.as_uri())
      assert tab.evaluate("document.documentElement.scrollWidth") <= width
