"""Evaluating language models: no work is repeated, no result overwritten, and the scores are right."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import UserError
from utils.evaluate_model.evaluated_model import open_model, open_run


def _read(folder):
    return json.loads((folder / "results.json").read_text("utf-8"))


def _answers(folder):
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    return [row["prediction"] for row in rows]


def test_scores_of_a_run_are_reused(sft_run, score, fingerprint, caplog):
    before, record = fingerprint(sft_run), _read(sft_run)
    written = _answers(sft_run / "eval_test")
    entries = score(open_run, sft_run)
    assert list(entries) == ["test", "unseen"]
    assert all(entry.reused for entry in entries.values()), "the loaded weights are those that were scored"
    assert "eval_test: already done with these weights, rows and settings" in caplog.text
    result = _read(sft_run / "eval_test")
    assert result["metrics"] == {name: record["evaluation"]["test"][name] for name in result["metrics"]}
    assert result["weights"] == {
        "run": str(sft_run), "weights": "final_model", "step": 6, "base": str(result["weights"]["base"]),
    }  # fmt: skip
    assert result["provenance"]["versions"]["torch"]

    # Answered again, from the folder: the same texts, and no difference to the record.
    again = score(open_run, sft_run / "final_model", sets=["test"], output_dir=sft_run.parent / "elsewhere")["test"]
    assert (again.reused, again.difference, again.folder) == (False, 0.0, sft_run.parent / "elsewhere" / "test")
    assert _answers(again.folder) == written
    assert "in the run's own record (+0.00)" in caplog.text
    assert fingerprint(sft_run) == before


def test_other_settings_set_the_earlier_result_aside(sft_run, score, fingerprint, caplog):
    before, written = fingerprint(sft_run), _answers(sft_run / "eval_test")
    short = score(open_run, sft_run, "generation.max_new_tokens=5", sets=["test"])["test"]
    assert (short.reused, short.difference) == (False, None)
    assert "not compared with the run's own record: they were written with generation.max_new_tokens 5 and 24" in (
        caplog.text
    )
    [aside] = sft_run.glob("eval_test.old_*")
    assert _answers(aside) == written, "the earlier answers are renamed, not lost"
    assert all(len(answer) < len(long) for answer, long in zip(_answers(short.folder), written, strict=True))

    part = score(open_run, sft_run, "evaluation.max_samples=6", sets=["unseen", "@test[:24]"])
    assert part["unseen"].result["partial"]
    assert (part["unseen"].result["n"], part["unseen"].result["num_total"]) == (6, 16)
    assert "unseen: not compared with the run's own record: one is partial (6 of 16 rows)" in caplog.text
    assert part["test_24"].folder == sft_run / "eval_test_24"
    assert fingerprint(sft_run) == before


def test_a_checkpoint_has_its_own_output_folder(sft_run, score, caplog):
    entry = score(open_run, sft_run / "checkpoint-3", sets=["test"])["test"]
    assert entry.folder == sft_run / "eval_step_3" / "test"
    assert entry.result["weights"]["weights"] == "checkpoint-3"
    assert entry.result["weights"]["step"] == 3
    assert entry.difference is not None
    assert _read(entry.folder)["identity"]["model"] != _read(sft_run / "eval_test")["identity"]["model"]


def test_a_base_model_gets_the_datasets_prompt(base, arithmetic, score, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sums = f"{{name: gsm8k, path: {arithmetic}, split: 'test[:8]', label: sums}}"
    words = ["generation.max_new_tokens=32", "generation.batch_size=3", 'dataset.prompt_template="{question}"']
    entry = score(open_model, base, *words, sets=[sums], output_dir=tmp_path)["sums"]
    assert entry.folder == tmp_path / "sums"
    assert entry.result["weights"] == {"model": str(base)}
    rows = [json.loads(line) for line in (entry.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    source = [json.loads(line) for line in (arithmetic / "test.jsonl").read_text("utf-8").splitlines()[:8]]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    for row, known in zip(rows, source, strict=True):
        prompt = tokenizer(known["question"], return_tensors="pt")
        ids = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt.input_ids.shape[1] :]
        assert row["prediction"] == tokenizer.decode(ids, skip_special_tokens=True)
    right = [row["prediction"].rstrip(".").split()[-2] == row["references"][0].split()[-1] for row in rows]
    assert entry.result["metrics"]["em_flexible"] == sum(right) / len(right)
    assert entry.result["metrics"]["em_strict"] == 0, "the base never generates ####"
    again = score(open_model, base, *words, sets=[sums], output_dir=tmp_path)["sums"]
    assert again.reused
    assert again.result == entry.result, "existing files are unchanged"


def test_a_run_folder_and_a_path_for_several_sets_are_refused(sft_run, base):
    with pytest.raises(UserError, match="the folder holds a run; name it by --run"):
        open_model(str(sft_run / "final_model"), ["gsm8k"], [], None)
    with pytest.raises(UserError, match="the folder holds a run; name it by --run"):
        open_model(str(sft_run), ["gsm8k"], [], None)
    with pytest.raises(UserError, match="with several give each its own"):
        open_model(str(base), ["gsm8k", "metamathqa"], ["dataset.path=."], None)


def test_results_of_another_model_are_kept(sft_run, score):
    folder = sft_run / "eval_mine"
    folder.mkdir()
    (folder / "results.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"holds results\.json of something else; give another --output_dir"):
        score(open_run, sft_run, sets=["{name: gsm8k, split: 'test[:3]', label: mine}"])
    assert (folder / "results.json").read_text() == '{"mine": 1}'
