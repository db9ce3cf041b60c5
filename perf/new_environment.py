"""Measure an installation without a clone: the wheel, a new environment, and each command in an empty folder.

Libraries are downloaded, or taken from pip's cache. `--constraints constraints.txt` installs the tested versions;
without an NVIDIA GPU `--pip_args` selects torch's CPU build (INSTALL.md). Prints one line per step.

  python perf/new_environment.py --constraints constraints.txt
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    "lora-ns version",
    "lora-ns copy quickstart",
    "lora-ns validate quickstart.yaml",
    "lora-ns train quickstart.yaml",
    'lora-ns infer --run outputs/quickstart --input_text "The dog sleeps."',
    "lora-ns merge --run outputs/quickstart --output merged",
    'lora-ns infer --run merged --input_text "The dog sleeps."',
    "lora-ns push outputs/quickstart me/quickstart --dry-run",
)


def main() -> None:
    """Build, install and run; a failing step ends the measurement with its output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraints", metavar="FILE", help="versions to install")
    parser.add_argument("--pip_args", default="", metavar="ARGS", help="additional arguments for pip install")
    options = parser.parse_args()
    more = shlex.split(options.pip_args)
    more += ["-c", str(Path(options.constraints).resolve())] if options.constraints else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [str(folder / "env" / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
        _time("python -m venv env", [sys.executable, "-m", "venv", str(folder / "env")], folder)
        _time("pip wheel --no-deps CLONE", [*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], folder)
        (wheel,) = folder.glob("*.whl")
        _time(f"pip install {wheel.name}", [*pip, "install", *more, str(wheel)], folder)
        place = folder / "empty"
        place.mkdir()
        for step in STEPS:
            _time(step, [str(folder / "env" / "bin" / "lora-ns"), *shlex.split(step)[1:]], place)


def _time(shown: str, words: list[str], folder: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - started:7.1f} s  {shown}", flush=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
