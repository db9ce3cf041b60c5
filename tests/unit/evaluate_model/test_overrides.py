"""Which settings can be overridden in an evaluation, and the configuration of a model without a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.sections.evaluation import SetSection
from utils.core.errors import ConfigError, UserError
from utils.evaluate_model.overrides import build_model_config, check_overrides, find_task_type, require_local_rows

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
BASE, SUMS = str(QUICKSTART / "base"), str(QUICKSTART / "arithmetic")


@pytest.mark.parametrize(
    ("word", "task_type", "of_run"),
    [
        ("generation.max_new_tokens=8", "CAUSAL_LM", True),
        ("generation={temperature: 0.5}", "CAUSAL_LM", True),
        ("evaluation.max_eval_samples=8", "CAUSAL_LM", True),
        ("model.torch_dtype=bf16", "SEQ_CLS", True),
        ("model.quantization.bits=4", "CAUSAL_LM", True),
        ("model.name_or_path=/moved", "CAUSAL_LM", True),
        ("dataset.data_path=rows", "SEQ_CLS", True),
        ("dataset.prompt_template=x", "CAUSAL_LM", False),
        ("dataset.text_columns=x", "SEQ_CLS", False),
        ("training.per_device_eval_batch_size=4", "SEQ_CLS", True),
        ("seed=3", "CAUSAL_LM", False),
    ],
)
def test_allowed_overrides(word, task_type, of_run):
    assert list(check_overrides([word], task_type, of_run).leaves())


@pytest.mark.parametrize(
    ("word", "task_type", "of_run", "message"),
    [
        ("training.learning_rate=1e-3", "CAUSAL_LM", True, "nothing is trained"),
        ("peft.lora_r=4", "CAUSAL_LM", False, "nothing is trained"),
        ("dataset.max_train_samples=4", "CAUSAL_LM", False, "nothing is trained"),
        ("dataset.prompt_template=x", "CAUSAL_LM", True, "is fixed by the run"),
        ("dataset.max_length=4", "SEQ_CLS", True, "is fixed by the run"),
        ("seed=3", "CAUSAL_LM", True, "is fixed by the run"),
        ("generation.top_p=0.5", "SEQ_CLS", True, "no effect on a classifier"),
        ("evaluation.sets=[gsm8k]", "CAUSAL_LM", True, "name the sets with --set"),
        ("training.per_device_eval_batch_size=4", "CAUSAL_LM", True, "nothing is trained"),
        ("model.name_or_path=x", "CAUSAL_LM", False, "has no effect here"),
    ],
)
def test_refused_overrides(word, task_type, of_run, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_overrides([word, "model.dtype=auto"], task_type, of_run)
    assert [problem.path for problem in caught.value.problems] == [word.partition("=")[0]]


def test_missing_rows_are_refused():
    with pytest.raises(ConfigError, match=r"dataset\.path: /no/rows\.jsonl: no such file"):
        require_local_rows(check_overrides(["dataset.path=/no/rows.jsonl"], "SEQ_CLS", of_run=True))


def test_the_task_type_comes_from_the_sets(tmp_path):
    assert find_task_type("x/y", [SetSection(name="gsm8k")], []) == "CAUSAL_LM"
    assert find_task_type("x/y", [SetSection(name="glue", subset="rte")], []) == "SEQ_CLS"
    mine = [SetSection(name="mine.jsonl")]
    assert find_task_type(BASE, mine, []) == "CAUSAL_LM"
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    assert find_task_type(str(tmp_path), mine, []) == "SEQ_CLS"
    assert find_task_type(BASE, mine, ["task_type=SEQ_CLS"]) == "SEQ_CLS"
    with pytest.raises(ConfigError, match="task_type: 'seq' is not allowed"):
        find_task_type(BASE, mine, ["task_type=seq"])
    with pytest.raises(UserError, match=r"different kinds of models .gsm8k CAUSAL_LM, glue SEQ_CLS."):
        find_task_type(BASE, [SetSection(name="gsm8k"), SetSection(name="glue")], [])


def test_a_model_without_a_run_gets_the_datasets_prompt(tmp_path):
    section = SetSection(name="openai/gsm8k", path=SUMS)
    checked = check_overrides(["generation.max_new_tokens=9", "dataset.as_chat=true"], "CAUSAL_LM", of_run=False)
    config = build_model_config(BASE, section, checked, "CAUSAL_LM", tmp_path)
    assert (config.dataset.name, config.dataset.path, config.dataset.as_chat) == ("gsm8k", SUMS, True)
    assert config.generation.max_new_tokens == 9
    packed = check_overrides(["model.quantization=nf4"], "CAUSAL_LM", of_run=False)
    assert build_model_config(BASE, section, packed, "CAUSAL_LM", tmp_path).model.quantization.bits == 4
    with pytest.raises(ConfigError, match=r"does not exist; name a folder that holds config\.json"):
        build_model_config("/no/model", section, checked, "CAUSAL_LM", tmp_path)
    wrong = check_overrides(["generation.max_new_tokens=many"], "CAUSAL_LM", of_run=False)
    with pytest.raises(ConfigError, match=r"command line  generation\.max_new_tokens"):
        build_model_config(BASE, section, wrong, "CAUSAL_LM", tmp_path)
