"""The suite's page lists every run, including those without a result, and plots scores at their values."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

from utils.benchmark.aggregate import summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.reports import write_reports

HOSTILE = "<img src=x onerror=alert(1)>"


def write(folder: Any, **facts: Any) -> str:
    suite, outcomes = folder.facts(**facts), collect_outcomes(folder.runs)
    paths = write_reports(folder.path, suite, summarize(suite, outcomes), outcomes)
    return paths["html"].read_text(encoding="utf-8")


def test_scores_charts_and_failed_runs(folder: Any) -> None:
    for method, scores in (("lora", (0.7, 0.8)), ("full", (0.6, 0.62))):
        for seed, score in enumerate(scores, start=1):
            run = folder.plan("rte", method, seed)
            folder.finish(run, score)
            logs = [{"step": step, "loss": seed / step} for step in (1, 2)]
            state = {"global_step": 2, "log_history": logs}
            (run.folder / "trainer_state.json").write_text(json.dumps(state))
            (run.folder / "report.html").write_text("a page")
    folder.fail(folder.plan("rte", "lora", 3), note=f"killed {HOSTILE}")
    page = write(folder)
    assert HOSTILE not in page
    assert f"killed {HOSTILE}" in unescape(page)
    assert '<span class="status other">4 / 5</span>' in page
    assert "75.00 \u00b1 7.07 (2/3)" in page
    links = re.findall(r'<a href="([^"#]+)">([^<]+)</a>', page)
    assert len(links) == 4  # the failed run has no page
    assert all((folder.path / link).is_file() for link, _ in links)
    charts = re.findall(r'aria-label="([^"]+)">', page)
    assert any(label.startswith("rte: lora 75.00; full 61.00") for label in charts)
    losses = next(label for label in charts if "training loss" in label)
    assert "lora 1.5 (1) .. 0.75 (2)" in losses  # the mean of 1 and 2, of 0.5 and 1


def test_a_suite_without_results_in_chinese(folder: Any) -> None:
    folder.fail(folder.plan("rte", "lora", 1), note="nothing")
    page = write(folder, language="zh")
    assert 'lang="zh-CN"' in page
    assert "\u5931\u8d25" in page
    assert "<svg" not in page
