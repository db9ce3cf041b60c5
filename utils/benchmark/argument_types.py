"""Reads the words of benchmark.py's command line; argparse says what is wrong with one."""

from __future__ import annotations

import argparse


def read_names(text: str) -> tuple[str, ...]:
    """Read names that are parted by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_seeds(text: str) -> tuple[int, ...]:
    """Read seeds that are parted by commas."""
    found = read_names(text)
    if not found or not all(word.isdecimal() for word in found) or len({*map(int, found)}) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different whole numbers, such as 1,2,3")
    return tuple(map(int, found))


def read_number(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(value) if value.is_integer() else value


def read_shard(text: str) -> tuple[int, int]:
    """Read which part of how many."""
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/4, 2/4, 3/4 or 4/4")
    return int(part), int(of)
