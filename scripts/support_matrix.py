"""Try every method on every family, with and without quantization, and write docs/support_matrix.md.

Each cell is attached, trained, exported, and reloaded in a new process; crashes are printed with their traceback.

  make matrix                                                             all of it
  python scripts/support_matrix.py --family llama,bert --rows lora,qst    a part; printed, without changing the docs
  python scripts/support_matrix.py --json matrix.json                     with every cell's result
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.matrix.families import TITLES
from scripts.matrix.rows import QUANTIZATIONS, list_rows
from scripts.matrix.running import run_half, run_matrix
from scripts.matrix.tables import render_document, write_json
from scripts.matrix.trial import Result

DOCUMENT = ROOT / "docs" / "support_matrix.md"


def main() -> int:
    """Try the cells, print crashes, and write the document; return 1 if a cell crashed."""
    options = _parse()
    wanted = options.rows.split(",") if options.rows else None
    rows = [row for row in list_rows() if wanted is None or row.title in wanted]
    families = options.family.split(",") if options.family else list(TITLES)
    quantizations = options.quantization.split(",") if options.quantization else list(QUANTIZATIONS)
    if options.half:
        run_half(options.half, rows, families[0], quantizations[0], Path(options.folder))
        return 0
    started = time.monotonic()
    results: list[Result] = []
    units = [(family, quantization) for family in families for quantization in quantizations]
    run_matrix(rows, units, options.jobs, results.append)
    crashes = [each for each in results if each.status == "crash"]
    if options.json:
        Path(options.json).write_text(write_json(results), encoding="utf-8")
    text = render_document(results)
    if wanted is None and not options.family and not options.quantization:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(text)
    print(f"{len(results)} cells, {len(crashes)} crashes, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 1 if crashes else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="support_matrix.py", description="Write docs/support_matrix.md.")
    parser.add_argument("--family", help=f"comma-separated families of {','.join(TITLES)}")
    parser.add_argument("--quantization", help=f"comma-separated, of {','.join(QUANTIZATIONS)}")
    parser.add_argument("--rows", help="comma-separated titles of rows")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time (2)")
    parser.add_argument("--json", metavar="FILE", help="write every cell's result to a file")
    parser.add_argument("--half", choices=("train", "reload"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
