"""LongBench's 21 subsets: what each is about, and how its protocol lets a model answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

E_SUFFIX = "_e"
"""LongBench-E calls a subset so: `hotpotqa_e`."""


@dataclass(frozen=True)
class Subset:
    """One row of the benchmark's table."""

    name: str
    category: Literal["single-doc QA", "multi-doc QA", "summarization", "few-shot", "synthetic", "code"]
    language: Literal["en", "zh", "code"]
    metric: str
    """Name of the official score."""
    max_new_tokens: int
    """Length of a generated answer."""
    chat_exempt: bool = False
    """Asked without the chat template."""
    in_e: bool = False
    """Whether LongBench-E has it too, in rows of evenly spread lengths."""


_TABLE = (
    Subset("narrativeqa", "single-doc QA", "en", "qa_f1", 128),
    Subset("qasper", "single-doc QA", "en", "qa_f1", 128, in_e=True),
    Subset("multifieldqa_en", "single-doc QA", "en", "qa_f1", 64, in_e=True),
    Subset("multifieldqa_zh", "single-doc QA", "zh", "qa_f1_zh", 64),
    Subset("hotpotqa", "multi-doc QA", "en", "qa_f1", 32, in_e=True),
    Subset("2wikimqa", "multi-doc QA", "en", "qa_f1", 32, in_e=True),
    Subset("musique", "multi-doc QA", "en", "qa_f1", 32),
    Subset("dureader", "multi-doc QA", "zh", "rouge_zh", 128),
    Subset("gov_report", "summarization", "en", "rouge", 512, in_e=True),
    Subset("qmsum", "summarization", "en", "rouge", 512),
    Subset("multi_news", "summarization", "en", "rouge", 512, in_e=True),
    Subset("vcsum", "summarization", "zh", "rouge_zh", 512),
    Subset("trec", "few-shot", "en", "classification", 64, chat_exempt=True, in_e=True),
    Subset("triviaqa", "few-shot", "en", "qa_f1", 32, chat_exempt=True, in_e=True),
    Subset("samsum", "few-shot", "en", "rouge", 128, chat_exempt=True, in_e=True),
    Subset("lsht", "few-shot", "zh", "classification", 64, chat_exempt=True),
    Subset("passage_count", "synthetic", "en", "count", 32, in_e=True),
    Subset("passage_retrieval_en", "synthetic", "en", "retrieval", 32, in_e=True),
    Subset("passage_retrieval_zh", "synthetic", "zh", "retrieval_zh", 32),
    Subset("lcc", "code", "code", "code_sim", 64, chat_exempt=True, in_e=True),
    Subset("repobench-p", "code", "code", "code_sim", 64, chat_exempt=True, in_e=True),
)

SUBSETS = {each.name: each for each in _TABLE}
"""By name, in the benchmark's order."""


def find_subset(name: str) -> Subset:
    """Find a subset by its name, or by that of its part in LongBench-E.

    Raises:
        KeyError: There is none of this name, or none in LongBench-E.
    """
    if name in SUBSETS:
        return SUBSETS[name]
    base = SUBSETS[name.removesuffix(E_SUFFIX)]
    if not name.endswith(E_SUFFIX) or not base.in_e:
        raise KeyError(name)
    return base
