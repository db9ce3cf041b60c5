"""Convert a merged model to GGUF, or quantize its weights; read the result back and measure its loss."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.config.installed import is_installed
from utils.config.sections.model import ModelSection
from utils.core.errors import CheckError, UserError
from utils.merging.gguf_facts import GgufModel, find_arch, require_gguf
from utils.merging.gguf_file import read_gguf, write_gguf
from utils.merging.gguf_tokenizer import GgufVocabulary, cut_by_scores, map_vocabulary
from utils.merging.modelfile import write_modelfile
from utils.merging.output import require_space
from utils.merging.source import release_memory
from utils.merging.weights import place
from utils.modeling.source import load_config
from utils.modeling.verify import prove_compressed
from utils.runs.model_card import Conversion
from utils.runs.model_ref import TrainedModel
from utils.tasks.probe import Answers, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NUM_CHARACTERS = 400  # of a text: joining pieces by scores is quadratic in its length


def require_possible(
    source: TrainedModel, tokenizer: PreTrainedTokenizerBase, gguf_type: str | None, quantize: str | None
) -> None:
    """Check, before weights are read, that a model can be written in the requested format.

    Raises:
        UserError: It is a classifier, a package is missing, or llama.cpp does not support this model.
    """
    if quantize is not None and not is_installed("bitsandbytes"):
        raise UserError(
            "--quantize needs the package bitsandbytes, which is not installed; run pip install bitsandbytes"
        )
    if gguf_type is None:
        return
    require_gguf()
    if source.head is not None:
        raise UserError(f"{source.name}: is a classifier, and --format gguf is for language models only")
    name, config = source.config.model.name_or_path, load_config(source.config.model)
    find_arch(config, name)
    map_vocabulary(tokenizer, max(config.vocab_size, len(tokenizer)), name)


def make_gguf(
    folder: Path, stem: str, source: TrainedModel, tokenizer: PreTrainedTokenizerBase, probe: Probe, kind: str
) -> tuple[Answers, dict[str, Any]]:
    """Write a merged model's GGUF and Modelfile, compute answers by the file, and remove the other files.

    Returns the answers, and facts for the report.

    Raises:
        ModelError: The model has a part that a GGUF cannot represent.
        CheckError: llama.cpp would tokenize the probe rows differently.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    vocabulary = map_vocabulary(tokenizer, config.vocab_size, source.name)
    model = GgufModel(find_arch(config, source.name), config, vocabulary, source.config.task_name)
    if vocabulary.scores is not None:
        _check_tokens(tokenizer, probe, vocabulary)
    file = folder / f"{stem}-{kind}.gguf"
    before = _measure(folder, "*.safetensors")
    require_space(folder, before)
    try:
        others = write_gguf(file, model, folder, kind)
        (folder / "Modelfile").write_text(write_modelfile(file.name, source.config, tokenizer), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error}") from None
    answers = probe.answer(place(read_gguf(file, model)))
    for each in folder.iterdir():
        if each not in (file, folder / "Modelfile"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    return answers, {"format": "gguf", "type": kind, "file": file.name, "architecture": model.arch,
                     "pre_tokenizer": vocabulary.pre, "stored_as_f16": others,
                     "size_before": before, "size_bytes": file.stat().st_size}  # fmt: skip


def pack(
    folder: Path, source: TrainedModel, tokenizer: PreTrainedTokenizerBase, probe: Probe, kind: str, shard: str
) -> tuple[Answers, dict[str, Any]]:
    """Quantize a merged model's weights to transformers' bitsandbytes format, and compute answers by the files.

    Raises:
        ModelError: bitsandbytes is not installed, or cannot quantize the model here.
        CheckError: The written model is incomplete.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from utils.modeling.base_model import load_base_model

    before, packed = _measure(folder, "*.safetensors"), folder / "packed"
    section = ModelSection.model_validate({"name_or_path": str(folder), "quantization": kind, "dtype": "auto"})
    require_space(folder, before)
    model: Any = load_base_model(section, tokenizer, source.head)
    model.save_pretrained(packed, max_shard_size=shard)
    del model
    release_memory()
    for each in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
        each.unlink()
    for each in packed.iterdir():
        each.replace(folder / each.name)
    packed.rmdir()
    auto = AutoModelForCausalLM if source.head is None else AutoModelForSequenceClassification
    read, info = auto.from_pretrained(folder, output_loading_info=True, use_safetensors=True, trust_remote_code=False)
    for problem in ("missing_keys", "mismatched_keys"):
        if info[problem]:
            raise CheckError(f"the packed model is incomplete: {problem.replace('_', ' ')} {sorted(info[problem])[:3]}")
    after = _measure(folder, "*.safetensors")
    return probe.answer(read), {"format": "bitsandbytes", "type": kind, "size_before": before, "size_bytes": after}


def describe_cost(trained: Answers, answers: Answers, facts: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Compare the converted with the trained model, whose weights are `dtype`: `made` in the report.

    Raises:
        CheckError: The difference is more than the number of bits explains.
    """
    return {
        **facts,
        "probe": prove_compressed(trained.logits, answers.logits, facts["type"], dtype),
        "score": answers.score,
    }


def describe_conversion(report: Mapping[str, Any], merged: Conversion) -> Conversion:
    """Describe the conversion of the merged model for the model card."""
    made, probe = report["made"], report["made"]["probe"]
    way = f"as GGUF in {made['type']}" if made["format"] == "gguf" else f"packed in {made['type']} by bitsandbytes"
    facts = {
        **merged.facts,
        "written": way,
        "size": f"{made['size_bytes'] / 2**20:,.1f} MiB; {made['size_before'] / 2**20:,.1f} MiB before",
        f"largest difference of a logit in {made['type']}": f"{probe['largest_difference']:.2g}",
        f"same top-1 answer in {made['type']}": None
        if probe["top1_agreement"] is None
        else f"{probe['top1_agreement']:.1%}",
    }
    kind: Literal["gguf", "whole"] = "gguf" if made["format"] == "gguf" else "whole"
    return Conversion(
        kind, f"in {made['type']}", ", ".join(filter(None, (merged.way, f"written {way}"))), facts, made.get("file", "")
    )


def _check_tokens(tokenizer: PreTrainedTokenizerBase, probe: Probe, vocabulary: GgufVocabulary) -> None:
    """Check that joining SentencePiece's pieces by score gives the same tokens as the tokenizer's merges."""
    special, added = set(tokenizer.all_special_ids), tokenizer.get_added_vocab()
    for ids in probe.encode(tokenizer):
        # unlike transformers, SentencePiece and llama.cpp put a second space before a text that begins with one
        text = tokenizer.decode([each for each in ids if each not in special]).lstrip()[:_NUM_CHARACTERS]
        if any(token in text for token in added):
            continue
        if cut_by_scores(vocabulary, text) != tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise CheckError(f"llama.cpp would tokenize {text[:60]!r} differently; nothing was kept")


def _measure(folder: Path, pattern: str) -> int:
    return sum(each.stat().st_size for each in folder.glob(pattern))
