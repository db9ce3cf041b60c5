"""Write an Ollama Modelfile: the GGUF file, the chat template in Ollama's syntax, and the stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.config.sections.generation import GenerationSection
from utils.core.texts import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig


@dataclass(frozen=True)
class _Format:
    """A conversation format, as a chat template writes it and in Ollama's syntax."""

    write: Callable[[Sequence[tuple[str, str]]], str]
    """Writes turns of (role, text), and the start of the answer, without the BOS token."""
    template: str
    stop: tuple[str, ...]


def _write_turns(opening: str, closing: str, answer: str = "assistant") -> Callable[[Sequence[tuple[str, str]]], str]:
    """Return a function that writes each turn as role, text and closing."""

    def write(turns: Sequence[tuple[str, str]]) -> str:
        named = [(answer if role == "assistant" else role, text) for role, text in turns]
        return "".join(opening.format(role) + text + closing for role, text in named) + opening.format(answer)

    return write


def _write_instructions(turns: Sequence[tuple[str, str]]) -> str:
    """Write turns in Mistral's format."""
    return "".join(f"[INST] {text} [/INST]" if role == "user" else f" {text}</s>" for role, text in turns)


def _template(opening: str, closing: str) -> str:
    turns = [("System", "system"), ("Prompt", "user")]
    written = "".join(f"{{{{ if .{key} }}}}{opening.format(role)}{{{{ .{key} }}}}{closing}{{{{ end }}}}"
                      for key, role in turns)  # fmt: skip
    return f"{written}{opening.format('assistant')}{{{{ .Response }}}}{closing}"


_CHATML = "<|im_start|>{}\n", "<|im_end|>\n"
_LLAMA3 = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
_FORMATS = {
    "chatml": _Format(_write_turns(*_CHATML), _template(*_CHATML), ("<|im_start|>", "<|im_end|>")),
    "llama3": _Format(_write_turns(*_LLAMA3), _template(*_LLAMA3), ("<|start_header_id|>", "<|eot_id|>")),
    "gemma": _Format(
        _write_turns("<start_of_turn>{}\n", "<end_of_turn>\n", "model"),
        "<start_of_turn>user\n{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}<end_of_turn>\n"
        "<start_of_turn>model\n{{ .Response }}<end_of_turn>\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "mistral": _Format(
        _write_instructions,
        "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }} [/INST] {{ .Response }}</s>",
        ("[INST]", "[/INST]"),
    ),
}  # fmt: skip
_SYSTEM = "Count well."
_TURNS = (("user", "How many?"), ("assistant", "Seven."), ("user", "And then?"))


def write_modelfile(file: str, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """Write the Modelfile for a GGUF file in the same folder."""
    lines = [f"FROM ./{file}"]
    stop: list[str] = []
    if tokenizer.chat_template is None:
        lines.append(f'TEMPLATE """{_read_prompt(config)}"""')
    elif (found := find_format(tokenizer)) is None:
        lines += [
            "# The chat template is not one that is known here in Ollama's syntax (" + ", ".join(_FORMATS) + "):",
            "# Ollama uses the one in the file if it knows it; else write it here with TEMPLATE.",
        ]
    else:
        name, system = found
        lines.append(f'TEMPLATE """{_FORMATS[name].template}"""')
        lines += [f'SYSTEM """{system}"""'] if system else []
        stop += _FORMATS[name].stop
    generation = config.find_section(GenerationSection)
    if generation is not None:
        stop += generation.stop or []
        lines.append(f"PARAMETER temperature {generation.temperature:g}")
        lines.append(f"PARAMETER num_predict {generation.max_new_tokens}")
    lines += [f'PARAMETER stop "{_escape(each)}"' for each in dict.fromkeys(stop)]
    return "\n".join(lines) + "\n"


def _read_prompt(config: RunConfig) -> str:
    """Return the run's own prompt, or its dataset's, if it has one column, else the bare request."""
    written = getattr(config.dataset, "prompt_template", None) or getattr(config.dataset, "OWN_PROMPT", None)
    template = PromptTemplate.parse(written if isinstance(written, str) else "{prompt}")
    if len(template.columns) != 1:
        return "{{ .Prompt }}"
    return "".join(text + ("" if column is None else "{{ .Prompt }}") for text, column in template.parts)


def find_format(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None] | None:
    """Find the format of a chat template, by applying it to conversations, and its own system prompt.

    None: unknown. Qwen's templates add their own system prompt to a conversation without one.
    """
    plain, asked = _write_by(tokenizer, _TURNS), _write_by(tokenizer, (("system", _SYSTEM), *_TURNS))
    for name, each in _FORMATS.items():
        if plain == each.write(_TURNS):
            return name, None
        expected = each.write((("system", _SYSTEM), *_TURNS))
        before, _, after = expected.partition(_SYSTEM)
        if plain is not None and asked == expected and plain.startswith(before) and plain.endswith(after):
            return name, plain.removeprefix(before).removesuffix(after)
    return None


def _write_by(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]]) -> str | None:
    from jinja2 import TemplateError

    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        written = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        return None
    return written.removeprefix(str(tokenizer.bos_token or ""))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
