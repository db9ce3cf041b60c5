"""Merges a trained adapter into its base, or converts it into LoRA; either is proved."""

from __future__ import annotations

import argparse
import re
import sys

from utils.cli.command_line import Answer, build_parser, positive, run_cli
from utils.core.errors import UserError
from utils.modeling.consent import Consent, add_consent

DESCRIPTION = """Merge a trained adapter into its base, and prove that the result is the trained model.

  python merge_adapter.py --run outputs/gsm8k --output merged/gsm8k
  python merge_adapter.py --run outputs/gsm8k/checkpoint-500 --output merged/gsm8k_500 --dtype float16
  python merge_adapter.py --config configs/gsm8k.yaml --adapter_path my_adapter --output_path merged/mine
  python merge_adapter.py --run outputs/lokr --output loras/lokr --as_lora 32
  python merge_adapter.py --run outputs/gsm8k --output gguf/gsm8k --format gguf --gguf_type q8_0
  python merge_adapter.py --run merged/gsm8k --output packed/gsm8k --quantize nf4

The base is loaded unquantized. What is written is read back by plain transformers, and its logits are compared with
those of the adapter on its base: merge_report.json holds the figures. A merge that fails leaves nothing.

--as_lora writes no model but a LoRA of that rank, by peft's conversion, for servers that load no other adapters. What
the rank loses is measured in the weights and in the logits: lora_report.json.

--format gguf writes a file for llama.cpp, with an Ollama Modelfile; --quantize packs the weights by bitsandbytes. What
was written is read back, and its size, logits and score stand beside the merged model's. Either takes a merged model
too, and a run that trained the whole model."""


def main(arguments: argparse.Namespace) -> Answer:
    """Open the adapter, merge it, and show the proof."""
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
    parser.add_argument("--config", metavar="FILE", help="YAML file of an adapter that was made elsewhere")
    parser.add_argument("--adapter_path", metavar="FOLDER", help="that adapter, in peft's layout")
    parser.add_argument(
        "--output", "--output_path", required=True, metavar="FOLDER", help="where the merged model goes"
    )
    parser.add_argument(
        "--as_lora",
        type=positive,
        metavar="RANK",
        help="write a LoRA of this rank, the nearest to the adapter, instead",
    )
    parser.add_argument(
        "--format",
        default="safetensors",
        choices=["safetensors", "gguf"],
        help="gguf: one file for llama.cpp and Ollama",
    )
    parser.add_argument("--gguf_type", choices=["f16", "bf16", "f32", "q8_0"], help="of its weights; default: f16")
    parser.add_argument("--quantize", choices=["nf4", "int8"], help="pack the merged model's weights by bitsandbytes")
    add_consent(parser)
    parser.add_argument("--overwrite", action="store_true", help="rename an output folder that is not empty")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "bfloat16", "float16", "float32"],
        help="auto: what the run's base is stored in, bfloat16 for a run on a quantized base",
    )
    parser.add_argument(
        "--max_shard_size", default="5GB", type=_size, metavar="SIZE", help="of one file of weights; default: 5GB"
    )
    parser.add_argument(
        "--eval_rows",
        default=256,
        type=_count,
        metavar="N",
        help="validation rows that a classifier is scored on, at most; 0: no score; default: 256",
    )
    return parser


def _size(word: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[KMG]i?B", word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a size such as 5GB or 200MB")
    return word


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 0")
    return int(word)


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
