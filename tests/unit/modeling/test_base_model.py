"""Loading for a task: padding, labels, new heads and trained heads."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.modeling.base_model import load_base_model
from utils.modeling.head import HeadSpec, label_order, read_label_order
from utils.modeling.source import resolved_commit
from utils.modeling.tokenizer import load_tokenizer

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w8 w9", "w3", "w1 w5 w9 w2"]


def logits_of(model, tokenizer, texts):
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bert", "deberta", "distilbert", "modernbert"])
def test_a_batch_of_different_lengths_scores_as_one_by_one(load, kind):
    model, tokenizer = load(kind)
    together = logits_of(model, tokenizer, TEXTS)
    alone = torch.cat([logits_of(model, tokenizer, [text]) for text in TEXTS])
    assert together.shape == (4, 3)
    assert alone.std(dim=0).max() > 1e-3, "texts must score differently for this to prove anything"
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_decoder_classifier_needs_the_pad_id(load, kind):
    """Without it a batch fails; the test above passes only because load_base_model sets it."""
    model, tokenizer = load(kind)
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="batch sizes > 1"):
        logits_of(model, tokenizer, TEXTS)


def test_pad_equal_to_eos_scores_a_batch_correctly(load, make_checkpoint, tokenizer_of):
    roles = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
    folder = make_checkpoint("gpt2", tokenizer=tokenizer_of(("<|endoftext|>",), **roles))
    model, tokenizer = load("gpt2", folder=folder)
    assert model.config.pad_token_id == tokenizer.eos_token_id == 0
    alone = torch.cat([logits_of(model, tokenizer, [text]) for text in TEXTS])
    torch.testing.assert_close(logits_of(model, tokenizer, TEXTS), alone, atol=1e-5, rtol=1e-5)


def test_causal_lm(load):
    model, tokenizer = load("llama", num_labels=None)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id == 3
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_three_labels_saved_and_reloaded(load, make_checkpoint, tmp_path, caplog, kind):
    model, tokenizer = load(kind)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    with caplog.at_level(logging.INFO, logger="utils"):
        again, _ = load(kind, folder=tmp_path / "saved", seed=7)
    assert again.config.num_labels == 3
    assert again.config.id2label == {0: "name0", 1: "name1", 2: "name2"}
    assert again.config.label2id == {"name0": 0, "name1": 1, "name2": 2}
    assert torch.equal(logits_of(again, tokenizer, TEXTS), logits_of(model, tokenizer, TEXTS))
    assert "New in the model" not in caplog.text, "a trained head must not be called new"
    assert "trained for the labels" not in caplog.text


def test_regression_head(make_checkpoint):
    section = ModelSection(name_or_path=str(make_checkpoint("bert")))
    tokenizer = load_tokenizer(section)
    model = load_base_model(section, tokenizer, HeadSpec(1, (), "regression"), seed=1)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    out = model(**tokenizer(["w1 w2"], return_tensors="pt"), labels=torch.tensor([2.0]))
    torch.testing.assert_close(out.loss, (out.logits[0, 0] - 2.0) ** 2)


class TestLabelsOfAFineTunedCheckpoint:
    NAMES = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")

    @pytest.fixture
    def section(self, make_checkpoint, tmp_path):
        base = ModelSection(name_or_path=str(make_checkpoint("bert")))
        tokenizer = load_tokenizer(base)
        model = load_base_model(base, tokenizer, HeadSpec(3, self.NAMES, "single_label_classification"), 0)
        model.save_pretrained(tmp_path / "tuned")
        tokenizer.save_pretrained(tmp_path / "tuned")
        return ModelSection(name_or_path=str(tmp_path / "tuned"))

    def load(self, section, names):
        head = HeadSpec(len(names), names, "single_label_classification")
        return load_base_model(section, load_tokenizer(section), head, seed=5)

    def test_the_checkpoints_label_order_is_used(self, section):
        data = ("entailment", "neutral", "contradiction")
        assert read_label_order(section, data) == ("contradiction", "neutral", "entailment")
        assert read_label_order(section, ("no", "maybe", "yes")) == ("no", "maybe", "yes")
        assert read_label_order(section, ("entailment", "neutral")) == ("entailment", "neutral")
        assert read_label_order(section, ()) == ()

    def test_a_head_without_label_names_gives_no_order(self, config_of):
        config = config_of("bert", num_labels=2)
        assert label_order(config, ("LABEL_1", "LABEL_0")) == ("LABEL_1", "LABEL_0")

    def test_matching_label_names_give_no_warning(self, section, caplog):
        with caplog.at_level(logging.INFO, logger="utils"):
            model = self.load(section, ("contradiction", "neutral", "entailment"))
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
        assert model.config.id2label[0] == "contradiction"

    def test_different_label_names_keep_the_head_with_a_warning(self, section, caplog):
        with caplog.at_level(logging.WARNING):
            model = self.load(section, ("no", "maybe", "yes"))
        assert "CONTRADICTION, NEUTRAL, ENTAILMENT; it is kept and now means no, maybe, yes" in caplog.text
        kept = self.load(section, ("contradiction", "neutral", "entailment"))
        assert torch.equal(model.classifier.weight, kept.classifier.weight)

    def test_another_number_of_labels_makes_a_new_head_with_a_warning(self, section, caplog):
        with caplog.at_level(logging.INFO, logger="utils"):
            model = self.load(section, ("no", "yes"))
        assert model.classifier.weight.shape == (2, 32)
        assert "does not fit 2 labels and is replaced" in caplog.text
        assert "New in the model, drawn from seed 5: classifier" in caplog.text
        assert "pooler" not in caplog.text, "the fine-tuned pooler fits and must be kept"


def test_new_modules_are_reported_in_one_line(load, caplog):
    with caplog.at_level(logging.INFO, logger="utils"):
        load("bert", seed=42)
    lines = [record.getMessage() for record in caplog.records if "New in the model" in record.getMessage()]
    assert lines == ["New in the model, drawn from seed 42: bert.pooler.dense, classifier"]


@pytest.mark.parametrize(("kind", "labels"), [("bert", None), ("distilbert", None)])
def test_an_encoder_cannot_be_a_language_model(load, kind, labels):
    with pytest.raises(ModelError, match=r"MaskedLM.*generates no text.*CAUSAL_LM"):
        load(kind, num_labels=labels)


def test_an_architecture_without_classifier(tmp_path, tokenizer_of):
    from transformers import MambaConfig

    MambaConfig(vocab_size=44, hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    section = ModelSection(name_or_path=str(tmp_path))
    with pytest.raises(ModelError, match=r"\(mamba\) has no classification head.*SEQ_CLS"):
        load_base_model(section, load_tokenizer(section), HeadSpec(2, ("a", "b"), "single_label_classification"))


@pytest.mark.parametrize("num_labels", [None, 3])
def test_missing_layers_are_refused(make_checkpoint, load, num_labels):
    folder = make_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"model\.layers\.2\.\S+ is missing \(and 8 more\)"):
        load("llama", num_labels=num_labels, folder=folder)


def test_unused_weights_are_warned_about(make_checkpoint, load, caplog):
    folder = make_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    load("llama", num_labels=None, folder=folder)
    assert "have no place" not in caplog.text
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "architectures": 5}))
    with caplog.at_level(logging.WARNING):
        load("llama", num_labels=None, folder=folder)
    assert "9 of its tensors, such as model.layers.1." in caplog.text
    assert "have no place in LlamaForCausalLM and are not used" in caplog.text
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": -1}))
    with pytest.raises(ModelError, match="counts -1 layers, which no model has"):
        load("llama", folder=folder)


def test_weights_of_another_shape_are_refused(make_checkpoint, load):
    folder = make_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ModelError, match=r"has shape \(32, 64\) instead of \(32, 48\)"):
        load("llama", folder=folder)


def test_a_language_model_without_output_layer_is_refused(make_checkpoint, load, tmp_path):
    model, tokenizer = load("llama")  # a classifier: its lm_head is gone
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"lm_head\.weight is missing"):
        load("llama", num_labels=None, folder=tmp_path / "saved")


@pytest.mark.parametrize(("asked", "used"), [("bfloat16", torch.bfloat16), ("auto", torch.float16)])
def test_dtype(make_checkpoint, load, asked, used):
    folder = make_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    model, _ = load("llama", folder=folder, dtype=asked)
    assert {parameter.dtype for parameter in model.parameters()} == {used}


def test_sdpa_falls_back_to_eager_with_a_warning(load, caplog):
    with caplog.at_level(logging.WARNING):
        assert load("deberta")[0].config._attn_implementation == "eager"
    assert "DebertaV2ForSequenceClassification has no sdpa attention" in caplog.text
    assert load("llama")[0].config._attn_implementation == "sdpa"
    assert load("llama", attn_implementation="eager")[0].config._attn_implementation == "eager"


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the behaviour without a GPU")
def test_flash_attention_without_gpu(load):
    with pytest.raises(ModelError, match="needs a CUDA GPU"):
        load("llama", attn_implementation="flash_attention_2")
    if not torch.accelerator.is_available():
        with pytest.raises(ModelError, match="flex_attention is compiled for a GPU and there is none; use sdpa"):
            load("llama", attn_implementation="flex_attention")


def test_remote_code_is_reported(load, caplog):
    with caplog.at_level(logging.INFO, logger="utils"):
        model, _ = load("llama", trust_remote_code=True)
    assert "trust_remote_code has no effect" in caplog.text
    assert resolved_commit(model) is None


@pytest.mark.parametrize("content", ['{"eos_token_id": ', "[]", '{"eos_token_id": "x"}', '{"eos_token_id": [1, -2]}'])
def test_a_damaged_generation_config_is_refused(load, make_checkpoint, content):
    folder = make_checkpoint("llama")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError):
        load("llama", num_labels=None, folder=folder)
