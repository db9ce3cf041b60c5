"""The pages of a run and of a suite in a real browser: no console messages, no overflow, readable text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.browser import PROGRAM, Tab, open_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (apt-get install chromium)"),
]
ROOT = Path(__file__).parents[2]
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> \u202e\x1b[31m"
SUITE = """suite: looked at <b>
base: {root}/configs/quickstart.yaml
output_dir: suite
run:
  model.name_or_path: {root}/examples/quickstart/base
  dataset: {{path: rows, label_names: [bad, good], text_column: text, metrics: [accuracy]}}
  training: {{num_train_epochs: 2, use_cpu: true, report_to: none, logging_steps: 1, metric_for_best_model: accuracy}}
  results.language: {language}
tasks: {{rows: {{}}, lost: {{dataset.text_column: nowhere}}}}
methods: {{lora: {{peft.method: lora}}, head-only: {{peft.method: head-only}}}}
seeds: [1, 2]
baselines: [majority]
results: {{language: {language}}}
"""
UNREADABLE = """(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || ['STYLE', 'TITLE', 'title'].includes(element.tagName)) continue;
    const style = getComputedStyle(element), inSvg = element.namespaceURI.includes('svg');
    let under = [], ground = element;
    while (ground) { under.push(parse(getComputedStyle(ground).backgroundColor)); ground = ground.parentElement; }
    let color = [255, 255, 255];
    for (const [r, g, b, a = 1] of under.reverse().filter(each => each.length > 2))
      color = color.map((v, i) => v * (1 - a) + [r, g, b][i] * a);
    const text = parse(inSvg ? style.fill : style.color);
    const [dark, bright] = [light(text), light(color)].sort((a, b) => a - b);
    const ratio = (bright + .05) / (dark + .05);
    if (ratio < 4.5) found.push([element.tagName, element.textContent.slice(0, 40), ratio]);
  }
  return found;
})()"""
"""Finds texts whose contrast with their background is less than 4.5 to 1 (WCAG 2, level AA)."""


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["en", "zh"])
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run a half-failing suite on hostile rows; return the pages of a run, a failed run and the suite."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "rows").mkdir()
    for name, count in (("train", 24), ("validation", 12)):
        rows = [{"text": f"{HOSTILE} {number}", "label": ("bad", "good")[number % 2]} for number in range(count)]
        (folder / "rows" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "s.yaml").write_text(SUITE.format(root=ROOT, language=request.param))
    command = [sys.executable, str(ROOT / "benchmark.py"), "--config", "s.yaml", "--jobs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    suite = folder / "suite"
    pages = {
        "run": suite / "runs" / "rows-lora-s1" / "report.html",
        "failed": suite / "runs" / "lost-lora-s1" / "report.html",
        "suite": suite / "report.html",
    }
    assert pages["suite"].is_file(), done.stderr
    return {name: page for name, page in pages.items() if page.is_file()}


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_complete_and_readable(tab: Tab, pages: dict[str, Path], width: int, dark: bool) -> None:
    assert {"run", "suite"} <= pages.keys()
    for name, page in pages.items():
        tab.messages.clear()
        tab.open(page.as_uri(), width, dark=dark)
        assert tab.messages == [], name
        assert tab.run("document.title") != "taken"
        assert tab.run("document.documentElement.scrollWidth") <= width, name
        assert tab.run("document.querySelectorAll('script, img').length") == 0
        assert tab.run(UNREADABLE) == [], name
        ground = tab.run("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
        if folder := os.environ.get("REPORT_PICTURES"):  # to look at
            language = tab.run("document.documentElement.lang")
            tab.photograph(Path(folder, f"{name}-{language}-{width}-{'dark' if dark else 'light'}.png"))


def test_charts_have_labels_and_links_lead_to_the_runs(tab: Tab, pages: dict[str, Path]) -> None:
    tab.open(pages["suite"].as_uri())
    assert tab.run("[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label').length > 20)")
    assert tab.run("document.querySelectorAll('svg').length") == 2  # scores, and the loss
    tab.run("document.querySelector('tbody a').click()")
    tab.open(tab.run("document.querySelector('tbody a')?.href ?? location.href"))
    assert tab.run("location.pathname").endswith("/report.html")
    assert tab.run("document.querySelectorAll('article').length") > 0
