"""LongBench's tables of rows and of scores agree with each other and with the benchmark's own files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.scoring import compute_metric
from utils.data.dataset import load_dataset_plugin
from utils.datasets.longbench_rows import SUBSETS
from utils.metrics.longbench_score import CATEGORIES, SUBSET_METRICS
from utils.metrics.metric import load_metric

OFFICIAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "longbench_config" / "dataset2maxlen.json"


def test_both_tables_have_the_same_subsets_in_the_same_order():
    assert list(SUBSETS) == list(SUBSET_METRICS)
    assert len(SUBSETS) == 21


def test_each_subset_is_of_one_category():
    assert sorted(subset for subsets in CATEGORIES.values() for subset in subsets) == sorted(SUBSETS)
    assert list(dict.fromkeys(each.category for each in SUBSETS.values())) == list(CATEGORIES)


@pytest.mark.parametrize("name", SUBSETS)
def test_each_subset_is_scored_by_its_datasets_references(name: str):
    plugin = load_dataset_plugin("longbench")
    [(label, config)] = plugin.expand(plugin.Config(subset=name))
    spec = plugin.describe_instructions(config)
    answer = {"passage_retrieval_en": "Paragraph 3", "passage_retrieval_zh": "\u6bb5\u843d3", "passage_count": "3"}
    right = answer.get(name, "right words")
    row = {
        "input": "q", "context": "c", "answers": [right], "length": 1, "dataset": name, "language": "en",
        "all_classes": [right, "wrong"], "_id": "1",
    }  # fmt: skip
    reference = spec.read_row(row).reference
    [metric] = map(load_metric, spec.metrics)
    assert label == f"longbench_{name}"
    assert metric.takes(reference)
    assert compute_metric(metric.name, [right, "\n%"], [reference, reference], 1) == pytest.approx(0.5, abs=1e-6)
    assert spec.facts["subsets"] == [name]


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the official lengths are missing (LORA_NS_REAL_DATA)")
def test_answer_lengths_equal_the_official_ones():
    official = json.loads(OFFICIAL.read_text("utf-8"))
    assert {name: each.max_new_tokens for name, each in SUBSETS.items()} == official
