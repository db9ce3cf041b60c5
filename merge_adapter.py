"""Merge a trained adapter into its base, or convert it into LoRA, and verify the result."""

from __future__ import annotations

import argparse
import re
import sys

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import build_parser, positive
from utils.core.errors import UserError
from utils.modeling.consent import Consent, add_consent

DESCRIPTION = """Merge a trained adapter into its base, and verify that the result is the trained model.

  python merge_adapter.py --run outputs/gsm8k --output merged/gsm8k
  python merge_adapter.py --run outputs/gsm8k/checkpoint-500 --output merged/gsm8k_500 --dtype float16
  python merge_adapter.py --config configs/gsm8k.yaml --adapter_path my_adapter --output_path merged/mine
  python merge_adapter.py --run outputs/lokr --output loras/lokr --as_lora 32
  python merge_adapter.py --run outputs/gsm8k --output gguf/gsm8k --format gguf --gguf_type q8_0
  python merge_adapter.py --run merged/gsm8k --output packed/gsm8k --quantize nf4

The base is loaded unquantized. The merged model is read back by plain transformers, and its logits are compared with
those of the adapter on its base; merge_report.json has the figures. A merge that fails leaves nothing behind.

--as_lora writes a LoRA of that rank instead of a model, by peft's conversion, for servers that load no other adapters.
What the rank loses is measured in the weights and in the logits: lora_report.json.

--format gguf writes a file for llama.cpp, with an Ollama Modelfile; --quantize quantizes the weights with bitsandbytes.
The result is read back and its size, logits and score are compared with the merged model's. Both also take a merged
model, or a run that trained the whole model."""


def main(arguments: argparse.Namespace) -> Answer:
    """Open the adapter, merge or convert it, and show the verification."""
    _check_options(arguments)
    from utils.merging.merging import MergeOptions, merge_adapter, show_report
    from utils.merging.source import open_adapter_folder, open_adapter_run

    consent, as_lora = Consent.of_command(arguments), arguments.as_lora is not None
    if arguments.run:
        may_be_whole = arguments.format == "gguf" or arguments.quantize is not None
        source = open_adapter_run(arguments.run, consent, as_lora, may_be_whole)
    else:
        source = open_adapter_folder(arguments.config, arguments.adapter_path, consent, as_lora)
    gguf_type = (arguments.gguf_type or "f16") if arguments.format == "gguf" else None
    options = MergeOptions(
        arguments.dtype, arguments.max_shard_size, arguments.overwrite, arguments.eval_rows, gguf_type,
        arguments.quantize,
    )  # fmt: skip
    if as_lora:
        from utils.merging.as_lora import convert_adapter, show_conversion

        report = convert_adapter(source, arguments.output, arguments.as_lora, options)
        show_conversion(report)
        return report
    report = merge_adapter(source, arguments.output, options)
    show_report(report)
    return report


def _check_options(arguments: argparse.Namespace) -> None:
    pair = bool(arguments.config), bool(arguments.adapter_path)
    if bool(arguments.run) == any(pair) or (any(pair) and not all(pair)):
        raise UserError("give either --run (a trained run), or --config and --adapter_path (an adapter made elsewhere)")
    if arguments.gguf_type is not None and arguments.format != "gguf":
        raise UserError("--gguf_type is for --format gguf; give that too")
    named = {
        "--as_lora": arguments.as_lora,
        "--format gguf": arguments.format == "gguf",
        "--quantize": arguments.quantize,
    }
    if len(several := [name for name, value in named.items() if value]) > 1:
        raise UserError(f"{' and '.join(several)} make different things; give one of them")


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("merge_adapter.py", DESCRIPTION)
    parser.add_argument(
        "--run", metavar="FOLDER", help="a run folder, its final_model/, a checkpoint; hub:OWNER/NAME[@REVISION]"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of an adapter made elsewhere")
    parser.add_argument("--adapter_path", metavar="FOLDER", help="that adapter, in peft's layout")
    parser.add_argument(
        "--output", "--output_path", required=True, metavar="FOLDER", help="where the merged model goes"
    )
    parser.add_argument(
        "--as_lora",
        type=positive,
        metavar="RANK",
        help="write the LoRA of this rank nearest to the adapter instead of a model",
    )
    parser.add_argument(
        "--format",
        default="safetensors",
        choices=["safetensors", "gguf"],
        help="gguf: one file for llama.cpp and Ollama",
    )
    parser.add_argument("--gguf_type", choices=["f16", "bf16", "f32", "q8_0"], help="dtype of weights; default: f16")
    parser.add_argument("--quantize", choices=["nf4", "int8"], help="quantize the merged weights with bitsandbytes")
    add_consent(parser)
    parser.add_argument("--overwrite", action="store_true", help="rename an output folder that is not empty")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "bfloat16", "float16", "float32"],
        help="auto: the dtype the run's base is stored in, bfloat16 for a run on a quantized base",
    )
    parser.add_argument(
        "--max_shard_size", default="5GB", type=_size, metavar="SIZE", help="at most this much per file; default: 5GB"
    )
    parser.add_argument(
        "--eval_rows",
        default=256,
        type=_count,
        metavar="N",
        help="maximum validation rows to score a classifier on; 0: no score; default: 256",
    )
    return parser


def _size(word: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[KMG]i?B", word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a size such as 5GB or 200MB")
    return word


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of 0 or more")
    return int(word)


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
