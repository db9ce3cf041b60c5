"""Every spelling of a dataset on the command line, and the errors for unknown ones."""

from __future__ import annotations

import pytest

from utils.config.sections.evaluation import SetSection
from utils.core.errors import UserError
from utils.evaluate_model.requests import OwnSets, read_requests


def _read(word, own=None):
    [section] = read_requests([word], own)
    return section


@pytest.mark.parametrize(
    ("word", "name", "subset", "split", "label"),
    [
        ("gsm8k", "gsm8k", None, None, "gsm8k"),
        ("gsm8k@test_unseen", "gsm8k", None, "test_unseen", "gsm8k_test_unseen"),
        ("gsm8k@test[:100]", "gsm8k", None, "test[:100]", "gsm8k_test_100"),
        ("gsm8k@train[10%:20%]", "gsm8k", None, "train[10%:20%]", "gsm8k_train_10_20"),
        ("glue:mrpc", "glue", "mrpc", None, "glue_mrpc"),
        ("glue:mnli@validation_matched", "glue", "mnli", "validation_matched", "glue_mnli_validation_matched"),
        ("openai/gsm8k:main@test", "openai/gsm8k", "main", "test", "gsm8k_main_test"),
        ("someone/set", "someone/set", None, None, "set"),
        ("{name: gsm8k, path: ., split: dev, label: mine}", "gsm8k", None, "dev", "mine"),
    ],
)
def test_spellings(word, name, subset, split, label):
    section = _read(word)
    assert (section.name, section.subset, section.split, section.resolved_label) == (name, subset, split, label)


def test_several_subsets_of_a_set():
    section = _read("longbench:hotpotqa,repobench-p@test[:5]")
    assert (section.name, section.subset, section.subsets) == ("longbench", None, ["hotpotqa", "repobench-p"])
    assert (section.split, section.label) == ("test[:5]", None)
    assert _read("longbench:trec").resolved_label == "longbench_trec"


def test_a_path_is_not_split(tmp_path):
    odd = tmp_path / "a:b@c.jsonl"
    odd.write_text("{}\n")
    section = _read(str(odd))
    assert (section.name, section.subset, section.split, section.resolved_label) == (str(odd), None, None, "a_b_c")
    cut = _read(f"{odd}@train[:5]")
    assert (cut.name, cut.split, cut.resolved_label) == (str(odd), "train[:5]", "a_b_c_train_5")


def test_keys_after_a_question_mark(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    section = _read(
        f"{file}@test[:2]?label=mine&max_samples=3&metrics=[token_f1]&answer_column=solution&on_bad_row=drop"
    )
    assert (section.name, section.split, section.label, section.max_samples) == (str(file), "test[:2]", "mine", 3)
    assert section.metrics == ["token_f1"]
    assert section.dataset == {"answer_column": "solution", "on_bad_row": "drop"}
    other = _read(f"{file}?name=gsm8k")
    assert (other.name, other.path, other.resolved_label) == ("gsm8k", str(file), "rows")
    for word, said in ((f"{file}?label", "no key=value"), (f"{file}?max_samples=0", "max_samples")):
        with pytest.raises(UserError, match=said):
            _read(word)


def test_a_run_knows_its_own_sets():
    labelled = {"unseen": SetSection(name="gsm8k", split="test_unseen", label="unseen")}
    own = OwnSets("gsm8k", labelled)
    assert _read("unseen", own) == labelled["unseen"]
    assert _read("@test[:9]", own) == SetSection(name="gsm8k", split="test[:9]", label="test_9")
    classifier = OwnSets("glue", task_type="SEQ_CLS")
    assert _read("validation_matched", classifier) == SetSection(
        name="glue", split="validation_matched", label="validation_matched"
    )
    assert _read("glue", classifier).subset is None, "the run's own subset is meant"


@pytest.mark.parametrize(
    ("word", "own", "message"),
    [
        ("gsm9k", None, "neither a dataset nor a hub id, file or folder; did you mean gsm8k"),
        ("gsm9k", OwnSets("gsm8k"), "did you mean gsm8k"),
        ("glue", None, "which of its sets. glue:cola, "),
        ("no.jsonl", None, "no.jsonl: no such file or folder"),
        ("./nowhere", None, "no such file or folder"),
        ("{name: gsm8k, path: ./nowhere}", None, "./nowhere: no such file or folder"),
        ("@test", None, "names no set; write the set before the @: gsm8k@test"),
        ("gsm8k@", None, "no split after the @"),
        ("", OwnSets("gsm8k"), "no name given"),
        ("gsm8k@test[1:2:3]", None, "--set gsm8k@test"),
        ("{path: x}", None, "each set needs a name"),
        ("{name: gsm8k, splitt: test}", None, "unknown key splitt; did you mean split"),
        ("{name: gsm8k", None, "not YAML"),
        ("glue:mrpc", OwnSets("gsm8k"), "glue is for task_type SEQ_CLS, the run's is CAUSAL_LM"),
        ("gsm8k", OwnSets("glue", task_type="SEQ_CLS"), "gsm8k is for task_type CAUSAL_LM, the run's is SEQ_CLS"),
    ],
)
def test_unknown_sets_are_refused(word, own, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        read_requests([word], own)


def test_duplicate_labels_are_refused():
    with pytest.raises(UserError, match="two sets are named gsm8k_test_100; give one of them another label"):
        read_requests(["gsm8k@test[:100]", "gsm8k@test[100:]"], None)
