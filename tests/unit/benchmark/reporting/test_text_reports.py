"""Text reports show every decimal place, mark missing values, and survive any name."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.aggregate import compare_settings, summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.reports import list_notes
from utils.benchmark.tables import build_summary_table
from utils.benchmark.text_reports import escape_latex, escape_markdown, render_csv, render_latex, render_markdown
from utils.results.record import ParamCounts

HOSTILE = "=1+1|a_b\\&\n50%{$x$}#~^<b>`-"


def render(folder: Any, **facts: Any) -> dict[str, str]:
    suite = folder.facts(**facts)
    summary = summarize(suite, collect_outcomes(folder.runs))
    table, comparisons = build_summary_table(summary, suite.language), compare_settings(summary)
    notes = list_notes(suite, summary, comparisons)
    return {
        "csv": render_csv(table, suite.language),
        "md": render_markdown(suite, summary, table, comparisons, notes),
        "tex": render_latex(suite, summary, comparisons),
    }


@pytest.fixture
def small(folder: Any) -> Any:
    for method, add in (("lora", 0.0), ("full_ft", 0.01)):
        for seed in (1, 3):
            folder.finish(folder.plan("rte", method, seed), 0.6 + seed / 100 + add * seed, "cpu")
    folder.finish(folder.plan("stsb", "lora", 1), 0.88, "cpu")
    folder.fail(folder.plan("stsb", "lora", 3))
    folder.plan("stsb", "full_ft", 1)
    return folder


def test_latex(small: Any) -> None:
    lines = render(small)["tex"].splitlines()
    start = lines.index(r"\toprule")
    assert lines[start : lines.index(r"\end{table}") + 1] == [
        r"\toprule",
        r"method & trained (\%) & RAM (GB) & rte & stsb & average \\",
        r"\midrule",
        r"lora & 1.34 & 0.80 & 62.00$_{\pm 1.41}$ & 88.00 (1/2) & 75.00 (3/4) \\",
        r"full\_ft & {-} & {-} & 64.00$_{\pm 2.83}$ & missing & missing \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    assert r"\caption{glue\_methods. Task metrics on the evaluation sets, scores x100 (rte: accuracy; " in lines[5]
    assert r"rte & lora & accuracy & 62.00 & $[49.29, 74.71]$ & seeds \\" in lines
    assert r"rte & full\_ft & lora & accuracy & 1, 3 & $+2.00$ & $[-10.71, +14.71]$ & not told apart \\" in lines
    labels = [line for line in lines if line.startswith(r"\label")]
    assert labels == [rf"\label{{tab:glue-methods{part}}}" for part in ("", "-intervals", "-differences")]


def test_markdown(small: Any) -> None:
    text = render(small)["md"]
    head = text.split("\n\n")[2].splitlines()
    assert head == [
        "| method | trainable share (%) | peak memory (GB) | rte (accuracy) | stsb (pearson) | average |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| lora | 1.34 | 0.80 RAM | 62.00 \u00b1 1.41 | 88.00 (1/2) | 75.00 (3/4) |",
        r"| full\_ft | - | - | 64.00 " + "\u00b1 2.83 | missing | missing |",
    ]
    assert r"| rte | full\_ft | lora | accuracy | 1, 3 | +2.00 | -10.71 .. +14.71 | not told apart |" in text
    assert "| rte | lora | accuracy | 62.00 | 49.29 .. 74.71 | seeds |" in text
    assert r"| stsb | lora | 88.00\* | 1.34 | 0.80 RAM | 22,000,000 | 294,912 |" in text
    assert "2 of 5 runs have no result" not in text
    assert "2 of 7 runs have no result; they count nowhere, and not as 0: stsb-lora-s3 (failed: it ran out of" in text
    assert "called better or worse only where" in text
    folder_notes = "Averages count each task once (rte, stsb). The task metric's average mixes accuracy, pearson."
    assert folder_notes in text
    assert "The average of best accuracy mixes accuracy with Pearson x100 (stsb)." in text


def test_csv_has_full_numbers(small: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(render(small)["csv"])))
    first, average = rows[0], rows[-2]
    assert float(first["mean"]) == pytest.approx(62)
    assert float(first["sample standard deviation"]) == pytest.approx(2**0.5, rel=1e-9)
    assert (first["total parameters"], first["epochs"], first["note"]) == ("22000000", "3", "peak memory (GB): RAM")
    assert rows[2]["note"] == "best accuracy (%): Pearson x100; peak memory (GB): RAM"
    assert [row["best accuracy (%)"] for row in rows][3] == "missing"
    assert (average["task"], average["status"]) == ("average of 2 tasks", "3 of 4 runs")


def test_chinese(small: Any) -> None:
    texts = render(small, language="zh")
    assert "| stsb | lora | 88.00\\* |" in texts["md"]
    assert "0.80 内存" in texts["md"]
    assert "缺失" in texts["csv"]
    assert "missing" in texts["tex"]
    assert texts["tex"].isascii()


def test_single_seeds_support_no_claims(folder: Any) -> None:
    for method, score in (("lora", 0.7), ("full", 0.9)):
        folder.finish(folder.plan("rte", method, 1), score)
    text = render(folder)["md"]
    assert "Nothing is called better" in text
    assert "| no claim |" in text
    assert "| better |" not in text


def test_hostile_names(folder: Any) -> None:
    for seed in (1, 3):
        folder.finish(folder.plan("rte", HOSTILE, seed), 0.7)
        folder.finish(folder.plan(HOSTILE, "lora", seed, {"peft.x": "=cmd|' /c'!A1"}), 0.7 + seed / 100)
    texts = render(folder, name=HOSTILE)
    rows = list(csv.reader(io.StringIO(texts["csv"])))
    assert len({len(row) for row in rows}) == 1
    assert not [cell for row in rows for cell in row if cell[:1] in "=+@" and cell]
    for block in re.findall(r"(?:^\|.*\n)+", texts["md"], re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in block.splitlines()}
        assert len(bars) == 1
    ends = [line for line in texts["tex"].splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in ends} == {5}


def test_escapes() -> None:
    assert escape_markdown("a_b|*c*\n<i>`\\") == "a\\_b\\|\\*c\\* \\<i\\>\\`\\\\"
    assert escape_latex("50% a_b & {x}\n#1 -- \\") == r"50\% a\_b \& \{x\} \#1 {-}{-} \textbackslash{}"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles_with_booktabs_alone(folder: Any, tmp_path: Path) -> None:
    for seed in (1, 3):
        folder.finish(folder.plan("rte", HOSTILE, seed), 0.7 + seed / 100)
        folder.finish(
            folder.plan("stsb", 'lora "q" caf\u00e9', seed), 0.7, params=ParamCounts(1, 100_000, 0.001, 0.002)
        )
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{t.tex}\end{document}"
    (tmp_path / "t.tex").write_text(render(folder, name=HOSTILE)["tex"], encoding="utf-8")
    (tmp_path / "d.tex").write_text(document)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "d.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
