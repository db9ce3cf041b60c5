"""The quickstart as a few lines of Python: check a configuration, train it, read the record, use the model.

python examples/quick_start.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "outputs" / "quickstart"


def main() -> None:
    """Run the commands one after the other, as a shell would."""
    _run("validate_config.py", "configs/quickstart.yaml")
    _run("train.py", "--config", "configs/quickstart.yaml")
    record = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    best, params = record["best_metric"], record["params"]
    print(f"{best['name']}: {best['value']:.3f} with {params['trainable_percent']:.2f} % of the parameters trained")
    _run("inference.py", "--run", str(RUN), "--input_text", "The dog sleeps.", "--input_text", "The dog sleep.")


def _run(script: str, *words: str) -> None:
    subprocess.run([sys.executable, script, *words], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
