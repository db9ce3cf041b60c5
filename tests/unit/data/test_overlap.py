"""Overlap of texts by words: equal texts, and documents that share half of the shorter one."""

from __future__ import annotations

import random

import pytest

from tests.documents import write_document
from utils.data.overlap import Documents, find_words, normalize_text, sample_shingles


def test_case_and_punctuation_make_no_difference():
    assert normalize_text("  What's THE_plan,\nthen? ") == "what s the plan then"
    assert find_words("\u4f1a\u8bae 2020a\u3002\u597d") == ["\u4f1a", "\u8bae", "2020a", "\u597d"]


def test_shingles_do_not_depend_on_the_texts_position():
    text = write_document(1, 2000)
    inner = sample_shingles(text)
    assert 50 < len(inner) < 250, "one of 16"
    assert inner <= sample_shingles(f"{write_document(2, 77)} {text.upper()}! {write_document(3, 99)}")
    assert sample_shingles("a few words") == frozenset()


@pytest.mark.parametrize(("share", "is_same"), [(1.0, True), (0.7, True), (0.3, False), (0.0, False)])
def test_sharing_half_of_the_shorter_document_is_an_overlap(share, is_same):
    words = write_document(1, 4000).split()
    kept = round(share * len(words))
    other = " ".join(words[:kept] + write_document(2, 4000 - kept).split())
    assert Documents([write_document(5, 2000), " ".join(words)]).find(other) == ([1] if is_same else [])


def test_a_document_inside_a_longer_one_is_found_and_short_texts_are_ignored():
    inner, short = write_document(1, 600), write_document(2, 30)
    long = f"{write_document(3, 9000)} {inner} {short}"
    assert Documents([inner]).find(long) == [0]
    assert Documents([long]).find(inner) == [0]
    assert Documents([short]).find(long) == []
    assert Documents([]).find(long) == []


def test_chinese_documents_are_compared_by_their_characters():
    draw = random.Random(0)
    text = "".join(chr(draw.randrange(0x4E00, 0x5E00)) for _ in range(3000))
    assert Documents([text]).find(text[500:2500]) == [0]
    assert Documents([text[:1400]]).find(text[1500:]) == []
