"""Command-line options shared by all comparisons of training speed."""

from __future__ import annotations

import argparse


def make_parser(description: str | None, steps: int = 12, batch: int = 8) -> argparse.ArgumentParser:
    """Return a parser for a file of rows, a tokenizer, and the numbers of steps and of rows per batch."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="jsonl or JSON file, with the columns shown above")
    parser.add_argument("--tokenizer", required=True, help="a folder or hub name")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    return parser
