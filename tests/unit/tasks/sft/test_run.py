"""Fine-tuning a language model: adapted heads, new tokens, quantized bases, what is written, what is verified."""

from __future__ import annotations

import json

import pytest
import torch

from utils.core.errors import CheckError, ConfigError, DataError, ModelError
from utils.tasks.sft.run import require_positions
from utils.trainer.failures import MemoryExhaustedError, explain_out_of_memory

CHAT = {"chat_template": "chatml", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}


def _scored(run):
    from utils.modeling.sizes import count_parameters
    from utils.results.record import RunRecord

    record = RunRecord(status="failed", task_name="t", task_type="CAUSAL_LM", method="lora")
    return run.task.score(run.trainer, run.data, record, count_parameters(run.model), run.measuring)


def _check_reload(run, load_saved):
    from utils.tasks.probe import check_reload

    return check_reload(run.trainer, run.task.choose_reload_rows(run.data, run.tokenizer), load_saved)


def _saved_again(run, folder):
    """Save the adapter and load it as a user would."""
    from utils.adapters.adapter import load_adapter
    from utils.modeling.base_model import load_base_model

    room = load_adapter(run.config.peft.method)
    room.save(run.trainer.model, folder)
    run.tokenizer.save_pretrained(folder)
    return lambda: room.load(folder, lambda _: load_base_model(run.config.model, run.tokenizer, None))


def _write_chats(tmp_path, number=40):
    rows = [
        {"messages": [{"role": "user", "content": f"What is {index} plus {index % 7}?"},
                      {"role": "assistant", "content": f"It is {index + index % 7}."}]}
        for index in range(number)
    ]  # fmt: skip
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(file)


def _base(make_sft):
    return make_sft().model.name_or_path


def test_a_conversation_is_trained_with_new_tokens_read_and_written(prepare_run, make_sft, tmp_path):
    dataset = {"name": "custom", "path": _write_chats(tmp_path), "validation_size": 8}
    model = {"name_or_path": _base(make_sft), "dtype": "float32", **CHAT}
    run = prepare_run(config=make_sft(dataset=dataset, model=model, training__max_steps=8))
    ends = run.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all(ends in row["labels"] for row in run.data.train)
    run.trainer.train()
    tokens = {name: p for name, p in run.model.named_parameters() if "trainable_tokens" in name}
    assert tokens
    assert all(p.abs().sum() > 0 for p in tokens.values())
    check = _check_reload(run, _saved_again(run, tmp_path / "saved"))
    assert check["largest_logit_difference"] <= check["tolerance"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("whole", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_new_tokens_with_modules_to_save(tied, whole, prepare_run, make_sft, tmp_path):
    """Embeddings of new tokens are trained once, in both places."""
    dataset = {"name": "custom", "path": _write_chats(tmp_path), "validation_size": 8}
    model = {"name_or_path": _base(make_sft) if tied else _untie(_base(make_sft), tmp_path), "dtype": "float32", **CHAT}
    peft = {"method": "lora", "lora_r": 4, "target_modules": ["q_proj"], "modules_to_save": whole}
    config = make_sft(dataset=dataset, model=model, peft=peft, training__max_steps=4)
    if tied and len(whole) == 1:
        with pytest.raises(ConfigError, match="embed_tokens share their weight; with new tokens name both, or none"):
            prepare_run(config=config)
        return
    run = prepare_run(config=config)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}
    run.trainer.train()
    ends = run.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for place in ("embed_tokens", "lm_head"):
        [(name, now)] = [
            (name, p) for name, p in run.model.named_parameters() if f".{place}." in name and p.requires_grad
        ]
        if place in whole:
            assert not torch.equal(now[ends], before[name][ends])
        else:
            assert "trainable_tokens" in name
            assert not torch.equal(now, before[name])
    check = _check_reload(run, _saved_again(run, tmp_path / "saved"))
    assert check["largest_logit_difference"] <= check["tolerance"]


def _untie(base, tmp_path):
    """Make a copy whose output layer has its own weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    folder = tmp_path / "untied"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


def test_a_chat_without_a_template_is_refused_before_the_model_is_loaded(prepare_run, make_sft, tmp_path):
    dataset = {"name": "custom", "path": _write_chats(tmp_path), "validation_size": 8}
    with pytest.raises(ModelError, match="chat_template"):
        prepare_run(config=make_sft(dataset=dataset))


def test_an_adapter_on_the_head_is_trained(prepare_run, make_sft, tmp_path):
    peft = {"method": "lora", "lora_r": 4, "target_modules": ["q_proj", "lm_head"]}
    run = prepare_run(config=make_sft(peft=peft, training__max_steps=4))
    run.trainer.train()
    on_head = [p for name, p in run.model.named_parameters() if "lm_head" in name and "lora_B" in name]
    assert len(on_head) == 1
    assert on_head[0].abs().sum() > 0
    _check_reload(run, _saved_again(run, tmp_path / "saved"))


def test_full_fine_tuning(prepare_run, make_sft):
    run = prepare_run(config=make_sft(peft={"method": "none"}, training__max_steps=12, training__learning_rate=1e-3))
    run.trainer.train()
    losses = [log["loss"] for log in run.trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0] / 2


def test_a_four_bit_base_keeps_its_adapter_in_its_own_precision(prepare_run, make_sft):
    quantization = {"bits": 4, "compute_dtype": "float32"}
    model = {"name_or_path": _base(make_sft), "dtype": "float32", "quantization": quantization}
    run = prepare_run(config=make_sft(model=model, training__max_steps=12))
    assert {p.dtype for p in run.model.parameters() if p.requires_grad} == {torch.float32}
    run.trainer.train()
    losses = [log["loss"] for log in run.trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]


def test_a_model_whose_pad_is_its_end_of_text_learns_to_stop(prepare_run, make_sft):
    """Labels come from the row's structure, so no end-of-text token is mistaken for padding."""
    base = _base(make_sft)
    probe = prepare_run(config=make_sft())
    model = {"name_or_path": base, "dtype": "float32", "pad_token": probe.tokenizer.eos_token}
    peft = {"method": "lora", "lora_r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    dataset = {"name": "gsm8k", "path": probe.config.dataset.path, "max_train_samples": 256}
    run = prepare_run(
        config=make_sft(model=model, peft=peft, dataset=dataset, training__max_steps=60, training__learning_rate=5e-3,
                        evaluation={"max_samples": 20}, generation={"max_new_tokens": 100, "batch_size": 20})
    )  # fmt: skip
    assert run.tokenizer.pad_token_id == run.tokenizer.eos_token_id
    eos = run.tokenizer.eos_token_id
    assert all(row["labels"][-1] == eos and row["labels"].count(eos) == 1 for row in run.data.train)
    run.trainer.train()
    record = _scored(run).record
    assert record.evaluation["gsm8k"]["num_unfinished"] <= 2
    assert record.evaluation["gsm8k"]["partial"]
    assert record.warnings == ["partial score: 20 of 300 rows of gsm8k"]


def test_measurements_are_recorded(prepare_run, make_sft):
    evaluation, generation = {"max_samples": 6}, {"max_new_tokens": 4}
    run = prepare_run(config=make_sft(training__max_steps=2, evaluation=evaluation, generation=generation))
    run.trainer.train()
    outcome = _scored(run)
    record = outcome.record
    assert {"loss", "perplexity", "token_accuracy", "em_strict"} <= record.metrics.keys()
    assert (record.best_metric.name, record.best_metric.step) == ("em_strict", 2)
    assert (record.data.train_rows, record.data.eval_rows, record.data.dropped_rows) == (48, 40, 0)
    assert record.evaluation["gsm8k"]["shots"] == 0
    assert outcome.evaluated[""]["eval_gsm8k_em_strict"] == record.metrics["em_strict"]
    assert record.time.tokens_per_s > 0


def test_a_saved_model_that_differs_is_detected(prepare_run, make_sft, tmp_path):
    run = prepare_run(config=make_sft(training__max_steps=4))
    run.trainer.train()
    load = _saved_again(run, tmp_path / "saved")

    def load_changed():
        model = load()
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "lora_B" in name).add_(0.5)
        return model

    with pytest.raises(CheckError, match="the saved model is not the trained one"):
        _check_reload(run, load_changed)


def test_packing_is_refused_if_documents_would_mix(prepare_run, make_sft):
    model = {"name_or_path": _base(make_sft), "attn_implementation": "eager"}
    with pytest.raises(ModelError, match=r"sft\.packing: model\.attn.*: eager cannot keep documents apart"):
        prepare_run(config=make_sft(model=model, sft={"max_length": 128, "packing": True}))
    run = prepare_run(config=make_sft(model=model))
    assert not run.trainer.data_collator.padding_free


def test_a_base_is_scored_without_training(prepare_run, make_sft, caplog):
    evaluation, generation = {"max_samples": 4}, {"max_new_tokens": 4}
    run = prepare_run(config=make_sft(training__do_train=False, evaluation=evaluation, generation=generation))
    assert "peft has no effect" in caplog.text
    record = _scored(run).record
    assert record.metrics["loss"] > 0
    assert record.evaluation["gsm8k"]["n"] == 4
    assert record.params.trainable == 0


def test_rows_without_anything_to_train_on_stop_the_run(prepare_run, make_sft, tmp_path):
    rows = [{"question": f"q {index}", "answer": "" if index % 4 == 0 else "a"} for index in range(40)]
    (tmp_path / "holes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError, match="max_empty_share"):
        prepare_run(config=make_sft(dataset={"name": "gsm8k", "path": str(tmp_path / "holes.jsonl")}))


def test_running_out_of_memory_names_three_settings(prepare_run, make_sft):
    """The library's own error, raised while a batch is collated."""
    run = prepare_run(config=make_sft(training__max_steps=2))

    def collate(rows):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    run.trainer.data_collator = collate
    with pytest.raises(MemoryExhaustedError) as caught, explain_out_of_memory(run.trainer.args, run.config.length_key):
        run.trainer.train()
    said = str(caught.value)
    assert "training.per_device_train_batch_size: 4 with training.gradient_accumulation_steps: 2" in said
    assert "training.gradient_checkpointing: true" in said
    assert "a smaller sft.max_length" in said
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("virtual", [0, 8])
def test_rows_longer_than_a_models_positions_are_refused(tiny_models_of_positions, virtual, caplog):
    table, rotary = tiny_models_of_positions
    require_positions(table, 64)
    with pytest.raises(ConfigError, match=r"sft\.max_length: .* more than the model has positions for \(64\)"):
        require_positions(table, 65 - virtual, virtual)
    require_positions(rotary, 65 - virtual, virtual)
    assert "more than the model was trained with (64)" in caplog.text
    assert ("8 of them are peft.num_virtual_tokens" in caplog.text) is bool(virtual)


@pytest.fixture
def tiny_models_of_positions():
    """A model with a table of 64 positions, and one with 64 rotary positions."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    rotary = LlamaForCausalLM(LlamaConfig(vocab_size=8, max_position_embeddings=64, **sizes))
    return GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=64)), rotary


@pytest.mark.parametrize("when", [{"at_end": True}, {"at_end": False, "steps": 1}])
def test_a_run_whose_only_set_could_not_be_scored_fails(when, prepare_run, make_sft, tmp_path, caplog):
    """Its status, exit code and last line report it, and how to score the exported model again."""
    from utils.core.errors import EXIT_FAILED
    from utils.runs.opening import RunFolder
    from utils.runs.summary import show_result

    config = make_sft(evaluation={**when, "max_samples": 2}, training__max_steps=1)
    run = prepare_run(config=config)
    [known] = run.data.sets
    folder = tmp_path / "run" / (f"eval_{known.label}" if when["at_end"] else "eval_step_1")
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file is in the way of the answers")
    run.trainer.train()
    record = _scored(run).complete()
    assert record.status == "failed"
    assert f"no set could be scored: {known.label}: " in record.extra["error"]
    answer = show_result(RunFolder(tmp_path / "run"), config, record)
    assert answer["exit_code"] == EXIT_FAILED
    assert f"no set could be scored: {known.label}: " in caplog.text
