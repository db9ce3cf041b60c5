"""GGUF files of every family: read back, and run by llama.cpp where LORA_NS_LLAMA_CPP names a Python that has it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import ModelError
from utils.merging.gguf_facts import GgufModel, find_arch
from utils.merging.gguf_file import read_gguf, write_gguf
from utils.merging.gguf_tokenizer import cut_by_scores, map_vocabulary
from utils.merging.modelfile import _FORMATS as FORMATS
from utils.merging.modelfile import find_format, write_modelfile

gguf = pytest.importorskip("gguf")
BASE = Path(__file__).parents[3] / "examples/quickstart/base"
TEXTS = ["Tom has 4 apples and buys 31 more. How many?", "It isn't so,  is it:\n 12,345 birds!", "h\u00e9 \u4e2d\u6587"]
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 768, "max_position_embeddings": 256, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
HEADS = {"head_dim": 32, "query_pre_attn_scalar": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False, "attention_bias": True}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 32}),
    "llama linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama yarn": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "gemma": ("Gemma", {"head_dim": 32}),
    "gemma2": ("Gemma2", {**HEADS, "num_hidden_layers": 4, "sliding_window": 8}),
    "gemma3": ("Gemma3", {**HEADS, "num_hidden_layers": 7, "sliding_window": 8}),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Any:
    """Return a function that saves a small random model of a family, and returns it with its folder."""
    import torch
    import transformers

    def make(family: str, **changes: Any) -> tuple[Any, Path]:
        kind, settings = FAMILIES[family]
        text = "TextConfig" if kind == "Gemma3" else "Config"
        torch.manual_seed(1)
        config = getattr(transformers, f"{kind}{text}")(**{**SMALL, **settings, **changes})
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with torch.no_grad():
            for name, each in model.named_parameters():
                each.normal_(0.1, 0.3) if "norm" in name or each.dim() == 1 else each.normal_(0, 0.15)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return model, folder

    return make


def describe(model: Any, tokenizer: Any) -> GgufModel:
    return GgufModel(find_arch(model.config, "it"), model.config, map_vocabulary(tokenizer, 768, "it"), "it")


def ask(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def ask_llama_cpp(file: Path, folder: Path) -> list[dict[str, Any]]:
    """Tokenize the texts and compute the logits with llama.cpp."""
    program = (
        "import json, sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], n_ctx=256, logits_all=True, verbose=False, n_threads=1)\n"
        "answers = []\n"
        "for text in json.loads(sys.argv[2]):\n"
        "    ids = model.tokenize(text.encode(), add_bos=True, special=True)\n"
        "    model.reset(); model.eval(ids)\n"
        "    answers.append({'ids': ids, 'logits': model.scores[: len(ids)].tolist()})\n"
        "json.dump(answers, open(sys.argv[3], 'w'))\n"
    )
    words = [os.environ["LORA_NS_LLAMA_CPP"], "-c", program, str(file), json.dumps(TEXTS), str(folder / "answers.json")]
    subprocess.run(words, check=True, capture_output=True, timeout=250)
    answers: list[dict[str, Any]] = json.loads((folder / "answers.json").read_text())
    return answers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_reads_back_as_the_model(family, build, tokenizer, tmp_path):
    model, folder = build(family)
    described = describe(model, tokenizer)
    assert write_gguf(tmp_path / "f32.gguf", described, folder, "f32") == []
    assert (
        ask(read_gguf(tmp_path / "f32.gguf", described), [1, 5, 9, 40]) - ask(model, [1, 5, 9, 40])
    ).abs().max() < 1e-4
    assert not write_gguf(tmp_path / "q8.gguf", described, folder, "q8_0")
    kinds = {each.name: each.tensor_type.name for each in gguf.GGUFReader(tmp_path / "q8.gguf").tensors}
    assert {kinds["token_embd.weight"], kinds["blk.0.attn_q.weight"]} == {"Q8_0"}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}


def test_rows_unfit_for_quantization_blocks_are_float16_and_reported(build, tokenizer, tmp_path):
    model, folder = build("llama", intermediate_size=80)
    described = describe(model, tokenizer)
    others = write_gguf(tmp_path / "it.gguf", described, folder, "q8_0")
    assert others == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert (ask(read_gguf(tmp_path / "it.gguf", described), [1, 5, 9]) - ask(model, [1, 5, 9])).abs().max() < 0.5


def test_a_dropped_sliding_window_is_reported(build, caplog):
    find_arch(build("mistral", sliding_window=128)[0].config, "it")
    assert "it: its sliding window of 128 tokens is ignored, as by llama.cpp's converter" in caplog.text


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_transformers_reads_the_file(family, build, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    model, folder = build(family, **{"llama": {"attention_bias": False}, "qwen3": {"head_dim": 128}}.get(family, {}))
    write_gguf(tmp_path / "it.gguf", describe(model, tokenizer), folder, "f32")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="it.gguf")
    expected = model.state_dict()
    for name, tensor in read.state_dict().items():
        assert (tensor - expected[name]).abs().max() < 1e-5, name


@pytest.mark.slow
@pytest.mark.skipif("LORA_NS_LLAMA_CPP" not in os.environ, reason="LORA_NS_LLAMA_CPP names no Python with llama_cpp")
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_the_same(family, build, tokenizer, tmp_path):
    model, folder = build(family)
    described = describe(model, tokenizer)
    # llama.cpp keeps keys and values in float16, and reads Gemma's activation from a table of float16
    for kind, tolerated in {"f32": 5e-3, "f16": 2e-2, "q8_0": 1e-1}.items():
        write_gguf(tmp_path / f"{kind}.gguf", described, folder, kind)
        for text, answer in zip(TEXTS, ask_llama_cpp(tmp_path / f"{kind}.gguf", tmp_path), strict=True):
            assert answer["ids"] == tokenizer(text)["input_ids"], kind
            expected = ask(model, answer["ids"])
            difference = (expected - expected.new_tensor(answer["logits"])).abs().max()
            assert difference < tolerated * expected.abs().max(), (kind, float(difference))


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu, which a GGUF of LlamaForCausalLM cannot represent"),
        ("llama", {"rope_parameters": {**LLAMA3, "rope_type": "dynamic"}}, "stretched by dynamic"),
        ("qwen3", {"attention_bias": True}, "its attention has biases"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "its attention is scaled by 16, not by 32"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "is not the family's pattern of 6"),
    ],
)  # fmt: skip
def test_models_llama_cpp_would_compute_differently_are_refused(family, changes, sentence, build):
    model, _ = build(family, **changes)
    with pytest.raises(ModelError, match=sentence):
        find_arch(model.config, "it")


def test_weights_beyond_the_range_of_float16_are_refused(build, tokenizer, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model, folder = build("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"blk.0.ffn_up.weight holds weights that float16 cannot; write it as bf16"):
        write_gguf(tmp_path / "it.gguf", describe(model, tokenizer), folder, "f16")
    config = AutoModelForCausalLM.from_pretrained(folder).config
    config.architectures = ["GPT2LMHeadModel"]
    with pytest.raises(ModelError, match="GPT2LMHeadModel cannot be written as GGUF; supported families: Llama, Mis"):
        find_arch(config, "it")


def test_the_vocabulary_equals_the_tokenizers(tokenizer):
    vocabulary = map_vocabulary(tokenizer, 770, "it")
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", "smollm")
    assert vocabulary.tokens[:3] == ["<pad>", "<bos>", "<eos>"]
    assert (vocabulary.types[:3], vocabulary.types[768:]) == ([3, 3, 3], [5, 5])
    assert vocabulary.special == {"bos": 1, "eos": 2, "pad": 0}
    assert vocabulary.adds == {"bos": True, "eos": False}
    assert len(vocabulary.merges) == 509
    with pytest.raises(ModelError, match="has a token 767, but the model has embeddings for 700"):
        map_vocabulary(tokenizer, 700, "it")


def test_merges_keep_their_order(spaced_bpe):
    vocabulary = map_vocabulary(spaced_bpe, len(spaced_bpe), "it")
    assert (vocabulary.model, vocabulary.pre, vocabulary.add_space_prefix) == ("llama", "default", True)
    for text in ("low lower lowest", "slow  flow", "\u00e9 low", "wol"):
        assert cut_by_scores(vocabulary, text) == spaced_bpe(text, add_special_tokens=False)["input_ids"], text


@pytest.fixture
def spaced_bpe() -> Any:
    """Build a tokenizer like Llama 2's: spaces are tokens, unknown characters become bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    merges = [("l", "o"), ("lo", "w"), ("\u2581", "low"), ("e", "r"), ("e", "s"), ("es", "t"), ("low", "er")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"lowerstf\u2581",
              *("".join(each) for each in merges)]  # fmt: skip
    kind = models.BPE({each: id_ for id_, each in enumerate(dict.fromkeys(pieces))}, merges, byte_fallback=True,
                      unk_token="<unk>", fuse_unk=True)  # fmt: skip
    built = Tokenizer(kind)
    built.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    built.decoder = decoders.Replace("\u2581", " ")
    return PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_tokenizers_unknown_to_llama_cpp_are_refused(load_tokenizer_of, text_tokenizer, spaced_bpe):
    lacking = copy.deepcopy(spaced_bpe)
    content = json.loads(spaced_bpe.backend_tokenizer.to_str())
    content["model"]["vocab"]["<0xg>"] = content["model"]["vocab"].pop("<0x41>")
    lacking._tokenizer = type(spaced_bpe.backend_tokenizer).from_str(json.dumps(content))
    with pytest.raises(ModelError, match="lacks pieces for some bytes, without which llama"):
        map_vocabulary(lacking, 400, "it")
    with pytest.raises(ModelError, match="its tokenizer is a WordLevel; a GGUF of these models holds BPE alone"):
        map_vocabulary(load_tokenizer_of("llama"), 400, "it")
    with pytest.raises(ModelError, match="by rules that llama"):
        map_vocabulary(text_tokenizer("chatml"), 400, "it")


@pytest.mark.parametrize(
    ("template", "format_", "stop"),
    [
        (None, None, None),
        ("chatml", "chatml", "<|im_end|>"),
        ("phi3", None, None),
    ],
)
def test_the_modelfile_has_the_chat_template(template, format_, stop, text_tokenizer, make_sft):
    tokenizer = text_tokenizer(template)
    written = write_modelfile("it.gguf", make_sft(), tokenizer)
    assert written.startswith("FROM ./it.gguf\n")
    assert "PARAMETER temperature 0\n" in written
    if template is None:
        assert 'TEMPLATE """Question: {{ .Prompt }}\nAnswer:"""' in written, "the dataset's own prompt"
        return
    assert find_format(tokenizer) == (format_ and (format_, None))
    assert ("# The chat template is not one that is known here" in written) == (format_ is None)
    if stop is not None:
        assert f'PARAMETER stop "{stop}"' in written
        assert "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n{{ .Response }}" in written


def test_doubled_braces_in_a_prompt_are_literal_for_ollama(text_tokenizer, make_sft):
    config = make_sft()
    dataset = config.dataset.model_copy(update={"prompt_template": 'Fill {{"a": 1}}: {question}\nAgain {question}:'})
    written = write_modelfile("it.gguf", replace(config, dataset=dataset), text_tokenizer(None))
    assert 'TEMPLATE """Fill {"a": 1}: {{ .Prompt }}\nAgain {{ .Prompt }}:"""' in written


LLAMA3_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content + '<end_of_turn>\n' }}"
    "{% endfor %}{{ '<start_of_turn>model\n' }}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN_CHAT = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def test_common_chat_templates_are_recognised_by_their_output(text_tokenizer, make_sft):
    tokenizer, config = text_tokenizer(None), make_sft()
    templates = {"llama3": LLAMA3_CHAT, "gemma": GEMMA_CHAT, "mistral": MISTRAL_CHAT}
    for name, template in templates.items():
        tokenizer.chat_template = template
        assert find_format(tokenizer) == (name, None)
    tokenizer.chat_template = QWEN_CHAT
    assert find_format(tokenizer) == ("chatml", "Be kind.")
    assert 'SYSTEM """Be kind."""' in write_modelfile("it.gguf", config, tokenizer)


def test_a_tokenizer_with_another_word_lookup_is_refused(tokenizer):
    other = copy.deepcopy(tokenizer)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    other._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    with pytest.raises(ModelError, match=r"looks up whole words differently from llama\.cpp's smollm"):
        map_vocabulary(other, 768, "it")


GO = """package main
import ("encoding/json"; "os"; "text/template")
func main() {
    var asked []map[string]string
    json.NewDecoder(os.Stdin).Decode(&asked)
    for _, each := range asked {
        template.Must(template.New("").Parse(each["template"])).Execute(os.Stdout, map[string]any{
            "System": each["system"], "Prompt": "How many?", "Response": "Seven."})
        os.Stdout.Write([]byte{0})
    }
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="Go, whose text/template Ollama uses, is not installed")
def test_go_templates_render_like_the_chat_template(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO)
    asked = [(each, system) for each in FORMATS.values() for system in ("", "Count well.")]
    rows = json.dumps([{"template": each.template, "system": system} for each, system in asked])
    done = subprocess.run(["go", "run", tmp_path / "main.go"], input=rows, capture_output=True, text=True, check=True)
    written = done.stdout.split("\0")[:-1]
    assert len(written) == len(asked) == 8
    for (each, system), shown in zip(asked, written, strict=True):
        has_role = "<|" in each.template  # Gemma and Mistral put the system text before the first question
        turns = [("system", system), ("user", "How many?")] if has_role and system else [("user", "How many?")]
        if system and not has_role:
            turns = [("user", f"{system}\n\nHow many?")]
        asking = each.write(turns)
        assert shown.startswith(asking), (asking, shown)
        assert shown.removeprefix(asking).strip().startswith("Seven.")
