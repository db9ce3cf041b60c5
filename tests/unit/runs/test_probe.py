"""Probe rows, by which a model is recognised: rows that its template refuses are skipped, as in training."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import UserError
from utils.runs.model_ref import TrainedModel
from utils.runs.probe_record import open_probe

TEMPLATE = (
    "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('not that') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture
def open_rows(make_sft, tmp_path):
    """Return a function that opens the probe of a run with the given rows and a custom chat template."""

    def open_them(*rows):
        from transformers import AutoTokenizer

        config = make_sft()
        tokenizer = AutoTokenizer.from_pretrained(config.model.name_or_path)
        tokenizer.chat_template = TEMPLATE
        (tmp_path / "probe_rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return open_probe(TrainedModel(tmp_path / "final_model", config, (), "mine", tmp_path), tokenizer, 8)

    return open_them


def _chat(question):
    turns = {"user": question, "assistant": "Tom has 5 pens"}
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()]}


def test_rows_the_template_refuses_are_skipped(open_rows):
    assert open_rows(_chat("How many?"), _chat("no"), _chat("Who?")).num_rows == 2
    assert open_rows(_chat("no")).num_rows == 0


def test_a_merge_without_probe_rows_is_reported(make_sft, tmp_path):
    from utils.merging.merging import MergeOptions, merge_adapter

    (tmp_path / "template.jinja").write_text(TEMPLATE)
    config = make_sft(model__chat_template=str(tmp_path / "template.jinja"))
    (tmp_path / "probe_rows.jsonl").write_text(json.dumps(_chat("no")) + "\n")
    (tmp_path / "final_model").mkdir()
    source = TrainedModel(tmp_path / "final_model", config, (), "mine", tmp_path)
    with pytest.raises(UserError, match=r"mine: no row of probe_rows\.jsonl has a token to compare"):
        merge_adapter(source, str(tmp_path / "merged"), MergeOptions())


@pytest.mark.parametrize(
    "row", [{"reference": "5"}, {"prompt": [None], "reference": "5"}, {"prompt": 5, "answer": []}, {"nothing": 1}]
)
def test_malformed_probe_rows_are_refused(row, open_rows):
    with pytest.raises(UserError, match=r"probe_rows\.jsonl is damaged: .*; delete it to use built-in texts"):
        open_rows(row)


@pytest.mark.parametrize(
    "damage", [{"ids": [[1, 2], [3]]}, {"ids": [[10**9] * 8]}, {"logits": "no"}, {"dtype": "int3"}, {"logits": None}]
)
def test_a_malformed_probe_record_is_refused(damage, open_rows, make_sft, tmp_path):
    import numpy as np
    from transformers import AutoTokenizer

    from utils.runs import probe_record

    config = make_sft()
    tokenizer = AutoTokenizer.from_pretrained(config.model.name_or_path)
    tokenizer.chat_template = TEMPLATE
    probe = open_rows(_chat("How many?"))
    trained = TrainedModel(tmp_path / "final_model", config, (), "mine", tmp_path)
    logits = np.arange(4 * 100, dtype=np.float32).reshape(4, 100)
    whole = {"rows": probe_record._hash_rows(probe, tokenizer), "dtype": "float32", "ids": [[0, 1]] * 4}
    whole["logits"] = logits[:, :2].tolist()
    file = tmp_path / probe_record.RECORD_FILE
    file.write_text(json.dumps(whole))
    assert probe_record.compare_with_record(trained, probe, tokenizer, logits, "float32")["largest_difference"] == 0
    file.write_text(json.dumps(whole | damage))
    with pytest.raises(UserError, match=r"probe_logits\.json is damaged"):
        probe_record.compare_with_record(trained, probe, tokenizer, logits, "float32")
