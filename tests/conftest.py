"""Tiny random base models with tiny tokenizers, made once per session, and small datasets."""

from __future__ import annotations

import gc
import json
import logging
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Read on import of the libraries, so set before any test module is imported.
_CACHE = tempfile.TemporaryDirectory(prefix="lora_ns_tests_")
os.environ["LORA_NS_CACHE"] = _CACHE.name
os.environ["HF_DATASETS_CACHE"] = f"{_CACHE.name}/datasets"
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny matrices: a second thread costs more than it gains

Rows = list[dict[str, Any]]

FAMILIES = ("llama", "qwen2", "gpt2", "bert", "roberta", "distilbert", "albert", "deberta_v2", "modernbert")
DECODERS = ("llama", "qwen2", "gpt2")
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("good", "bad", "film", "the", "a", "is", "was", "not", *(f"w{index}" for index in range(52)))
POSITIONS = 64

_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}


def build_tokenizer(family: str) -> Any:
    """Build a family's word tokenizer: [CLS] .. [SEP] for encoders, <s> for Llama, bytes for qwen2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inputs = ["input_ids", "attention_mask"]
    if family == "qwen2":
        alphabet = ("<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()))
        tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        roles = dict.fromkeys(("eos_token", "pad_token"), "<|endoftext|>")
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **roles)
    ids = {token: index for index, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if family in DECODERS:
        bos = "<s> " if family == "llama" else ""
        single, pair = f"{bos}$A", f"{bos}$A $B"
    else:
        single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
        roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "<pad>"}
    special = [(token, ids[token]) for token in ("<s>", "[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    if family in ("bert", "albert", "deberta_v2"):
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **roles)


def build_config(family: str, vocab_size: int, hidden_size: int = 32) -> Any:
    """Build the config of a two-layer model of a family, without dropout."""
    import transformers as hf

    shape = {**_SHAPE, "hidden_size": hidden_size, "intermediate_size": 2 * hidden_size, "vocab_size": vocab_size}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    if family == "gpt2":
        sizes = {"n_embd": hidden_size, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
        no_drop = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return hf.GPT2Config(vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, **sizes, **no_drop)
    if family == "distilbert":
        sizes = {"dim": hidden_size, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
        no_drop = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
        return hf.DistilBertConfig(
            vocab_size=vocab_size, max_position_embeddings=POSITIONS, pad_token_id=3, **sizes, **no_drop
        )
    if family in ("llama", "qwen2"):
        kind = hf.LlamaConfig if family == "llama" else hf.Qwen2Config
        return kind(num_key_value_heads=1, **shape)
    if family == "modernbert":
        no_drop = {"attention_dropout": 0.0, "embedding_dropout": 0.0, "mlp_dropout": 0.0, "classifier_dropout": 0.0}
        return hf.ModernBertConfig(pad_token_id=3, cls_token_id=4, sep_token_id=5, **shape, **no_drop)
    if family == "albert":
        return hf.AlbertConfig(embedding_size=16, pad_token_id=3, classifier_dropout_prob=0.0, **shape, **quiet)
    if family == "roberta":
        shape["max_position_embeddings"] = POSITIONS + 4  # positions start after the pad id
        return hf.RobertaConfig(pad_token_id=3, **shape, **quiet)
    kind = {"bert": hf.BertConfig, "deberta_v2": hf.DebertaV2Config}[family]
    extra = {"pooler_dropout": 0.0, "cls_dropout": 0.0} if family == "deberta_v2" else {}
    return kind(pad_token_id=3, **shape, **quiet, **extra)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Exclude the million objects made by imports and test modules from garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _keep_environment() -> Iterator[None]:
    """Restore environment variables after each test, so that later tests' processes do not inherit them."""
    from utils.core.secrets import forget_secrets

    before = dict(os.environ)
    forget_secrets()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a family's random base model and tokenizer once and returns their folder."""
    made: dict[tuple[str, int], Path] = {}

    def make(family: str, hidden_size: int = 32) -> Path:
        if (family, hidden_size) in made:
            return made[family, hidden_size]
        import torch
        from transformers import AutoModel

        tokenizer = build_tokenizer(family)
        torch.manual_seed(7)
        model = AutoModel.from_config(build_config(family, len(tokenizer), hidden_size))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.15)  # large enough that a wrong row or position shows in the logits
        folder = tmp_path_factory.mktemp("base") / f"{family}-{hidden_size}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[family, hidden_size] = folder
        return folder

    return make


def _draw_rows(number: int, seed: int = 0, pair: bool = False) -> Rows:
    """Return distinct rows of 1 to 20 words, labelled by whether they contain `good` (1) or `bad` (0)."""
    import random

    draw = random.Random(seed)
    rows: Rows = []
    for index in range(number):
        words = [draw.choice(WORDS[2:]) for _ in range(draw.randint(0, 19))]
        words.insert(draw.randint(0, len(words)), WORDS[1 - index % 2])
        words.append(f"w{draw.randrange(52)}")
        row: dict[str, Any] = {"text": " ".join(words), "label": index % 2}
        if pair:
            row = {"text": row["text"], "other": " ".join(words[:3]), "label": row["label"]}
        rows.append(row)
    return rows


def _write_jsonl(path: Path, rows: Rows) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def draw_rows() -> Callable[..., Rows]:
    """Return `_draw_rows`."""
    return _draw_rows


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Return `make_set(train=rows, validation=rows)`, which writes a folder of splits."""

    def make(folder: str = "data", **splits: Rows) -> Path:
        for split, rows in splits.items():
            _write_jsonl(tmp_path / folder / f"{split}.jsonl", rows)
        return tmp_path / folder

    return make


@pytest.fixture(scope="session")
def load_tokenizer_of(tiny_base: Callable[..., Path]) -> Callable[[str], Any]:
    """Return a function that loads a family's tokenizer as a run does."""

    def load(family: str) -> Any:
        from utils.config.sections.model import ModelSection
        from utils.modeling.tokenizer import load_tokenizer

        return load_tokenizer(ModelSection(name_or_path=str(tiny_base(family))))

    return load


@pytest.fixture
def make_config(tmp_path: Path, tiny_base: Callable[..., Path], make_set: Callable[..., Path]) -> Callable[..., Any]:
    """Return a function that writes and reads a run's YAML file: small, on the CPU, without dropout.

    Its arguments are dotted overrides with `__` for the dot: `make_config("bert", training__max_steps=2)`.
    """

    def make(family: str = "bert", data: Path | None = None, **overrides: Any) -> Any:
        from utils.run_config import load_run_config

        return load_run_config(write_config(family, data, **overrides))

    def write_config(family: str = "bert", data: Path | None = None, **overrides: Any) -> Path:
        import yaml

        data = data or make_set("default_data", train=_draw_rows(40), validation=_draw_rows(17, seed=1))
        settings: dict[str, Any] = {
            "task_name": "tiny",
            "task_type": "SEQ_CLS",
            "model": {"name_or_path": str(tiny_base(family))},
            "peft": {"method": "lora", "lora_r": 4, "lora_alpha": 8},
            "dataset": {"name": "custom", "path": str(data), "max_length": 32},
            "training": {
                "output_dir": str(tmp_path / "run"),
                "num_train_epochs": 1,
                "per_device_train_batch_size": 8,
                "learning_rate": 1e-2,
                "use_cpu": True,
            },
        }
        for key, value in overrides.items():
            *path, last = key.split("__")
            section = settings
            for name in path:
                section = section.setdefault(name, {})
            section[last] = value
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return file

    make.write = write_config
    return make


@pytest.fixture
def prepare_run(make_config: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that prepares a run as train.py does, up to and including the trainer."""
    from types import SimpleNamespace

    def prepare(family: str = "bert", data: Path | None = None, config: Any = None, **overrides: Any) -> Any:
        from transformers import set_seed

        from utils.modeling.base_model import load_base_model
        from utils.modeling.tokenizer import load_tokenizer
        from utils.tasks.preparing import attach_adapter
        from utils.tasks.task import open_task
        from utils.trainer.progress import MeasuringCallback

        config = config or make_config(family, data, **overrides)
        set_seed(config.seed)
        tokenizer = load_tokenizer(config.model)
        task = open_task(config)
        prepared = task.prepare_data(tokenizer)
        model = load_base_model(config.model, tokenizer, task.describe_head(prepared), config.seed)
        model = attach_adapter(model, config, tokenizer, prepared)
        trainer = task.build_trainer(model, tokenizer, prepared)
        trainer.add_callback(measuring := MeasuringCallback(0.0))
        return SimpleNamespace(
            config=config,
            task=task,
            tokenizer=tokenizer,
            data=prepared,
            model=model,
            trainer=trainer,
            measuring=measuring,
        )

    return prepare


@pytest.fixture
def make_sft(make_config: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that writes and reads a small fine-tuning run of the embedded base on the embedded sums.

    Its arguments are dotted overrides with `__` for the dot. Nothing is generated unless evaluation is given.
    """
    quickstart = Path(__file__).parents[1] / "examples" / "quickstart"

    def make(**overrides: Any) -> Any:
        settings: dict[str, Any] = {
            "task_type": "CAUSAL_LM",
            "model": {"name_or_path": str(quickstart / "base"), "dtype": "float32"},
            "peft": {"method": "lora", "lora_r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
            "dataset": {
                "name": "gsm8k",
                "path": str(quickstart / "arithmetic"),
                "validation_size": 40,
                "max_train_samples": 48,
            },
            "training__learning_rate": 3e-3,
            "training__logging_steps": 1,
            "training__save_strategy": "no",
            "sft": {"max_length": 128},
            "evaluation": {"at_end": False},
        }
        return make_config("llama", Path(), **{**settings, **overrides})

    return make


@pytest.fixture(autouse=True)
def _forget_added_folders() -> Iterator[None]:
    """Unregister plugins that a test loaded from its own folder."""
    yield
    from utils.core import registry

    for folder in [*registry._added]:
        registry.remove_folder(folder)


@pytest.fixture(autouse=True)
def _record_our_logs() -> Iterator[None]:
    """Let caplog record `utils` even after a command was run in this process."""
    ours = logging.getLogger("utils")
    state = (ours.handlers[:], ours.propagate, ours.level)
    ours.propagate = True
    yield
    ours.handlers, ours.propagate = state[0], state[1]
    ours.setLevel(state[2])
