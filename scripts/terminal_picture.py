"""Draw the quickstart's final terminal output from a real run: docs/pictures/quickstart.svg.

python scripts/terminal_picture.py
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "quickstart.svg"
COMMAND = "python train.py --config configs/quickstart.yaml --show 1"
WIDTH = 104


def main() -> None:
    """Run the quickstart in a temporary folder, and draw the end of its terminal output."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, *COMMAND.split()[1:], f"training.output_dir={folder}/outputs/quickstart"]
        environment = {**os.environ, "COLUMNS": str(WIDTH)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        shown = done.stderr.replace(f"{folder}/", "").replace(sys.executable, "python")
    shown = re.split(r"^(?=step \d+/\d+  evaluation)", shown, flags=re.MULTILINE)[-1]
    lines = [re.sub(r"\.venv/bin/", "", line) for line in shown.splitlines() if "tensorboard" not in line]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi("\n".join([f"$ {COMMAND}", "...", *lines])))
    svg = re.sub(r"\s*@font-face \{.*?\}", "", console.export_svg(title="lora-ns"), flags=re.DOTALL)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
